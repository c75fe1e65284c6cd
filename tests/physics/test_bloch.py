"""The dynamical engine against its own laws: flux, limits, symmetries, solvers, gradients."""

import numpy as np
import pytest
import torch
from materials import MATERIALS, gallium_arsenide, gold, lithium_manganate, silicon
from scipy.special import jv

from py4dstem_ml.physics import bloch
from py4dstem_ml.physics.bloch import (
    Beams,
    diffract,
    excitation_errors,
    propagate,
    reflections,
    select_beams,
    structure_matrix,
)
from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.electrons import wavelength
from py4dstem_ml.physics.orientations import random_orientation, zone_axis

ENERGY = 200e3
OBLIQUE_NORMAL = torch.tensor([0.3, -0.15, 1.0], dtype=torch.float64)
OBLIQUE_NORMAL = OBLIQUE_NORMAL / torch.linalg.norm(OBLIQUE_NORMAL)
DIRECTIONS = torch.tensor([[0.0, 0.0], [0.05, -0.02], [-0.03, 0.08]], dtype=torch.float64)


def few_beams(crystal: Crystal, uvw=(0, 0, 1), g_max: float = 1.0, s_max: float = 0.05) -> Beams:
    return select_beams(crystal, zone_axis(crystal, uvw), ENERGY, g_max=g_max, s_max=s_max)


def beams_of(crystal: Crystal, orientation: np.ndarray, hkl) -> Beams:
    hkl = np.asarray(hkl)
    return Beams(hkl, torch.as_tensor(hkl @ crystal.reciprocal.numpy() @ orientation))


def intensities(*arguments, **options) -> np.ndarray:
    return (torch.abs(diffract(*arguments, **options)) ** 2).numpy()


# --- geometry -------------------------------------------------------------------------------


def test_excitation_error_is_the_distance_to_the_ewald_sphere() -> None:
    g = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.2, 0.01], [-0.4, 0.8, 0.05]], dtype=torch.float64)
    s = excitation_errors(g, ENERGY, DIRECTIONS)
    assert s.shape == (3, 3) and torch.equal(s[0], torch.zeros(3, dtype=torch.float64))
    k = wavelength(ENERGY) ** -1
    for column, q in enumerate(DIRECTIONS):
        k_z = -torch.sqrt(k**2 - (q**2).sum())
        waves = torch.cat([q, k_z[None]]) + g
        # Positive inside the sphere: towards the beam's direction, -z, one comes to its surface.
        waves[:, 2] -= s[:, column]
        lengths = torch.linalg.norm(waves, dim=1).numpy()
        assert lengths == pytest.approx(k, rel=1e-6)


def test_excitation_error_along_an_oblique_normal() -> None:
    g = torch.tensor([[0.5, 0.2, 0.0]], dtype=torch.float64)
    straight = excitation_errors(g, ENERGY)
    oblique = excitation_errors(g, ENERGY, foil_normal=OBLIQUE_NORMAL)
    assert float(oblique / straight) == pytest.approx(float(1 / OBLIQUE_NORMAL[2]), rel=0.01)


def test_beams_are_all_lattice_vectors_inside_the_limits() -> None:
    crystal = lithium_manganate()
    orientation = random_orientation(np.random.default_rng(2))
    beams = select_beams(crystal, orientation, ENERGY, g_max=1.2, s_max=0.03)
    assert beams.hkl[0].tolist() == [0, 0, 0]
    lengths = torch.linalg.norm(beams.g, dim=1)
    assert bool((lengths.diff() >= -1e-9).all()) and float(lengths.max()) <= 1.2
    indices = np.array(list(np.ndindex(25, 25, 25))) - 12
    g = torch.as_tensor(indices @ crystal.reciprocal.numpy() @ orientation)
    wanted = torch.linalg.norm(g, dim=1) <= 1.2
    wanted &= torch.abs(excitation_errors(g, ENERGY)[:, 0]) <= 0.03
    assert {tuple(h) for h in indices[wanted.numpy()]} == {tuple(h) for h in beams.hkl}


def test_the_strongest_beams_are_kept() -> None:
    crystal = silicon()
    everything = few_beams(crystal, g_max=1.5)
    few = select_beams(
        crystal, zone_axis(crystal, (0, 0, 1)), ENERGY, g_max=1.5, s_max=0.05, max_beams=9
    )
    assert len(few) == 9 < len(everything) and few.hkl[0].tolist() == [0, 0, 0]
    # 220 and 400 of the zone, all allowed; a forbidden 200 is not among them.
    assert {tuple(sorted(np.abs(h))) for h in few.hkl[1:]} == {(0, 2, 2), (0, 0, 4)}


# --- laws -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MATERIALS)
@pytest.mark.parametrize("normal", [None, OBLIQUE_NORMAL], ids=["flat", "oblique"])
def test_flux_is_conserved_without_absorption(name: str, normal) -> None:
    crystal = MATERIALS[name]()
    found = intensities(
        crystal,
        few_beams(crystal),
        ENERGY,
        [50.0, 500.0],
        incidence=DIRECTIONS,
        foil_normal=normal,
        absorption=False,
    )
    assert found.sum(1) == pytest.approx(1.0, abs=1e-5)


def test_absorption_takes_intensity_away_steadily() -> None:
    crystal = gold()
    total = intensities(crystal, few_beams(crystal), ENERGY, [0.0, 100.0, 300.0, 600.0]).sum(1)
    assert np.all(np.diff(total[:, 0]) < -0.01) and np.all(total > 0)


@pytest.mark.parametrize("solver", ["chebyshev", "eigen"])
def test_zero_thickness_is_the_identity(solver: str) -> None:
    crystal = gallium_arsenide()
    beams = few_beams(crystal)
    found = diffract(crystal, beams, ENERGY, [0.0], incidence=DIRECTIONS, solver=solver)
    identity = torch.zeros_like(found)
    identity[:, 0] = 1.0
    assert torch.allclose(found, identity, atol=1e-6)


def test_thin_limit_is_kinematical() -> None:
    crystal = lithium_manganate(b_iso=0.3)
    beams = few_beams(crystal, (1, 1, 1))
    normal = OBLIQUE_NORMAL
    s = excitation_errors(beams.g, ENERGY, foil_normal=normal)[:, 0]
    k_normal = float(normal[2]) / wavelength(ENERGY)
    coupling = crystal.coupling_coefficients(beams.hkl, ENERGY)

    def error(t: float) -> float:
        found = diffract(crystal, beams, ENERGY, [t], foil_normal=normal, dtype=torch.complex128)
        kinematical = 1j * np.pi * coupling * t / k_normal
        kinematical = kinematical * torch.sinc(s * t) * torch.exp(1j * np.pi * s * t)
        return float(torch.abs(found[0, 1:, 0] - kinematical[1:]).max())

    # What is left out is of second order in the thickness.
    assert error(2.0) < 2e-3
    assert error(4.0) / error(2.0) == pytest.approx(4.0, rel=0.15)


@pytest.mark.parametrize(
    ("make", "normal", "thicknesses"),
    [
        (gold, None, [500.0]),
        (gold, OBLIQUE_NORMAL, [100.0, 500.0]),
        (lithium_manganate, OBLIQUE_NORMAL, [300.0, 20.0, 1000.0, 300.0, 0.0]),
    ],
    ids=["absorbing", "oblique", "unsorted thicknesses"],
)
def test_two_solvers_agree(make, normal, thicknesses: list[float]) -> None:
    crystal = make()
    beams = few_beams(crystal)

    def solve(solver: str, dtype: torch.dtype) -> torch.Tensor:
        options = {"incidence": DIRECTIONS, "foil_normal": normal, "solver": solver}
        return diffract(crystal, beams, ENERGY, thicknesses, dtype=dtype, **options)

    reference = solve("eigen", torch.complex128)
    assert float(torch.abs(solve("chebyshev", torch.complex128) - reference).max()) < 1e-9
    single = solve("chebyshev", torch.complex64)
    assert single.dtype == torch.complex64
    assert float(torch.abs(single - reference).max()) < 1e-5


def test_absorption_too_strong_for_one_expansion_is_taken_in_stages() -> None:
    # Five times that of gold: one expansion to the last depth would lose its digits.
    crystal = gold()
    beams = few_beams(crystal)
    matrix = structure_matrix(crystal, beams, ENERGY)
    hermitian = 0.5 * (matrix + matrix.mH)
    matrix = hermitian + 5.0 * (matrix - hermitian)
    s = excitation_errors(beams.g, ENERGY)
    k = torch.full((1,), 1 / wavelength(ENERGY), dtype=torch.float64)
    depths = [10.0, 200.0, 1000.0]
    chebyshev = propagate(matrix, s, k, depths)
    eigen = propagate(matrix, s, k, depths, solver="eigen")
    assert float(torch.abs(chebyshev - eigen).max()) < 1e-9
    assert float(torch.abs(eigen[-1]).max()) < 0.5


def test_the_matrix_sets_the_precision() -> None:
    crystal = gold()
    beams = few_beams(crystal)
    matrix = structure_matrix(crystal, beams, ENERGY)
    s = excitation_errors(beams.g, ENERGY, DIRECTIONS)
    k = torch.tensor([1.0, 0.98, 0.99], dtype=torch.float64) / wavelength(ENERGY)
    double, single = (propagate(m, s, k, [300.0]) for m in (matrix, matrix.to(torch.complex64)))
    assert single.dtype == torch.complex64
    assert float(torch.abs(double - single).max()) < 1e-5


@pytest.mark.parametrize("name", MATERIALS)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_the_spectrum_is_bounded_and_not_by_far(name: str, dtype: torch.dtype) -> None:
    crystal = MATERIALS[name]()
    for orientation in (
        zone_axis(crystal, (0, 0, 1)), random_orientation(np.random.default_rng(1))
    ):  # fmt: skip
        beams = select_beams(crystal, orientation, ENERGY, g_max=1.5)
        matrix = structure_matrix(crystal, beams, ENERGY).to(dtype)
        for part in (matrix + matrix.mH, 1j * (matrix.mH - matrix)):
            values = torch.linalg.eigvalsh(part.to(torch.complex128))
            low, high = bloch._spectrum_bounds(part)
            reach = float(values[-1] - values[0])
            rounding = 1e-6 * float(values.abs().max())
            assert values[0] - 0.4 * reach <= low <= values[0] + rounding
            assert values[-1] - rounding <= high <= values[-1] + 0.4 * reach


@pytest.mark.parametrize(
    "values", [[0.0], [0.3] * 30, [1.0] * 20 + [2.0] * 20, [0.0] * 60 + [5.0], range(12), [-1, 1]]
)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_few_different_eigenvalues_are_bounded_closely(values, dtype: torch.dtype) -> None:
    values = torch.tensor(list(values), dtype=torch.float64)
    random = torch.Generator().manual_seed(1)
    shape = (len(values), len(values))
    vectors = torch.linalg.qr(torch.randn(shape, dtype=torch.complex128, generator=random))[0]
    low, high = bloch._spectrum_bounds((vectors * values @ vectors.mH).to(dtype))
    margin = 0.05 * float(values.max() - values.min()) + 1e-4 * float(values.abs().max())
    assert values.min() - margin <= low <= values.min() + 1e-5
    assert values.max() - 1e-5 <= high <= values.max() + margin


def test_the_coefficients_are_bessel_functions() -> None:
    thickness, radius = torch.tensor([10.0, 300.0, 700.0], dtype=torch.float64), 0.2
    found = bloch._chebyshev_coefficients(thickness, radius, 1e-17).numpy()
    order = np.arange(found.shape[1])
    expected = 2.0 * jv(order, 2.0 * np.pi * radius * thickness.numpy()[:, None])
    expected[:, 0] *= 0.5
    sign = (1j**order).real + (1j**order).imag  # i^k less its i, where it has one
    np.testing.assert_allclose(found, expected * sign, atol=2e-14)
    assert len(order) < 2.0 * np.pi * radius * 700.0 + 120


# --- symmetries -----------------------------------------------------------------------------


def opposite(beams: Beams) -> list[int]:
    slot = {tuple(h): i for i, h in enumerate(beams.hkl)}
    return [slot[tuple(-h)] for h in beams.hkl]


def of_the_zone(crystal: Crystal, uvw: tuple[int, int, int], g_max: float) -> Beams:
    """The reflections of the zero-order Laue zone only: the crystal in projection."""
    hkl = reflections(crystal, g_max)
    return beams_of(crystal, zone_axis(crystal, uvw), hkl[hkl @ np.array(uvw) == 0])


def test_a_centrosymmetric_projection_gives_a_two_fold_pattern() -> None:
    crystal = lithium_manganate()
    beams = of_the_zone(crystal, (1, 0, 1), 0.9)
    there = intensities(crystal, beams, ENERGY, [200.0], incidence=DIRECTIONS)
    back = intensities(crystal, beams, ENERGY, [200.0], incidence=-DIRECTIONS)
    assert there == pytest.approx(back[:, opposite(beams)], abs=1e-5)
    assert np.abs(there[..., 1] - back[..., 1]).max() > 0.01


def test_gallium_arsenide_breaks_friedels_law_only_by_dynamics() -> None:
    crystal = gallium_arsenide()
    # Looking down [110], +002 and -002 differ: the polarity of the crystal.
    beams = of_the_zone(crystal, (1, 1, 0), 1.2)
    thick = intensities(crystal, beams, ENERGY, [150.0], absorption=False)[0, :, 0]
    assert np.abs(thick - thick[opposite(beams)]).max() > 1e-3
    thin = intensities(crystal, beams, ENERGY, [1.0], absorption=False, dtype=torch.complex128)
    thin = thin[0, 1:, 0]
    back = thin[np.array(opposite(beams))[1:] - 1]
    assert np.abs(thin - back).max() < 0.02 * thin.max()


def test_two_beams_obey_friedels_law_without_absorption() -> None:
    crystal = gallium_arsenide()
    orientation = zone_axis(crystal, (1, 1, 0))
    pair = [
        intensities(
            crystal,
            beams_of(crystal, orientation, [[0, 0, 0], h]),
            ENERGY,
            [150.0],
            incidence=q,
            absorption=False,
        )[0, 1, 0]
        for h, q in (([1, -1, 1], DIRECTIONS[1:2]), ([-1, 1, -1], -DIRECTIONS[1:2]))
    ]
    assert pair[0] == pytest.approx(pair[1], rel=1e-5)


def test_two_beams_beat_with_the_extinction_length() -> None:
    crystal = silicon()
    beams = beams_of(crystal, zone_axis(crystal, (0, 0, 1)), [[0, 0, 0], [2, 2, 0]])
    bragg = -0.5 * beams.g[1:, :2]
    coupling = torch.abs(crystal.coupling_coefficients([[2, 2, 0]], ENERGY, absorption=False))
    # xi = k_n / U_g, k_n being that of the tilted wave.
    k_normal = torch.sqrt(wavelength(ENERGY) ** -2 - (bragg**2).sum())
    extinction = float(k_normal / coupling)
    depths = np.array([0.25, 0.5, 1.0]) * extinction
    found = intensities(crystal, beams, ENERGY, depths, incidence=bragg, absorption=False)
    assert found[:, 1, 0] == pytest.approx([0.5, 1.0, 0.0], abs=1e-4)


@pytest.mark.parametrize("name", ["Si", "Li2MnO3"])
def test_reciprocity_in_a_centrosymmetric_crystal(name: str) -> None:
    # Inversion and reversal of the beam: I_g at q equals I_-g at q + g.
    crystal = MATERIALS[name]()
    beams = of_the_zone(crystal, (0, 0, 1), 0.9)
    q = DIRECTIONS[1:2]
    pattern = intensities(crystal, beams, ENERGY, [180.0], incidence=q)[0, :, 0]
    chosen = 1 + int(np.argmax(pattern[1:]))
    there = pattern[chosen]
    moved = beams.hkl - beams.hkl[chosen]
    order = np.concatenate([[chosen], np.delete(np.arange(len(moved)), chosen)])
    shifted = beams_of(crystal, zone_axis(crystal, (0, 0, 1)), moved[order])
    # The beam 000 of the first pattern is -g of the second.
    landing = int(np.flatnonzero((shifted.hkl == -beams.hkl[chosen]).all(1))[0])
    q_back = q + beams.g[chosen, :2]
    back = intensities(crystal, shifted, ENERGY, [180.0], incidence=q_back)[0, landing, 0]
    assert there > 1e-2
    assert there == pytest.approx(back, rel=2e-3)


def test_the_choice_of_origin_only_turns_phases() -> None:
    crystal = lithium_manganate()
    moved = Crystal(crystal.lattice, crystal.numbers, crystal.positions + torch.rand(3))
    beams = few_beams(crystal)
    found = [intensities(c, beams, ENERGY, [200.0]) for c in (crystal, moved)]
    assert found[0] == pytest.approx(found[1], abs=1e-5)


# --- blocks ---------------------------------------------------------------------------------


def test_a_direction_does_not_feel_its_neighbours(monkeypatch) -> None:
    crystal = MATERIALS["SrTiO3"]()
    beams = few_beams(crystal)
    q = 0.1 * torch.randn(7, 2, dtype=torch.float64, generator=torch.manual_seed(0))
    options = {"dtype": torch.complex128, "foil_normal": OBLIQUE_NORMAL}
    together = diffract(crystal, beams, ENERGY, [150.0, 300.0], incidence=q, **options)
    alone = [
        diffract(crystal, beams, ENERGY, [150.0, 300.0], incidence=one[None], **options)
        for one in q
    ]
    assert torch.allclose(together, torch.cat(alone, dim=2), atol=1e-11)
    monkeypatch.setattr(bloch, "_BLOCK_ELEMENTS", 3 * len(beams))
    split = diffract(crystal, beams, ENERGY, [150.0, 300.0], incidence=q, **options)
    assert split.shape == together.shape and torch.allclose(split, together, atol=1e-11)


def test_the_matrix_is_the_table_of_couplings() -> None:
    crystal = gallium_arsenide()
    beams = few_beams(crystal, (1, 1, 0))
    matrix = structure_matrix(crystal, beams, ENERGY)
    i, j = 3, 7
    expected = crystal.coupling_coefficients([beams.hkl[i] - beams.hkl[j]], ENERGY)[0]
    assert complex(matrix[i, j]) == pytest.approx(complex(expected))
    mean = crystal.coupling_coefficients([[0, 0, 0]], ENERGY)[0]
    assert complex(matrix[i, i]) == pytest.approx(1j * float(mean.imag))


@pytest.mark.parametrize("bad", [[-1.0], [float("nan")], [float("inf")]])
def test_impossible_thicknesses_are_refused(bad: list[float]) -> None:
    crystal = silicon()
    with pytest.raises(ValueError, match="thicknesses must be finite"):
        diffract(crystal, few_beams(crystal, g_max=0.5), ENERGY, bad)


def test_an_unknown_solver_is_refused() -> None:
    crystal = silicon()
    with pytest.raises(ValueError, match="unknown solver 'magic'"):
        diffract(crystal, few_beams(crystal, g_max=0.5), ENERGY, [1.0], solver="magic")


# --- gradients ------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["chebyshev", "eigen"])
def test_gradients_of_positions_and_strain_are_those_of_finite_differences(solver: str) -> None:
    crystal = gallium_arsenide()
    orientation = zone_axis(crystal, (1, 1, 0))
    hkl = few_beams(crystal, (1, 1, 0), g_max=0.7).hkl
    weights = torch.linspace(0.0, 1.0, len(hkl), dtype=torch.float64)

    def measured(positions: torch.Tensor, strain: torch.Tensor) -> torch.Tensor:
        deformed = Crystal(crystal.lattice, crystal.numbers, positions)
        deformed = deformed.strained(torch.eye(3, dtype=torch.float64) + strain)
        g = torch.as_tensor(hkl, dtype=torch.float64) @ deformed.reciprocal
        beams = Beams(hkl, g @ torch.as_tensor(orientation))
        options = {"incidence": DIRECTIONS, "solver": solver, "dtype": torch.complex128}
        # Absorption is constant under differentiation, so it is left out here.
        wave = diffract(deformed, beams, ENERGY, [80.0, 160.0], absorption=False, **options)
        return (weights[:, None] * torch.abs(wave) ** 2).sum()

    positions = crystal.positions.clone().requires_grad_()
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    measured(positions, strain).backward()
    for leaf, entry in ((positions, (5, 2)), (positions, (2, 0)), (strain, (0, 1))):
        step = torch.zeros_like(leaf)
        step[entry] = 1e-5
        ends = [
            measured(
                positions + sign * step if leaf is positions else positions,
                strain + sign * step if leaf is strain else strain,
            )
            for sign in (1, -1)
        ]
        slope = float((ends[0] - ends[1]).detach()) / 2e-5
        assert abs(slope) > 1e-4
        assert float(leaf.grad[entry]) == pytest.approx(slope, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("solver", ["chebyshev", "eigen"])
def test_gradients_of_excitation_errors(solver: str) -> None:
    crystal = gallium_arsenide()
    beams = few_beams(crystal, g_max=0.6)
    matrix = structure_matrix(crystal, beams, ENERGY)
    k = torch.full((2,), 1 / wavelength(ENERGY), dtype=torch.float64)
    start = excitation_errors(beams.g, ENERGY, DIRECTIONS[1:]).requires_grad_()

    def last(s: torch.Tensor) -> torch.Tensor:
        return torch.abs(propagate(matrix, s, k, [120.0], solver=solver)[0, -1]) ** 2

    assert torch.autograd.gradcheck(last, start, eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("n_directions", [1, 3])
def test_gradients_of_wave_vectors(n_directions: int) -> None:
    crystal = gold()
    beams = few_beams(crystal, g_max=0.7)
    matrix = structure_matrix(crystal, beams, ENERGY)
    s = excitation_errors(beams.g, ENERGY, DIRECTIONS[:n_directions])
    k = torch.full((n_directions,), 1 / wavelength(ENERGY), dtype=torch.float64)
    k = k * torch.tensor([1.0, 0.99, 0.97], dtype=torch.float64)[:n_directions]

    def last(k_normal: torch.Tensor) -> torch.Tensor:
        return torch.abs(propagate(matrix, s, k_normal, [200.0])) ** 2

    assert torch.autograd.gradcheck(last, k.requires_grad_(), eps=1e-4, atol=1e-6)


def test_single_precision_gradients_are_finite() -> None:
    positions = gold().positions.clone().requires_grad_()
    crystal = Crystal(gold().lattice, gold().numbers, positions)
    beams = few_beams(crystal)
    loss = torch.abs(diffract(crystal, beams, ENERGY, [300.0], incidence=DIRECTIONS)[0, 1:]) ** 2
    loss.sum().backward()
    assert bool(torch.isfinite(positions.grad).all())


def test_thicknesses_are_constants_of_the_expansion_and_not_of_the_diagonalisation() -> None:
    crystal = silicon()
    beams = few_beams(crystal, g_max=0.6)
    thickness = torch.tensor([120.0, 60.0], dtype=torch.float64, requires_grad=True)
    options = {"incidence": DIRECTIONS[1:], "dtype": torch.complex128}
    plain = diffract(crystal, beams, ENERGY, [120.0, 60.0], **options)
    expanded = diffract(crystal, beams, ENERGY, thickness, **options)
    assert torch.equal(expanded, plain) and not expanded.requires_grad

    def last(depths: torch.Tensor) -> torch.Tensor:
        return torch.abs(diffract(crystal, beams, ENERGY, depths, solver="eigen", **options)) ** 2

    assert torch.autograd.gradcheck(last, thickness, atol=1e-5)


# --- other devices --------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_agrees() -> None:
    crystal = gold()
    beams = few_beams(crystal)
    here, there = (
        diffract(crystal, beams, ENERGY, [100.0, 300.0], incidence=DIRECTIONS, device=device)
        for device in ("cpu", "cuda")
    )
    assert torch.allclose(here, there.cpu(), atol=1e-5)
    thickness = torch.tensor([100.0, 300.0], device="cuda")
    again = diffract(crystal, beams, ENERGY, thickness, incidence=DIRECTIONS, device="cuda")
    assert torch.equal(again, there)
