"""The projected potential: a sum over atoms, from the origin with the most symmetry."""

import numpy as np
import pytest
from materials import FCC, gallium_arsenide, gold, silicon, strontium_titanate

from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.electrons import POTENTIAL_VOLT_ANGSTROM2
from py4dstem_ml.physics.projection import projected_potential


def _summed(crystal, origin, pixels):
    """Of py4DSTEM's scattering factors, atom by atom and reflection by reflection."""
    utils = pytest.importorskip("py4DSTEM.process.utils")
    factor = utils.single_atom_scatter()
    lattice = crystal.lattice.numpy()
    x = np.arange(pixels) / pixels
    place = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1) + origin
    highest = pixels // 2 - 1
    total = np.zeros((pixels, pixels))
    indices = [
        (h, k) for h in range(-highest, highest + 1) for k in range(-highest, highest + 1)
        if 0 < h * h + k * k <= highest**2
    ]  # fmt: skip
    g = np.linalg.norm(indices @ crystal.reciprocal.numpy()[:2], axis=1)
    for z, position, b in zip(
        crystal.numbers.tolist(), crystal.positions.numpy(), crystal.b_iso.tolist(), strict=True
    ):
        factor.get_scattering_factor([z], [1.0], g, units="A")
        weights = factor.fe * np.exp(-0.25 * b * g**2)
        for hk, weight in zip(indices, weights, strict=True):
            total += weight * np.cos(2 * np.pi * (place - position[:2]) @ hk)
    area = np.linalg.norm(np.cross(lattice[0], lattice[1]))
    return POTENTIAL_VOLT_ANGSTROM2 / area * total


@pytest.mark.parametrize(
    "crystal",
    [
        silicon(), gallium_arsenide(b_iso=0.2),
        Crystal(np.diag([3.0, 4.5, 6.0]), [29, 8], [[0.1, 0.2, 0.7], [0.45, 0.6, 0.3]]),
    ],
)  # fmt: skip
def test_it_is_the_sum_over_all_atoms(crystal):
    found = projected_potential(crystal, 16)
    expected = _summed(crystal, found.origin, 16)
    np.testing.assert_allclose(found.potential, expected, atol=2e-3 * np.ptp(expected))


def test_its_mean_is_left_out_and_it_does_not_depend_on_the_height_of_atoms():
    positions = np.array([[0, 0, 0], [0.25, 0.5, 0.1]])
    one, other = (
        projected_potential(Crystal.cubic(4.0, [14, 8], positions + [0, 0, z]), 16).potential
        for z in (0.0, 0.37)
    )
    assert abs(one.mean()) < 1e-9 * np.ptp(one)
    np.testing.assert_allclose(one, other, atol=1e-9 * np.ptp(one))


def test_twice_the_cell_is_twice_the_potential():
    positions = np.concatenate([FCC / [1, 1, 2], FCC / [1, 1, 2] + [0, 0, 0.5]])
    tall = Crystal(np.diag([4.078, 4.078, 8.156]), [79] * 8, positions)
    one, two = (projected_potential(crystal, 32).potential for crystal in (gold(), tall))
    np.testing.assert_allclose(two, 2 * one, atol=1e-9 * np.ptp(two))


@pytest.mark.parametrize("crystal", [silicon(), gold(), strontium_titanate(), gallium_arsenide()])
@pytest.mark.parametrize("shift", [(0.25, 0.5, 0.1), (0.125, 0.8125, 0.0)])
def test_the_crystals_own_origin_does_not_count(crystal, shift):
    moved = Crystal(crystal.lattice, crystal.numbers, crystal.positions + np.array([shift]))
    one, other = (projected_potential(each, 32) for each in (crystal, moved))
    assert (one.origin != other.origin).any()
    np.testing.assert_allclose(one.potential, other.potential, atol=1e-6 * np.ptp(one.potential))


@pytest.mark.parametrize("crystal", [silicon(), gold(), strontium_titanate(), gallium_arsenide()])
def test_the_origin_has_all_symmetry_of_the_square(crystal):
    potential = projected_potential(crystal, 32).potential
    flipped = -np.arange(32) % 32
    for other in (potential.T, potential[flipped], potential[:, flipped]):
        np.testing.assert_allclose(potential, other, atol=1e-6 * np.ptp(potential))


def test_of_points_alike_in_symmetry_the_one_of_highest_potential_is_the_origin():
    crystal = strontium_titanate()
    moved = Crystal(crystal.lattice, crystal.numbers, crystal.positions + 0.5)
    for each, strontium in ((crystal, 0.0), (moved, 0.5)):
        found = projected_potential(each, 32)
        # The column of strontium, above that of titanium and oxygen.
        np.testing.assert_allclose(found.origin, strontium)
        assert found.potential.argmax() == 0


def test_symmetry_goes_before_potential():
    positions = [[0.125, 0.25, 0], [0.625, 0.25, 0], [0.125, 0.75, 0]]
    crystal = Crystal.cubic(4.0, [3, 79, 79], positions)
    found = projected_potential(crystal, 32)
    np.testing.assert_allclose(found.origin, [0.125, 0.25])
    assert found.potential[0, 0] < 0.5 * found.potential.max()


def test_a_runs_down_the_rows():
    crystal = Crystal(np.diag([4.0, 5.0, 6.0]), [79, 6], [[0, 0, 0], [0.25, 0, 0]])
    found = projected_potential(crystal, 32)
    without = projected_potential(Crystal(np.diag([4.0, 5.0, 6.0]), [79], [[0, 0, 0]]), 32)
    seen = np.roll(found.potential, np.rint(found.origin * 32).astype(int), (0, 1))
    place = np.unravel_index((seen - without.potential).argmax(), (32, 32))
    assert place == (8, 0)


def test_slanting_axes_and_too_few_pixels_are_refused():
    lattice = [[4.0, 0, 0], [0, 4.0, 0], [0.5, 0, 4.0]]
    with pytest.raises(ValueError, match="must be normal to a and b"):
        projected_potential(Crystal(lattice, [79], [[0, 0, 0]]))
    with pytest.raises(ValueError, match="8 pixels a side at least, not 7"):
        projected_potential(gold(), 7)
