"""Phase shifts of a crystal's atoms: superposed free atoms in muffin tins.

Mattheiss, Phys. Rev. 133 (1964) A1399, as Loucks, Augmented Plane Wave Method (1967) puts it: the
atoms' densities and Coulomb potentials are superposed and averaged over directions about each
site; exchange and correlation follow from the density; between the spheres the potential is
constant. Within a sphere the scalar-relativistic radial equations are integrated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline
from scipy.special import spherical_jn, spherical_yn

from ..crystal import Crystal
from .atom import LIGHT, Atom, Floats, exchange_correlation, mass, solve_atom
from .phase_shifts import PhaseShifts

HARTREE_EV = 27.211_386
BOHR = 0.529_177_211

#: Bohr: farther atoms are neutral points.
_REACH = 18.0


@dataclass(frozen=True, eq=False)
class MuffinTin:
    """A spherical potential within a sphere.

    Attributes
    ----------
    atom : Atom
    potential : ndarray, shape (n,)
        Hartree above the muffin-tin zero, on the atom's grid.
    radius : float
        Bohr.
    """

    atom: Atom
    potential: Floats
    radius: float


def _average_about(distance: float, atom: Atom, values: Floats, r: Floats) -> Floats:
    """What a spherical function about another site is on average at r about this one."""
    grid = atom.grid
    primitive = CubicSpline(
        grid.position(grid.r), values * grid.r * (grid.r + grid.a)
    ).antiderivative()
    low, high = np.abs(distance - r), np.minimum(distance + r, grid.r[-1])
    inside = low < grid.r[-1]
    total = np.zeros_like(r)
    between = grid.position(high[inside]), grid.position(low[inside])
    total[inside] = primitive(between[0]) - primitive(between[1])
    return total / (2 * distance * r)


def _neighbours(crystal: Crystal, site: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Distances in Bohr of all atoms around one, the nearest first, and which they are."""
    lattice = crystal.lattice.detach().numpy() / BOHR
    places = crystal.positions.detach().numpy()
    cells = np.ceil(_REACH * np.linalg.norm(np.linalg.inv(lattice), axis=0)).astype(int) + 1
    shifts = np.indices(2 * cells + 1).reshape(3, -1).T - cells
    apart = (shifts[:, None] + places - places[site]) @ lattice
    distances = np.linalg.norm(apart, axis=-1).ravel()
    kinds = np.tile(np.arange(len(places)), len(shifts))
    order = np.argsort(distances)
    kept = order[(distances[order] > 1e-3) & (distances[order] < _REACH)]
    return distances[kept], kinds[kept]


def _superposed(
    crystal: Crystal, site: int, atoms: dict[int, Atom], alpha: float
) -> tuple[Floats, float, int]:
    """The potential about a site, the distance of its nearest neighbour, and which that is."""
    numbers = crystal.numbers.tolist()
    own = atoms[numbers[site]]
    distances, kinds = _neighbours(crystal, site)
    coulomb, density = own.coulomb.copy(), own.density.copy()
    pairs = np.column_stack([np.round(distances, 4), [numbers[kind] for kind in kinds]])
    for (distance, number), count in zip(
        *np.unique(pairs, axis=0, return_counts=True), strict=True
    ):
        other = atoms[int(number)]
        coulomb += count * _average_about(distance, other, other.coulomb, own.grid.r)
        density += count * _average_about(distance, other, other.density, own.grid.r)
    potential = coulomb + exchange_correlation(density, alpha)
    return potential, float(distances[0]), int(kinds[0])


def muffin_tins(
    crystal: Crystal, *, alpha: float = 2 / 3, relativistic: bool = True
) -> dict[int, MuffinTin]:
    """Return the muffin tin of each element of a crystal.

    Spheres of neighbours touch: where their potentials are equal if they differ. The zero is the
    mean potential between the spheres and those that fill the crystal's volume.

    Parameters
    ----------
    crystal : Crystal
        The first site of an element stands for all.
    alpha : float
        Exchange in units of Slater's: 2/3 is Kohn and Sham's, 1 Slater's own.
    relativistic : bool

    Raises
    ------
    ValueError
        If ``alpha`` is not positive, or a site is not fully occupied.
    """
    if not alpha > 0:
        raise ValueError(f"alpha scales exchange, 2/3 to 1; not {alpha!r}")
    if bool((crystal.occupancies != 1).any()):
        raise ValueError("muffin tins need fully occupied sites")
    numbers = crystal.numbers.tolist()
    sites = {number: numbers.index(number) for number in sorted(set(numbers))}
    atoms = {number: solve_atom(number, relativistic) for number in sites}
    found = {number: _superposed(crystal, site, atoms, alpha) for number, site in sites.items()}
    radii = {}
    for number, (potential, distance, neighbour) in found.items():
        other = numbers[neighbour]
        radii[number] = _touching(atoms[number], potential, atoms[other], found[other][0], distance)
    volumes = sum(4 / 3 * np.pi * radii[number] ** 3 for number in numbers)
    swelling = (crystal.volume / BOHR**3 / volumes) ** (1 / 3)
    shares = [_integrated(atoms[n], found[n][0], radii[n], swelling * radii[n]) for n in numbers]
    zero = sum(value for value, _ in shares) / sum(volume for _, volume in shares)
    return {n: MuffinTin(atoms[n], found[n][0] - zero, radii[n]) for n in sites}


def _touching(atom: Atom, potential: Floats, other: Atom, theirs: Floats, distance: float) -> float:
    """The radius at which the potential equals the neighbour's, seen from it."""
    r = np.linspace(0.2 * distance, 0.8 * distance, 1201)
    mine = np.interp(r, atom.grid.r, potential)
    difference = mine - np.interp(distance - r, other.grid.r, theirs)
    return float(r[np.abs(difference).argmin()])


def _integrated(atom: Atom, potential: Floats, low: float, high: float) -> tuple[float, float]:
    """The potential's integral between two radii, and the volume there."""
    nodes, weights = np.polynomial.legendre.leggauss(32)
    r = 0.5 * (high + low) + 0.5 * (high - low) * nodes
    volume = 4 * np.pi * r**2 * weights * 0.5 * (high - low)
    return float(np.interp(r, atom.grid.r, potential) @ volume), float(volume.sum())


def phase_shifts(
    crystal: Crystal,
    energies_ev: npt.ArrayLike,
    *,
    lmax: int = 8,
    alpha: float = 2 / 3,
    relativistic: bool = True,
) -> dict[int, PhaseShifts]:
    """Return the phase shifts of each element of a crystal, by atomic number.

    Parameters
    ----------
    crystal : Crystal
        The bulk, or any crystal in which the atoms have the neighbours that they are to have.
    energies_ev : array_like, shape (n,)
        Above the muffin-tin zero, rising.
    lmax : int
    alpha, relativistic
        See `muffin_tins`.

    Raises
    ------
    ValueError
        If an energy is not above 0, or `muffin_tins` refuses.

    Examples
    --------
    >>> caesium_chloride = Crystal.cubic(2.98, [27, 13], [[0, 0, 0], [0.5, 0.5, 0.5]])
    >>> phase_shifts(caesium_chloride, [40.0, 60.0, 80.0], lmax=4)[13].delta.shape
    (3, 5)
    """
    energies = np.asarray(energies_ev, dtype=float)
    if not (energies > 0).all():
        raise ValueError("phase shifts are for energies in eV above the muffin-tin zero, above 0")
    tins = muffin_tins(crystal, alpha=alpha, relativistic=relativistic)
    return {
        number: PhaseShifts(energies, scattering_phases(tin, energies, lmax, relativistic))
        for number, tin in tins.items()
    }


def scattering_phases(
    tin: MuffinTin, energies_ev: Floats, lmax: int, relativistic: bool = True
) -> Floats:
    """Return delta_l in rad of one sphere, up to multiples of pi, shape (n, lmax + 1)."""
    energy = energies_ev[:, None] / HARTREE_EV
    degree = np.arange(lmax + 1)
    slope = _logarithmic_derivative(tin, energy, degree, relativistic)
    k = np.sqrt(2 * energy)
    inside, outside = (
        (f(degree, k * tin.radius), k * f(degree, k * tin.radius, derivative=True))
        for f in (spherical_jn, spherical_yn)
    )
    return np.arctan2(inside[1] - slope * inside[0], outside[1] - slope * outside[0])


def _logarithmic_derivative(
    tin: MuffinTin, energy: Floats, degree: npt.NDArray[np.int64], relativistic: bool
) -> Floats:
    """R'/R at the sphere's surface, of the solution that is regular at the nucleus.

    Runge and Kutta's steps of fourth order in the grid's x, for P = r R and Q = (P' - R) / 2M.
    """
    grid = tin.atom.grid
    potential = CubicSpline(grid.position(grid.r), tin.potential * grid.r)
    end = float(grid.position(tin.radius))
    steps = int(np.ceil(end / 0.008))
    step = end / steps
    x = 0.5 * step * np.arange(1, 2 * steps + 1)
    radii = grid.a * np.expm1(x)
    potentials = potential(x) / radii
    angular = degree * (degree + 1)

    def rates(i: int, p: Floats, q: Floats) -> tuple[Floats, Floats]:
        r, v = radii[i], potentials[i]
        m = mass(energy, v, relativistic)
        dp = 2 * m * q + p / r
        dq = (angular / (2 * m * r**2) + v - energy) * p - q / r
        return (r + grid.a) * dp, (r + grid.a) * dq

    # P = r^s at the nucleus; its scale may be any.
    charge = tin.atom.number / LIGHT if relativistic else 0.0
    power = np.sqrt(angular + 1 - charge**2) if relativistic else degree + 1.0
    p = np.ones(np.broadcast_shapes(energy.shape, degree.shape))
    q = (power - 1) * p / (2 * mass(energy, potentials[1], relativistic) * radii[1])
    for i in range(1, 2 * steps - 2, 2):
        a = rates(i, p, q)
        b = rates(i + 1, p + 0.5 * step * a[0], q + 0.5 * step * a[1])
        c = rates(i + 1, p + 0.5 * step * b[0], q + 0.5 * step * b[1])
        d = rates(i + 2, p + step * c[0], q + step * c[1])
        p = p + step / 6 * (a[0] + 2 * b[0] + 2 * c[0] + d[0])
        q = q + step / 6 * (a[1] + 2 * b[1] + 2 * c[1] + d[1])
        scale = np.abs(p)
        p, q = p / scale, q / scale
    m = mass(energy, potentials[-1], relativistic)
    return 2 * m * q / p
