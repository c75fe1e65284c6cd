"""Cells that no crystal has: random columns with the plane groups of cubic [001] projections.

A bright field without higher-order Laue zones depends on nothing but the projection. Known
crystals have a few hundred prototypes, a network soon knows them by heart; these are as many as
are wanted, each of a prototype of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..physics.crystal import Crystal

Floats = npt.NDArray[np.float64]

#: Generators of plane groups, as 2 x 2 matrix and shift: mirror, diagonal, glides.
_TWOFOLD = ([[-1, 0], [0, -1]], [0, 0])
_MIRROR = ([[-1, 0], [0, 1]], [0, 0])
_GLIDE = ([[-1, 0], [0, 1]], [0.5, 0.5])
_DIAGONAL = ([[0, 1], [1, 0]], [0, 0])
_DIAGONAL_GLIDE = ([[0, 1], [1, 0]], [0.5, 0.5])
_CENTRING = ([[1, 0], [0, 1]], [0.5, 0.5])
_HALVES = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
#: Name: generators, and how often it is drawn (about as among known crystals).
_PLANE_GROUPS = {
    "p4mm": ((_TWOFOLD, _MIRROR, _DIAGONAL), 0.6),
    "p2mm": ((_TWOFOLD, _MIRROR), 0.2),
    "p2gg": ((_TWOFOLD, _GLIDE), 0.12),
    "p4gm": ((_TWOFOLD, _GLIDE, _DIAGONAL_GLIDE), 0.08),
}
#: How many smaller cells a projection has, and how often: primitive, centred, both axes halved.
_SMALLER = {1: 0.35, 2: 0.25, 4: 0.4}
#: Å^3 that an atom takes, least and greatest; Å between which a lies.
_VOLUME = (9.0, 28.0)
_LATTICE = (2.6, 16.0)
#: Å; atoms in a column, and columns, are not nearer.
_ATOMS_APART, _COLUMNS_APART = 2.0, 0.6
#: Shares of positions on a point, a line of symmetry, or none.
_PLACES = (0.55, 0.3, 0.15)
_ELEMENTS = np.r_[1, 3:10, 11:18, 19:36, 37:54, 55:84, 90:95]


def random_cell(rng: np.random.Generator) -> Crystal:
    """Return a cubic cell whose [001] projection has a plane group that cubic crystals have.

    Its atoms are placed at random along [001]: only the projection means anything.

    Examples
    --------
    >>> import numpy as np
    >>> cell = random_cell(np.random.default_rng(0))
    >>> bool(np.allclose(cell.lattice, cell.lattice[0, 0] * np.eye(3)))
    True
    """
    while True:
        groups = list(_PLANE_GROUPS)
        group = groups[rng.choice(len(groups), p=[share for _, share in _PLANE_GROUPS.values()])]
        smaller = int(rng.choice(list(_SMALLER), p=list(_SMALLER.values())))
        numbers, positions = _atoms(rng, _PLANE_GROUPS[group][0], smaller)
        volume = float(np.exp(rng.uniform(*np.log(_VOLUME))))
        a = (len(numbers) * volume) ** (1 / 3)
        if _LATTICE[0] <= a <= _LATTICE[1] and _is_plausible(a * positions, a):
            return Crystal.cubic(a, numbers, positions, name=f"random {group}")


def _is_plausible(places: Floats, a: float) -> bool:
    """Whether columns are apart, and atoms (n, 3) are apart in them."""
    columns, counts = np.unique(np.round(places[:, :2], 3), axis=0, return_counts=True)
    if counts.max() * _ATOMS_APART > a:
        return False
    away = (columns[:, None] - columns + a / 2) % a - a / 2
    distance = np.hypot(away[..., 0], away[..., 1]) + a * np.eye(len(columns))
    return bool(distance.min() > _COLUMNS_APART)


def _atoms(
    rng: np.random.Generator, generators: tuple, smaller: int
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Elements, and positions in the cell, centred or with four smaller cells."""
    numbers, positions = [], []
    for _ in range(rng.integers(1, 6)):
        if smaller == 2:
            generators = (*generators, _CENTRING)
        cell = np.array(list(_orbit(_place(rng), generators)))
        if smaller == 4:
            cell = (cell[:, None] + _HALVES).reshape(-1, 2) / 2
        element, atoms = int(rng.choice(_ELEMENTS)), int(rng.choice([1, 2, 4], p=[0.7, 0.25, 0.05]))
        for x, y in cell:
            z = (np.arange(atoms) + rng.random()) / atoms
            numbers += [element] * atoms
            positions += [[x, y, height] for height in z]
    return np.array(numbers), np.array(positions)


def _place(rng: np.random.Generator) -> Floats:
    """A point (2,), often where mirrors or axes are."""
    special = np.array([0.0, 0.25, 0.5, 0.75])
    kind = rng.choice(3, p=_PLACES)
    if kind == 0:
        return rng.choice(special, 2)
    if kind == 2:
        return rng.random(2)
    along = rng.random()
    return np.array([[along, rng.choice(special)], [along, along]][rng.integers(2)])


def _orbit(place: Floats, generators: tuple) -> Iterator[Floats]:
    """The different images of a place under a plane group."""
    found: list[Floats] = []
    waiting = [place % 1.0]
    while waiting:
        x = waiting.pop()
        if any(np.abs((x - y + 0.5) % 1.0 - 0.5).max() < 1e-6 for y in found):
            continue
        found.append(x)
        yield x
        waiting += [(np.array(matrix) @ x + shift) % 1.0 for matrix, shift in generators]
