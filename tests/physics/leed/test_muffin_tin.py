"""Phase shifts against a sphere that is solved exactly, and against tables of others."""

import numpy as np
import pytest
from scipy.special import spherical_jn, spherical_yn

from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.leed.atom import Atom, RadialGrid
from py4dstem_ml.physics.leed.muffin_tin import (
    HARTREE_EV,
    MuffinTin,
    muffin_tins,
    phase_shifts,
    scattering_phases,
)

FCC = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
SILICON = Crystal.cubic(5.431, [14] * 8, np.concatenate([FCC, FCC + 0.25]))
GAAS = Crystal.cubic(5.653, [31] * 4 + [33] * 4, np.concatenate([FCC, FCC + 0.25]))


def modulo_pi(difference):
    return difference - np.pi * np.rint(difference / np.pi)


def test_a_spherical_well():
    depth, radius = 1.5, 2.2
    grid = RadialGrid.of(1)
    empty = Atom(0, grid, 0 * grid.r, 0 * grid.r, {})
    well = MuffinTin(empty, np.full_like(grid.r, -depth), radius)
    energies = np.array([5.0, 40.0, 300.0])
    found = scattering_phases(well, energies, 5, relativistic=False)
    degree = np.arange(6)
    k = np.sqrt(2 * energies / HARTREE_EV)[:, None]
    inner = np.sqrt(k**2 + 2 * depth)
    slope = (
        inner * spherical_jn(degree, inner * radius, True) / spherical_jn(degree, inner * radius)
    )
    top = k * spherical_jn(degree, k * radius, True) - slope * spherical_jn(degree, k * radius)
    bottom = k * spherical_yn(degree, k * radius, True) - slope * spherical_yn(degree, k * radius)
    np.testing.assert_allclose(modulo_pi(found - np.arctan(top / bottom)), 0, atol=1e-5)


def test_silicon_against_a_self_consistent_potential():
    # Moruzzi, Janak & Williams' potential, as tabulated by CLEED, at 40 eV.
    found = phase_shifts(SILICON, [30.0, 40.0, 50.0])[14].at(40.0)[:4]
    np.testing.assert_allclose(modulo_pi(found - [-0.344, 0.598, 1.057, 0.140]), 0, atol=0.035)
    assert muffin_tins(SILICON)[14].radius == pytest.approx(2.2219, abs=2e-3)


@pytest.mark.data
def test_silicon_against_an_earlier_program(data_folder):
    with np.load(data_folder / "leed" / "si_phase_own.npz") as given:
        energies, expected = given["E_Ha"] * HARTREE_EV, given["delta"]
    found = phase_shifts(SILICON, energies, relativistic=False)[14].delta
    np.testing.assert_allclose(modulo_pi(found - expected), 0, atol=4e-3)


def test_more_exchange_attracts_more():
    energies = [30.0, 60.0]
    usual, slater = (phase_shifts(SILICON, energies, alpha=a)[14].delta for a in (2 / 3, 1.0))
    shift = modulo_pi(slater - usual)[:, :3]
    assert (shift > 0.05).all() and (shift < 0.3).all()


def test_two_elements():
    tins = muffin_tins(GAAS)
    assert set(tins) == {31, 33}
    bond = 5.653 * np.sqrt(3) / 4 / 0.529177
    assert tins[31].radius + tins[33].radius == pytest.approx(bond, rel=2e-3)
    found = phase_shifts(GAAS, [40.0, 60.0], lmax=4)
    assert np.abs(modulo_pi(found[31].delta - found[33].delta)).max() > 0.1
    # Far inside, an atom's potential is that of its nucleus.
    for number, tin in tins.items():
        assert tin.potential[0] * tin.atom.grid.r[0] == pytest.approx(-number, rel=0.02)


def test_relativity_matters_for_silver_and_not_for_silicon():
    silver = Crystal.cubic(4.07, [47] * 4, FCC)
    for crystal, number, low, high in ((SILICON, 14, 0.0, 0.01), (silver, 47, 0.05, 0.5)):
        one, other = (
            phase_shifts(crystal, [60.0, 90.0], relativistic=r)[number].delta for r in (True, False)
        )
        assert low < np.abs(modulo_pi(one - other)).max() < high


@pytest.mark.parametrize(
    ("crystal", "energies", "options", "message"),
    [
        (SILICON, [0.0, 10.0], {}, "above 0"),
        (SILICON, [10.0, 20.0], {"alpha": 0.0}, "alpha"),
        (
            Crystal(SILICON.lattice, SILICON.numbers, SILICON.positions, [0.5] * 8),
            [10.0, 20.0],
            {},
            "fully occupied",
        ),
    ],
)
def test_bad_input_is_refused(crystal, energies, options, message):
    with pytest.raises(ValueError, match=message):
        phase_shifts(crystal, energies, **options)
