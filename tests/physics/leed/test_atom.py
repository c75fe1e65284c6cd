"""Free atoms against exact energies of one electron, and against tables of many."""

import numpy as np
import pytest

from py4dstem_ml.physics.leed.atom import (
    LIGHT,
    RadialGrid,
    bound_state,
    configuration,
    exchange_correlation,
    solve_atom,
)

# Kotochigova et al., Phys. Rev. A 55 (1997) 191 (NIST), local density, not relativistic, Hartree;
# theirs is another correlation.
TABULATED = {
    14: {(1, 0): -65.18, (2, 0): -5.08, (2, 1): -3.51, (3, 0): -0.40, (3, 1): -0.15},
    47: {(1, 0): -900.32, (3, 2): -13.37, (4, 0): -3.22, (4, 2): -0.30, (5, 0): -0.16},
}


@pytest.mark.parametrize("number", [10, 47])
@pytest.mark.parametrize(("n", "degree"), [(1, 0), (2, 0), (2, 1), (3, 2)])
def test_one_electron(number, n, degree):
    grid = RadialGrid.of(number)
    energy, density = bound_state(grid, -number / grid.r, n, degree, 0.0, False)
    assert energy == pytest.approx(-0.5 * (number / n) ** 2, rel=1e-4)
    assert density @ grid.dr == pytest.approx(1)
    mean = (3 * n**2 - degree * (degree + 1)) / (2 * number)
    assert density @ (grid.r * grid.dr) == pytest.approx(mean, rel=1e-4)


def test_one_fast_electron():
    # Of s states the scalar-relativistic energy is Dirac's.
    grid, energy = RadialGrid.of(47), 0.0
    for _ in range(8):
        energy, _ = bound_state(grid, -47 / grid.r, 1, 0, energy, True)
    exact = LIGHT**2 * (np.sqrt(1 - (47 / LIGHT) ** 2) - 1)
    assert energy == pytest.approx(exact, rel=3e-5)
    assert exact < -1.02 * 0.5 * 47**2


@pytest.mark.parametrize("number", TABULATED)
def test_energies_of_atoms(number):
    energies = solve_atom(number, relativistic=False).energies
    for shell, expected in TABULATED[number].items():
        assert energies[shell] == pytest.approx(expected, abs=0.011)


def test_an_atom_is_neutral():
    atom = solve_atom(14)
    grid = atom.grid
    assert 4 * np.pi * atom.density @ (grid.r**2 * grid.dr) == pytest.approx(14, rel=1e-6)
    assert abs(atom.coulomb[-1] * grid.r[-1]) < 1e-3
    assert atom.coulomb[0] * grid.r[0] == pytest.approx(-14, rel=1e-2)


def test_configurations():
    assert configuration(14) == {(1, 0): 2, (2, 0): 2, (2, 1): 6, (3, 0): 2, (3, 1): 2}
    silver = configuration(47)
    assert silver[4, 2] == 10 and silver[5, 0] == 1 and sum(silver.values()) == 47
    assert all(sum(configuration(z).values()) == z for z in range(1, 100))
    for number in (0, 100):
        with pytest.raises(ValueError, match="1 to 99"):
            configuration(number)


def test_exchange_of_the_electron_gas():
    # At r_s = 2 Bohr exchange alone is -(9 / 4 pi^2)^(1/3) / r_s, correlation about a tenth.
    density = np.array([3 / (4 * np.pi * 8)])
    exchange = -((9 / (4 * np.pi**2)) ** (1 / 3)) / 2
    both, more = exchange_correlation(density), exchange_correlation(density, 1.0)
    assert 1.05 * exchange > both > 1.3 * exchange
    assert more - both == pytest.approx(0.5 * exchange)
