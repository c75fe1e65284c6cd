"""A free atom in the local density approximation, scalar-relativistic.

Hartree atomic units. Radial equations of Koelling & Harmon, J. Phys. C 10 (1977) 3107; exchange
of Kohn & Sham, correlation of Hedin & Lundqvist, J. Phys. C 4 (1971) 2064.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh_tridiagonal

Floats = npt.NDArray[np.float64]

#: Speed of light.
LIGHT = 137.035_999
#: The order in which shells fill, (n, l).
_FILLING = sorted(((n, l_) for n in range(1, 8) for l_ in range(n)), key=lambda s: (sum(s), s[0]))
#: Electrons that leave an outer s shell for the d shell below, where these differ from the rule.
_PROMOTED = {24: 1, 29: 1, 41: 1, 42: 1, 44: 1, 45: 1, 46: 2, 47: 1, 78: 1, 79: 1}
#: Radii are a (exp(x) - 1), a = this share of the innermost shell's radius, in even steps of x.
_INNER, _STEP, _LARGEST_RADIUS = 0.5, 0.005, 40.0
#: Hartree times Bohr: the change of r V that ends the iterations.
_CONVERGED = 1e-6
_MIXING, _ITERATIONS = 0.4, 200


def exchange_correlation(density: Floats, alpha: float = 2 / 3) -> Floats:
    """Return the potential of exchange, scaled by 3 alpha / 2, and correlation."""
    n = np.maximum(density, 1e-30)
    correlation = -0.0225 * np.log(1 + 21 * np.cbrt(4 * np.pi * n / 3))
    return -1.5 * alpha * np.cbrt(3 * n / np.pi) + correlation


def configuration(number: int) -> dict[tuple[int, int], int]:
    """Return the electrons of each shell (n, l) of an element's ground state.

    Examples
    --------
    >>> configuration(14)[3, 1]
    2
    """
    if not 1 <= number <= 99:
        raise ValueError(f"elements are counted from 1 to 99 here; not {number!r}")
    shells: dict[tuple[int, int], int] = {}
    left = number
    for n, degree in _FILLING:
        shells[n, degree] = min(left, 2 * (2 * degree + 1))
        left -= shells[n, degree]
        if not left:
            break
    outer = max(n for n, _ in shells)
    shells[outer - 1, 2] = shells.get((outer - 1, 2), 0) + _PROMOTED.get(number, 0)
    shells[outer, 0] -= _PROMOTED.get(number, 0)
    return {shell: electrons for shell, electrons in shells.items() if electrons}


def mass(energy: npt.ArrayLike, potential: Floats, relativistic: bool) -> Floats:
    """Return M = 1 + (E - V) / 2 c^2, or 1."""
    excess = (np.asarray(energy) - potential) / (2 * LIGHT**2)
    return 1 + excess if relativistic else np.ones_like(excess)


@dataclass(frozen=True, eq=False)
class RadialGrid:
    """Radii r = a (exp(x) - 1) up to 40 Bohr, dense near the nucleus.

    Attributes
    ----------
    a : float
        Bohr.
    r, dr : ndarray, shape (n,)
        Radii in the middle of shells, and the shells' widths, Bohr.
    edges : ndarray, shape (n - 1,)
        Radii between shells.
    """

    a: float
    r: Floats
    dr: Floats
    edges: Floats

    @classmethod
    def of(cls, number: int) -> RadialGrid:
        """Return the grid of an element."""
        a = _INNER / number
        x = np.arange(0.5 * _STEP, np.log1p(_LARGEST_RADIUS / a), _STEP)
        r, edges = a * np.expm1(x), a * np.expm1(x[1:] - 0.5 * _STEP)
        return cls(a, r, (r + a) * _STEP, edges)

    def position(self, r: npt.ArrayLike) -> Floats:
        """Return x of radii."""
        return np.log1p(np.asarray(r) / self.a)


def bound_state(
    grid: RadialGrid, potential: Floats, n: int, degree: int, guess: float, relativistic: bool
) -> tuple[float, Floats]:
    """Return the energy of a bound state and its density r^2 R^2, of integral 1 over r.

    The energy's functional of the radial function R is quadratic but for the energy in the mass,
    which is that of ``guess``.
    """
    between = mass(guess, 0.5 * (potential[1:] + potential[:-1]), relativistic)
    bond = grid.edges**2 / (2 * between * (grid.r[1:] - grid.r[:-1]))
    centrifugal = degree * (degree + 1) / (2 * mass(guess, potential, relativistic))
    weight = grid.dr * grid.r**2
    diagonal = grid.dr * centrifugal + weight * potential
    diagonal[1:] += bond
    diagonal[:-1] += bond
    root = np.sqrt(weight)
    place = n - degree - 1
    energy, vector = eigh_tridiagonal(
        diagonal / weight, -bond / (root[1:] * root[:-1]), select="i", select_range=(place, place)
    )
    return float(energy[0]), vector[:, 0] ** 2 / grid.dr


@dataclass(frozen=True, eq=False)
class Atom:
    """A neutral atom.

    Attributes
    ----------
    number : int
        Atomic number.
    grid : RadialGrid
    density : ndarray, shape (n,)
        Electrons in 1/Bohr^3.
    coulomb : ndarray, shape (n,)
        Potential energy in Hartree of an electron in the field of nucleus and electrons,
        exchange and correlation left out.
    energies : dict
        (n, l) -> eigenvalue in Hartree.
    """

    number: int
    grid: RadialGrid
    density: Floats
    coulomb: Floats
    energies: dict[tuple[int, int], float]


def coulomb_potential(number: int, grid: RadialGrid, density: Floats) -> Floats:
    """Return the potential energy of an electron between a nucleus and a density."""
    charge = 4 * np.pi * density * grid.r**2 * grid.dr
    within = np.cumsum(charge) - 0.5 * charge
    beyond = np.cumsum((charge / grid.r)[::-1])[::-1] - 0.5 * charge / grid.r
    return (within - number) / grid.r + beyond


@lru_cache(maxsize=16)
def solve_atom(number: int, relativistic: bool = True) -> Atom:
    """Return a self-consistent atom in its ground state's configuration.

    Parameters
    ----------
    number : int
        1 to 99.
    relativistic : bool
        Scalar-relativistic, or Schrödinger's equation.

    Raises
    ------
    ValueError
        For another number.
    RuntimeError
        If the iterations do not converge.

    Examples
    --------
    >>> round(solve_atom(2, relativistic=False).energies[1, 0], 2)
    -0.57
    """
    shells, grid = configuration(number), RadialGrid.of(number)
    r = grid.r
    # Thomas and Fermi's screening is where to start from.
    potential = -(1 + (number - 1) * np.exp(-1.5 * np.cbrt(number) * r)) / r
    energies = {(n, degree): -((number / n) ** 2) / 4 for n, degree in shells}
    for _ in range(_ITERATIONS):
        density = np.zeros_like(r)
        for (n, degree), electrons in shells.items():
            guess = energies[n, degree]
            energies[n, degree], share = bound_state(
                grid, potential, n, degree, guess, relativistic
            )
            density += electrons * share / (4 * np.pi * r**2)
        coulomb = coulomb_potential(number, grid, density)
        wanted = coulomb + exchange_correlation(density)
        change = np.abs((wanted - potential) * r).max()
        potential = potential + _MIXING * (wanted - potential)
        if change < _CONVERGED:
            return Atom(number, grid, density, coulomb, energies)
    raise RuntimeError(f"the atom of number {number} does not become self-consistent")
