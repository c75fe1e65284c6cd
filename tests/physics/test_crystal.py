"""Crystal: what it refuses, its Fourier coefficients and their units."""

import numpy as np
import pytest
import torch
from materials import MATERIALS, gallium_arsenide, gold, lithium_manganate, silicon

from py4dstem_ml.physics.bloch import reflections
from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.electrons import lorentz_factor

ENERGY = 200e3
CUBE = np.eye(3) * 4.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.eye(2), [14], [[0, 0, 0]]), "lattice has shape"),
        ((CUBE, [14], [[0, 0]]), "positions has shape"),
        ((CUBE, [14, 14], [[0, 0, 0]]), "positions has shape"),
        ((CUBE, [14], [[0, 0, 0]], [1.0, 1.0]), "occupancies has shape"),
        ((CUBE, [14], [[0, 0, 0]], None, [0.5, 0.5]), "b_iso has shape"),
        ((CUBE, [14], [[0, np.nan, 0]]), "positions holds a value that is not finite"),
        ((CUBE[[1, 0, 2]], [14], [[0, 0, 0]]), "right-handed"),
        ((np.zeros((3, 3)), [14], [[0, 0, 0]]), "right-handed"),
        ((CUBE, [14.5], [[0, 0, 0]]), "not whole"),
        ((CUBE, [14], [[0, 0, 0]], [1.1]), "not within 0 to 1"),
        ((CUBE, [14], [[0, 0, 0]], [-0.1]), "not within 0 to 1"),
        ((CUBE, [14], [[0, 0, 0]], None, -0.5), "negative Debye-Waller"),
        ((CUBE, [], np.zeros((0, 3))), "at least one atom"),
    ],
)
def test_bad_input_gets_one_sentence(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Crystal(*arguments)


def test_reciprocal_lattice() -> None:
    crystal = lithium_manganate()
    product = crystal.lattice @ crystal.reciprocal.T
    assert torch.allclose(product, torch.eye(3, dtype=torch.float64), atol=1e-12)


def test_strain_moves_vectors_and_keeps_the_atoms() -> None:
    deformation = np.array([[1.01, 0.004, 0], [0, 0.99, 0], [0, 0, 1.0]])
    crystal = lithium_manganate()
    strained = crystal.strained(deformation)
    assert strained.lattice.numpy() == pytest.approx(crystal.lattice.numpy() @ deformation.T)
    assert strained.volume == pytest.approx(crystal.volume * np.linalg.det(deformation))
    assert torch.equal(strained.positions, crystal.positions)


# Kruse et al., Ultramicroscopy 106 (2006) 105, and Schowalter et al., Appl. Phys. Lett. 88 (2006)
# 232108: isolated atoms give 10-20 % more than the bonded solid (Si 12.6 V, Au 28.4 V).
@pytest.mark.parametrize(
    ("make", "volts"), [(silicon, (12.0, 14.5)), (gold, (27.0, 32.0))], ids=["Si", "Au"]
)
def test_mean_inner_potential(make, volts: tuple[float, float]) -> None:
    mean = make().potential_coefficients([[0, 0, 0]])[0]
    assert volts[0] < float(mean.real) < volts[1]
    assert float(mean.imag) == pytest.approx(0.0, abs=1e-12)


def test_couplings_are_the_potential_in_other_units() -> None:
    crystal = gallium_arsenide()
    hkl = reflections(crystal, 1.0)
    volts = crystal.potential_coefficients(hkl)
    couplings = crystal.coupling_coefficients(hkl, ENERGY, absorption=False)
    # 2 m e / h^2 = 1 / (47.878 V Å^2 pi) x pi: U = gamma V / 150.41 V Å^2.
    expected = lorentz_factor(ENERGY) * volts / 150.4121
    assert torch.allclose(couplings, expected, rtol=1e-5)


def test_forbidden_and_allowed_reflections() -> None:
    silicon_volts = torch.abs(
        silicon().potential_coefficients([[1, 0, 0], [2, 0, 0], [1, 1, 1], [2, 2, 0]])
    )
    assert float(silicon_volts[:2].max()) < 1e-12
    assert float(silicon_volts[2:].min()) > 1.0
    assert float(torch.abs(gallium_arsenide().potential_coefficients([[2, 0, 0]])[0])) > 0.1


@pytest.mark.parametrize("name", MATERIALS)
def test_the_potential_is_real_and_centrosymmetric_crystals_have_real_coefficients(
    name: str,
) -> None:
    crystal = MATERIALS[name]()
    hkl = reflections(crystal, 1.0)
    volts, opposite = crystal.potential_coefficients(hkl), crystal.potential_coefficients(-hkl)
    assert torch.allclose(volts, opposite.conj(), atol=1e-10)
    largest_phase = float(torch.abs(volts.imag).max())
    if name == "Si":
        # The inversion centre of diamond lies at 1/8, between the atoms.
        moved = crystal.positions - 0.125
        centred = Crystal(crystal.lattice, crystal.numbers, moved)
        largest_phase = float(torch.abs(centred.potential_coefficients(hkl).imag).max())
    assert (largest_phase > 1.0) if name == "GaAs" else (largest_phase < 1e-10)


def test_thermal_motion_occupancy_and_kinds_are_summed_atom_by_atom() -> None:
    hkl = np.array([[2, 0, 0], [1, 1, 1], [0, 3, 1]])
    positions = [[0, 0, 0], [0.3, 0.1, 0.2], [0.6, 0.7, 0.4]]
    crystal = Crystal(CUBE, [14, 14, 8], positions, [1.0, 0.5, 0.25], [0.2, 0.9, 0.5])
    parts = sum(
        share * Crystal(CUBE, [z], [r], None, b).potential_coefficients(hkl)
        for z, r, share, b in zip(
            [14, 14, 8], positions, [1.0, 0.5, 0.25], [0.2, 0.9, 0.5], strict=True
        )
    )
    assert torch.allclose(crystal.potential_coefficients(hkl), parts)
    # A rigid shift only turns the phases; thermal motion damps by exp(-B g^2 / 4).
    still = Crystal(CUBE, [14], [[0, 0, 0]], b_iso=0.0).potential_coefficients(hkl)
    moving = Crystal(CUBE, [14], [[0, 0, 0]], b_iso=1.0).potential_coefficients(hkl)
    g_squared = torch.as_tensor((hkl**2).sum(1) / 16.0)
    assert torch.allclose(moving.real, still.real * torch.exp(-0.25 * g_squared))


def test_gradients_reach_lattice_positions_occupancies_and_motion() -> None:
    crystal = silicon()
    occupancies = 0.9 * crystal.occupancies
    leaves = [
        value.clone().requires_grad_()
        for value in (crystal.lattice, crystal.positions, occupancies, crystal.b_iso)
    ]

    def total(lattice, positions, occupancies, b_iso) -> torch.Tensor:
        rebuilt = Crystal(lattice, crystal.numbers, positions, occupancies, b_iso)
        return torch.abs(rebuilt.potential_coefficients([[0, 0, 0], [2, 2, 0], [1, 1, 1]])).sum()

    assert torch.autograd.gradcheck(total, leaves, atol=1e-5)


def test_what_the_constructor_takes_is_kept_as_float64() -> None:
    crystal = Crystal(CUBE.astype(np.float32), np.array([14]), [[0, 0, 0]], name="cube")
    assert crystal.lattice.dtype == crystal.occupancies.dtype == torch.float64
    assert crystal.b_iso.tolist() == [0.5] and crystal.name == "cube"
