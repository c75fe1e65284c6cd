"""Orientations: rotations, with the wanted direction along the beam."""

import numpy as np
import pytest
import spglib
from materials import (
    gallium_arsenide,
    gold,
    lithium_manganate,
    silicon,
    strontium_titanate,
)

from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.orientations import (
    from_direction,
    laue_operations,
    low_index_zones,
    random_orientation,
    spread_directions,
    tilted,
    zone_axis,
)


def assert_rotation(matrix: np.ndarray) -> None:
    assert matrix.T @ matrix == pytest.approx(np.eye(3), abs=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1.0)


@pytest.mark.parametrize("uvw", [(0, 0, 1), (1, 1, 0), (1, 2, -3), (-1, 0, 0)])
@pytest.mark.parametrize("in_plane", [0.0, 0.7])
def test_a_zone_axis_lies_along_the_beam(uvw: tuple[int, int, int], in_plane: float) -> None:
    crystal = lithium_manganate()
    orientation = zone_axis(crystal, uvw, in_plane)
    assert_rotation(orientation)
    laboratory = np.array(uvw) @ crystal.lattice.numpy() @ orientation
    assert laboratory[:2] == pytest.approx([0, 0], abs=1e-9) and laboratory[2] > 0
    # The reflections of the zone, h u + k v + l w = 0, lie in the detector plane.
    hkl = np.array([h for h in np.ndindex(5, 5, 5) if np.dot(np.array(h) - 2, uvw) == 0]) - 2
    assert (hkl @ crystal.reciprocal.numpy() @ orientation)[:, 2] == pytest.approx(0, abs=1e-9)


def test_in_plane_turns_the_axes_from_rows_towards_columns() -> None:
    start, turned = from_direction((0, 0, 1)), from_direction((0, 0, 1), np.pi / 2)
    assert turned[:, 0] == pytest.approx(start[:, 1])
    assert turned[:, 1] == pytest.approx(-start[:, 0])


@pytest.mark.parametrize("direction", [(0, 0, 0), (1, 0), (np.nan, 0, 0)])
def test_no_direction_is_refused(direction: tuple) -> None:
    with pytest.raises(ValueError, match="a direction is three numbers"):
        from_direction(direction)


def test_low_index_zones_are_primitive_and_hold_one_sign() -> None:
    zones = low_index_zones(silicon(), max_index=2)
    assert len({tuple(zone) for zone in zones} & {tuple(-zone) for zone in zones}) == 0
    assert all(np.gcd.reduce(zone) == 1 for zone in zones)
    assert len(zones) == (5**3 - 1 - 26) / 2  # 26 of the 124 are twice a shorter one
    assert np.abs(zones[0]).sum() == 1


def test_random_orientations_are_seeded_uniform_rotations() -> None:
    rng = np.random.default_rng(3)
    matrices = np.array([random_orientation(rng) for _ in range(400)])
    for matrix in matrices[:5]:
        assert_rotation(matrix)
    again = random_orientation(np.random.default_rng(3))
    assert again == pytest.approx(matrices[0])
    # E[R] = 0 and E[R_ij^2] = 1/3, with standard errors of 0.03 and 0.015.
    assert np.abs(matrices.mean(0)).max() < 0.12
    assert np.abs((matrices**2).mean(0) - 1 / 3).max() < 0.06


def test_a_tilt_turns_the_beam_by_its_angle_about_the_axis_named() -> None:
    start = random_orientation(np.random.default_rng(0))
    turned = tilted(start, 20.0, azimuth=0.4)
    assert_rotation(turned)
    assert start[:, 2] @ turned[:, 2] == pytest.approx(np.cos(0.02))
    axis = start @ [np.cos(0.4), np.sin(0.4), 0.0]
    assert turned @ [np.cos(0.4), np.sin(0.4), 0.0] == pytest.approx(axis)


def _triclinic() -> Crystal:
    lattice = [[4.0, 0, 0], [0.7, 5.0, 0], [1.1, 0.4, 6.0]]
    return Crystal(lattice, [29, 8], [[0, 0, 0], [0.41, 0.33, 0.27]])


def _zinc_oxide() -> Crystal:
    a, c = 3.250, 5.207
    lattice = [[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, c]]
    zinc = np.array([[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5]])
    return Crystal(lattice, [30, 30, 8, 8], np.concatenate([zinc, zinc + [0, 0, 0.382]]))


def _laue_order(crystal: Crystal) -> int:
    """By spglib: rotations of the point group, with the inversion added."""
    cell = (crystal.lattice.numpy(), crystal.positions.numpy(), crystal.numbers.numpy())
    rotations = {tuple(r.ravel()) for r in spglib.get_symmetry(cell, symprec=0.01)["rotations"]}
    return len(rotations | {tuple(-x for x in r) for r in rotations})


CRYSTALS = [
    silicon, gold, gallium_arsenide, strontium_titanate, lithium_manganate, _zinc_oxide, _triclinic
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of spglib's old error handling
@pytest.mark.parametrize("make", CRYSTALS)
def test_the_laue_group_is_spglibs(make) -> None:
    crystal = make()
    operations = laue_operations(crystal)
    assert len(operations) == _laue_order(crystal)
    identity = np.broadcast_to(np.eye(3), operations.shape)
    np.testing.assert_allclose(operations @ operations.swapaxes(1, 2), identity, atol=1e-9)


@pytest.mark.parametrize("make", CRYSTALS)
def test_directions_are_spread_over_one_sector(make) -> None:
    operations = laue_operations(make())
    directions = spread_directions(operations, 40, np.random.default_rng(0))
    assert 30 <= len(directions) <= 50
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0)
    images = directions @ operations  # (operations, directions, 3)
    # No hole is larger than a sector's tip can be, where all images keep off the same axis.
    sphere = np.random.default_rng(1).normal(size=(500, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    nearest = (images.reshape(-1, 3) @ sphere.T).max(0)
    spacing = np.sqrt(4 * np.pi / (40 * len(operations)))
    assert np.arccos(nearest.clip(-1, 1)).max() < 2.5 * spacing
    # Each counts once: hardly any is near to an image of another one.
    cosine = np.einsum("oik,jk->oij", images, directions).max(0)
    np.fill_diagonal(cosine, -1.0)
    assert (np.arccos(cosine.max(1).clip(-1, 1)) < 0.3 * spacing).mean() < 0.2


def test_one_direction_is_a_direction() -> None:
    operations = laue_operations(gold())
    for seed in range(5):
        assert len(spread_directions(operations, 1, np.random.default_rng(seed))) >= 1


def test_both_hands_are_drawn() -> None:
    operations = laue_operations(gallium_arsenide())
    directions = spread_directions(operations, 60, np.random.default_rng(0))
    for axis in range(3):
        assert 0.2 < (directions[:, axis] > 0).mean() < 0.8


@pytest.mark.parametrize("a", [3.0, 4.0, 5 * 3**0.5])
def test_a_reflection_on_the_limit_breaks_no_symmetry(a: float) -> None:
    turned = random_orientation(np.random.default_rng(4))
    crystal = Crystal(a * np.eye(3) @ turned, [29], [[0, 0, 0]])
    assert len(laue_operations(crystal)) == 48
