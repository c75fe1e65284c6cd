"""Bright fields with gradients: against the exact engine, and against their own slopes."""

import numpy as np
import pytest
import torch
from tiny_lacbed import CSCL, FCC

from py4dstem_ml.lacbed import bright_field
from py4dstem_ml.lacbed.bragg_lines import unfolded
from py4dstem_ml.lacbed.bright_field import (
    FINE,
    QUICK,
    BrightField,
    _AbsorbingPropagator,
    _exponentials,
    _Propagator,
    coefficients_of,
    equal_their_transpose,
    uncoupled_sets,
)
from py4dstem_ml.lacbed.natural import (
    depth,
    natural_potential,
    optical_potential,
    strength_per_volt,
)
from py4dstem_ml.lacbed.scores import likeness
from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.lacbed import lacbed
from py4dstem_ml.physics.projection import projected_potential

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

ENERGY = 200e3
THICKNESSES = [200.0, 500.0]
TAU = torch.tensor([0.7, 0.2], dtype=torch.float64)
#: By the number of sets of beams that no coefficient joins.
CRYSTALS = {
    4: Crystal.cubic(4.05, [13] * 4, FCC),
    2: Crystal.cubic(4.29, [11] * 2, CSCL),
    1: Crystal.cubic(3.8, [3, 13], CSCL),
}
#: The same of projections that are not their transpose.
OBLONG = {
    4: Crystal.cubic(5.4, [13] * 4 + [3] * 4, FCC + [[x + 0.25, y, z + 0.25] for x, y, z in FCC]),
    2: Crystal.cubic(4.8, [11] * 2 + [3] * 4, [
        *CSCL, [0.25, 0, 0.5], [0.75, 0, 0.5], [0.25, 0.5, 0], [0.75, 0.5, 0],
    ]),
    1: Crystal.cubic(3.8, [3, 13], [[0, 0, 0], [0.5, 0, 0.5]]),
}  # fmt: skip


#: The same of elements that absorb.
HEAVY = {
    4: Crystal.cubic(4.09, [47] * 4, FCC),
    2: Crystal.cubic(3.15, [42] * 2, CSCL),
    1: Crystal.cubic(2.89, [28, 13], CSCL),
}


def _coefficients(crystal, pixels=32):
    potential = projected_potential(crystal, pixels).potential
    scale = strength_per_volt(float(crystal.lattice[0, 0]), ENERGY)
    return torch.from_numpy(np.fft.fft2(scale * potential, norm="forward").real)


@pytest.mark.parametrize("reach", [QUICK, FINE], ids=["quick", "fine"])
@pytest.mark.parametrize("crystals", [CRYSTALS, OBLONG], ids=["square", "oblong"])
@pytest.mark.parametrize("sets", CRYSTALS)
def test_bright_fields_of_light_crystals_are_the_exact_engines(sets, crystals, reach):
    crystal = crystals[sets]
    a = float(crystal.lattice[0, 0])
    coefficients = _coefficients(crystal)
    assert uncoupled_sets(coefficients) == sets
    assert equal_their_transpose(coefficients) == (crystals is CRYSTALS)
    tau = torch.tensor([depth(a, t, ENERGY) for t in THICKNESSES])
    found = unfolded(BrightField(16, 2.0, reach, 32)(coefficients, tau))
    expected = lacbed(
        crystal, (0, 0, 1), ENERGY, THICKNESSES, half_width=2 / a, pixels=16, absorption=False,
        dtype=torch.float64,
    ).images[:, 0]  # fmt: skip
    assert expected.std((1, 2)).min() > 0.03
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert (likeness(found.float(), expected) > 0.9995).all()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize("absorption", [False, True])
def test_crystals_of_a_batch_are_computed_as_alone(monkeypatch, absorption, device):
    monkeypatch.setattr(bright_field, "_AT_ONCE", 2)
    crystals = [*CRYSTALS.values(), *OBLONG.values(), CRYSTALS[4]]
    make = optical_potential if absorption else natural_potential
    u = torch.stack([make(crystal, 32, ENERGY) for crystal in crystals])
    engine = BrightField(16, 2.0, REACH, 32)
    tau = torch.rand(len(u), 2, generator=torch.Generator().manual_seed(7))
    alone = [engine(coefficients_of(one), depths) for one, depths in zip(u, tau, strict=True)]
    found = engine(coefficients_of(u.to(device)), tau).cpu()
    torch.testing.assert_close(
        found, torch.stack(alone), atol=1e-5 if device == "cpu" else 3e-3, rtol=0
    )
    assert found.std((0, 1)).min() > 1e-3


@pytest.mark.parametrize("sets", CRYSTALS)
def test_coefficients_are_about_a_centre_of_inversion_wherever_it_lies(sets):
    u = projected_potential(CRYSTALS[sets], 32).potential
    engine, tau = BrightField(8, 2.0, {1: 5, 2: 6, 4: 8}, 32), torch.tensor([0.2])
    expected = engine(torch.from_numpy(np.fft.fft2(0.1 * u, norm="forward").real), tau)
    for shift in ((0, 0), (3, 0), (7, 20)):
        moved = torch.from_numpy(0.1 * np.roll(u, shift, (0, 1)))
        found = engine(coefficients_of(moved), tau)
        torch.testing.assert_close(found, expected.float(), atol=1e-3, rtol=0)
    assert expected.std() > 0.01


#: Waves that there are of each direction, of the set of beams that has the fewest.
REACH, ALL_WAVES = {1: 5, 2: 6, 4: 8}, {1: 11**2, 2: 13**2 // 2, 4: 8**2}
DEPTHS = torch.tensor([0.2, 0.45, 0.7, 1.9], dtype=torch.float64)


@pytest.mark.parametrize("crystals", [CRYSTALS, OBLONG], ids=["square", "oblong"])
@pytest.mark.parametrize("sets", CRYSTALS)
def test_all_bloch_waves_make_the_picture_at_any_depth(sets, crystals):
    coefficients = _coefficients(crystals[sets])
    engine = BrightField(16, 2.0, REACH, 32)
    expected = engine(coefficients, DEPTHS).flatten(1)
    places = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    levels, shares, dampings = engine.bloch_waves(coefficients, places, ALL_WAVES[sets])
    assert not dampings.any()
    waves = (shares * torch.exp(1j * torch.pi * DEPTHS[:, None, None] * levels)).sum(-1)
    assert expected.std(1).min() > 0.01
    np.testing.assert_allclose(waves.abs().square(), expected[:, places], atol=1e-5)
    np.testing.assert_allclose(shares.sum(1), 1.0, atol=1e-5)


@pytest.mark.parametrize("sets", CRYSTALS)
def test_few_bloch_waves_are_those_with_the_greatest_shares(sets):
    coefficients, places = _coefficients(CRYSTALS[sets]), torch.tensor([0, 9, 37, 63])
    engine = BrightField(16, 2.0, REACH, 32)
    every, few = (engine.bloch_waves(coefficients, places, n) for n in (ALL_WAVES[sets], 5))
    for whole, part in zip(every, few, strict=True):
        assert part.shape == (4, 5)
        torch.testing.assert_close(part, whole[:, :5])
    levels, shares, _ = every
    assert (levels[:, 0] == 0).all() and (levels[:, 1:5] != 0).all()
    assert (shares.diff(dim=1) <= 0).all() and (shares >= 0).all() and shares[:, 5].max() < 0.1


def test_without_a_potential_there_is_one_bloch_wave():
    c = torch.zeros(8, 8)
    c[1, 0] = c[-1, 0] = 1e-9
    engine = BrightField(8, 2.0, {1: 3, 2: 3, 4: 3}, 8)
    _, shares, _ = engine.bloch_waves(c, torch.arange(16), 3)
    np.testing.assert_allclose(shares, [[1.0, 0.0, 0.0]] * 16, atol=1e-6)


@pytest.mark.parametrize("pixels", [12, 16, 32])
@pytest.mark.parametrize("sets", CRYSTALS)
def test_half_the_directions_make_the_pictures_of_all(sets, pixels):
    coefficients = _coefficients(CRYSTALS[sets])
    engine = BrightField(pixels, 2.0, {1: 5, 2: 6, 4: 8}, 32)
    expected, found = engine(coefficients, TAU, square=False), engine(coefficients, TAU)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    assert torch.equal(found, found.mT) and not torch.equal(expected, expected.mT)


@pytest.mark.parametrize("pixels", [12, 16])
@pytest.mark.parametrize("sets", CRYSTALS)
def test_half_the_directions_have_the_gradients_of_all(sets, pixels):
    c = _coefficients(CRYSTALS[sets]).requires_grad_(True)
    engine = BrightField(pixels, 2.0, {1: 5, 2: 6, 4: 8}, 32)
    weights = torch.rand(2, pixels // 2, pixels // 2, dtype=torch.float64)
    expected, told, found = (
        torch.autograd.grad((engine(x, TAU, square) * weights).sum(), c)[0]
        for x, square in ((0.5 * (c + c.T), False), (0.5 * (c + c.T), True), (c, None))
    )
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(told, expected, atol=1e-9, rtol=0)
    # Not told to be square, they are right along any change.
    torch.testing.assert_close(0.5 * (found + found.T), expected, atol=1e-9, rtol=0)
    assert not torch.allclose(found, found.T, atol=1e-6)


@pytest.mark.parametrize("sets", OBLONG)
def test_a_transposed_potential_has_the_transposed_picture(sets):
    coefficients = _coefficients(OBLONG[sets])
    engine = BrightField(16, 2.0, {1: 5, 2: 6, 4: 8}, 32)
    found, turned = engine(coefficients, TAU), engine(coefficients.T, TAU)
    torch.testing.assert_close(turned, found.mT, atol=1e-10, rtol=0)
    assert (turned - found).abs().max() > 0.01


def test_few_beams_and_a_perturbation_are_as_many_beams(monkeypatch):
    coefficients = _coefficients(CRYSTALS[1])
    tau = torch.tensor([depth(3.8, 500.0, ENERGY)])
    found = {}
    for far, weak in ((14, 14), (6, 14), (6, 6)):
        monkeypatch.setattr(bright_field, "_WEAK", weak)
        found[far, weak] = BrightField(16, 2.0, {1: far, 2: far, 4: far}, 32)(coefficients, tau)
    errors = [(found[6, weak] - found[14, 14]).abs().max() for weak in (14, 6)]
    assert errors[0] < 0.003 and errors[0] < 0.2 * errors[1]


def test_gradients_of_the_propagator_are_right():
    matrix = torch.randn(2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.autograd.gradcheck(_propagated, matrix.requires_grad_(True))


@pytest.mark.parametrize("apart", [0.0, 1e-9, 1e-5])
def test_degenerate_levels_do_not_disturb_gradients(apart):
    turned, _ = torch.linalg.qr(
        torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )
    levels = torch.diag(torch.tensor([1.0, 1.0 + apart, 1.0 - apart, -2.0], dtype=torch.float64))
    for matrix in (levels, turned @ levels @ turned.T):
        torch.autograd.gradcheck(_propagated, matrix[None].clone().requires_grad_(True))


def _propagated(matrix):
    return _Propagator.apply(0.5 * (matrix + matrix.mT), TAU.expand(len(matrix), -1))


def test_the_diagonal_is_that_of_the_matrix_exponential():
    matrix = torch.randn(3, 5, 5, dtype=torch.float64)
    found = _propagated(matrix)
    for number, tau in enumerate(TAU):
        expected = torch.matrix_exp(1j * torch.pi * tau * 0.5 * (matrix + matrix.mT))
        waves = torch.view_as_complex(found[:, :, number].contiguous())
        torch.testing.assert_close(waves, expected.diagonal(dim1=1, dim2=2))


def _absorber(n=5):
    matrix = torch.rand(3, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return 0.2 * matrix @ matrix.mT


def test_the_absorbing_diagonal_is_that_of_the_matrix_exponential():
    matrix = torch.randn(3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    matrix = 0.5 * (matrix + matrix.mT)
    found = _AbsorbingPropagator.apply(matrix, TAU.expand(3, -1), _absorber())
    for number, tau in enumerate(TAU):
        expected = torch.matrix_exp(1j * torch.pi * tau * (matrix + 1j * _absorber()))
        waves = torch.view_as_complex(found[:, :, number].contiguous())
        torch.testing.assert_close(waves, expected.diagonal(dim1=1, dim2=2))


@pytest.mark.parametrize("apart", [0.0, 1e-9, 1.0])
def test_gradients_of_the_absorbing_propagator_are_right(apart):
    levels = torch.tensor([1.0, 1.0 + apart, -0.5, -2.0], dtype=torch.float64)
    matrix = torch.diag(levels).expand(3, 4, 4).clone()

    def damped(matrix):
        matrix = 0.5 * (matrix + matrix.mT)
        return _AbsorbingPropagator.apply(matrix, TAU.expand(3, -1), _absorber(4))

    torch.autograd.gradcheck(damped, matrix.requires_grad_(True))


@pytest.mark.parametrize("absorbing", [None, 5])
def test_each_matrix_has_its_own_depths_on_a_gpu_and_on_a_cpu(absorbing):
    matrix = torch.randn(3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    matrix = 0.5 * (matrix + matrix.mT)
    depths = torch.rand(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    absorber = None if absorbing is None else _absorber(absorbing)
    expected = _exponentials(matrix, depths, absorber)
    if absorber is None:
        found = _Propagator.apply(matrix, depths)
        assert torch.autograd.gradcheck(
            lambda m: _Propagator.apply(0.5 * (m + m.mT), depths), matrix.requires_grad_(True)
        )
    else:
        found = _AbsorbingPropagator.apply(matrix, depths, absorber)
    torch.testing.assert_close(found, expected)


def test_no_crystal_has_no_picture():
    found = BrightField(16, 2.0, REACH, 32)(torch.zeros(0, 32, 32), torch.zeros(0, 3))
    assert found.shape == (0, 3, 8, 8)


@pytest.mark.parametrize("wanted", [False, True])
def test_crystals_side_by_side_have_gradients_where_these_are_wanted(wanted):
    c = torch.stack([_coefficients(CRYSTALS[4]), _coefficients(CRYSTALS[1])]).requires_grad_(True)
    engine = BrightField(16, 2.0, REACH, 32)
    with torch.set_grad_enabled(wanted):
        found = engine(c, TAU.expand(2, -1))
    assert found.requires_grad == wanted
    if wanted:
        alone = [engine(one, TAU) for one in c]
        pairs = [torch.autograd.grad(x.square().sum(), c)[0] for x in (found, torch.stack(alone))]
        torch.testing.assert_close(*pairs)


def test_depths_are_those_of_each_crystal():
    coefficients = torch.stack([_coefficients(CRYSTALS[4])] * 2)
    with pytest.raises(ValueError, match=r"depths of the shape \(2, 't'\)"):
        BrightField(16, 2.0, REACH, 32)(coefficients, TAU)


def test_states_that_are_not_excited_are_damped_by_their_means(monkeypatch):
    monkeypatch.setattr(bright_field, "_MIXED", 2)
    levels = torch.tensor([-4.0, -2.0, 0.0, 1.0], dtype=torch.float64)
    found = _AbsorbingPropagator.apply(
        torch.diag(levels).expand(3, 4, 4), TAU.expand(3, -1), _absorber(4)
    )
    means = _absorber(4).diagonal(dim1=1, dim2=2)
    for number, tau in enumerate(TAU):
        expected = (1j * torch.pi * tau * (levels + 1j * means)).exp()[:, :2]
        waves = torch.view_as_complex(found[:, :, number].contiguous())
        torch.testing.assert_close(waves[:, :2], expected)


@pytest.mark.parametrize("sets", HEAVY)
def test_absorbing_crystals_have_the_exact_engines_bright_fields(sets):
    crystal, thicknesses = HEAVY[sets], [500.0, 1000.0]
    a = float(crystal.lattice[0, 0])
    tau = torch.tensor([depth(a, thickness, ENERGY) for thickness in thicknesses])
    found, without = (
        unfolded(BrightField(16, 2.0, FINE, 32)(c, tau))
        for c in (coefficients_of(optical_potential(crystal, 32, ENERGY)), _coefficients(crystal))
    )
    expected, elastic = (
        lacbed(
            crystal, (0, 0, 1), ENERGY, thicknesses, half_width=2 / a, pixels=16, absorption=on,
            dtype=torch.float64,
        ).images[:, 0]
        for on in (True, False)
    )  # fmt: skip
    absorbed, errors = elastic - expected, (without - found) - (elastic - expected)
    assert (absorbed.mean((1, 2)) > 0.05).all()
    assert (errors.abs().mean((1, 2)) < 0.05 * absorbed.abs().mean((1, 2))).all()
    assert (likeness(found.double(), expected) > 0.999).all()
    assert (likeness(without.double(), expected) < 0.97).all()


@pytest.mark.parametrize("sets", CRYSTALS)
def test_all_damped_bloch_waves_make_the_absorbing_picture_of_light_crystals(sets):
    """Waves are damped by means there, not mixed."""
    coefficients = coefficients_of(optical_potential(CRYSTALS[sets], 32, ENERGY))
    engine, tau = BrightField(16, 2.0, REACH, 32), DEPTHS.float()
    expected = engine(coefficients, tau, square=False).flatten(1)
    levels, shares, dampings = engine.bloch_waves(coefficients, torch.arange(64), ALL_WAVES[sets])
    waves = torch.exp(1j * torch.pi * tau[:, None, None] * (levels + 1j * dampings))
    found = (shares * waves).sum(-1).abs().square()
    assert dampings.max() > 0 and expected.std(1).min() > 0.01
    np.testing.assert_allclose(found, expected, atol=0.03)


@pytest.mark.parametrize("sets", HEAVY)
def test_the_gradient_of_an_absorbing_bright_field_is_its_slope(sets):
    engine = BrightField(8, 2.0, {1: 4, 2: 4, 4: 6}, 16)
    c = coefficients_of(optical_potential(HEAVY[sets], 16, ENERGY))
    real, imaginary = c.real.double().requires_grad_(True), c.imag.double()
    weights = torch.rand(2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def seen(coefficients):
        return (engine(torch.complex(coefficients, imaginary), TAU) * weights).sum()

    (slope,) = torch.autograd.grad(seen(real), real)
    with torch.no_grad():
        step = torch.zeros_like(real)
        for i, j in ((2, 2), (2, -2), (-2, 2), (-2, -2)):
            step[i, j] = 1e-4
        expected = (seen(real + step) - seen(real - step)) / 2
        # How much weak beams absorb changes, too, but hardly.
        torch.testing.assert_close((slope * step).sum(), expected, rtol=0.05, atol=1e-9)


@pytest.mark.parametrize("pixels", [8, 12])
def test_the_gradient_of_a_bright_field_is_its_slope(pixels):
    engine = BrightField(pixels, 2.0, {1: 3, 2: 3, 4: 3}, 8)
    c = _coefficients(CRYSTALS[1], 8).requires_grad_(True)
    weights = torch.rand(2, pixels // 2, pixels // 2, dtype=torch.float64)

    def seen(coefficients):
        return (engine(coefficients, TAU) * weights).sum()

    (slope,) = torch.autograd.grad(seen(c), c)
    with torch.no_grad():
        for h, k in ((1, 0), (1, 1), (2, 1)):
            step = torch.zeros_like(c)
            for sign in (1, -1):
                for i, j in ((h, sign * k), (k, sign * h)):
                    step[i, j] = step[-i, -j] = 1e-4
            expected = (seen(c + step) - seen(c - step)) / 2
            torch.testing.assert_close((slope * step).sum(), expected, rtol=1e-4, atol=1e-12)


def test_without_a_potential_all_passes():
    c = torch.zeros(8, 8)
    c[1, 0] = c[-1, 0] = 1e-9
    found = BrightField(8, 2.0, {1: 3, 2: 3, 4: 3}, 8)(c, torch.tensor([0.5]))
    torch.testing.assert_close(found, torch.ones(1, 4, 4))


@pytest.mark.parametrize(("pixels", "half_width"), [(15, 2.0), (18, 2.0), (16, 3.0)])
def test_vectors_that_are_no_whole_number_of_pixels_are_refused(pixels, half_width):
    with pytest.raises(ValueError, match="whole number of pixels"):
        BrightField(pixels, half_width)
