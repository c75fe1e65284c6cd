"""The seven crystal systems, the space groups of each, and which of its axes are equal."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: In falling order of symmetry.
SYSTEMS = (
    "cubic", "hexagonal", "trigonal", "tetragonal", "orthorhombic", "monoclinic", "triclinic",
)  # fmt: skip
#: Numbers of the space groups of each system, first and last.
_SPACE_GROUPS = ((195, 230), (168, 194), (143, 167), (75, 142), (16, 74), (3, 15), (1, 2))
#: The lengths of a, b, c that are equal in the conventional cell; trigonal on hexagonal axes.
EQUAL_AXES = ((0, 0, 0), (0, 0, 2), (0, 0, 2), (0, 0, 2), (0, 1, 2), (0, 1, 2), (0, 1, 2))
#: Steps of Gauss's reduction; each at least halves what is too long.
_REDUCTIONS = 16


def space_groups(system: int) -> npt.NDArray[np.int64]:
    """Return the numbers of the space groups of a system.

    Examples
    --------
    >>> space_groups(6).tolist()
    [1, 2]
    """
    first, last = _SPACE_GROUPS[system]
    return np.arange(first, last + 1)


#: The system of each space group, that of number 1 first.
SYSTEM_OF_GROUP = np.zeros(230, dtype=np.int64)
for _system in range(len(SYSTEMS)):
    SYSTEM_OF_GROUP[space_groups(_system) - 1] = _system


def lattice_targets(cell: npt.ArrayLike, system: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return a, b, c in Å of conventional cells (n, 6) as they are predicted.

    They do not depend on the setting: those of orthorhombic and triclinic crystals are sorted,
    and a and c of monoclinic ones, unique axis b, are the shortest vectors normal to b, sorted. A
    triclinic cell is taken to be reduced.
    """
    lengths = np.array(cell, dtype=float)[:, :3]
    system = np.asarray(system)
    monoclinic = system == SYSTEMS.index("monoclinic")
    beta = np.radians(np.asarray(cell, dtype=float)[monoclinic, 4])
    lengths[monoclinic, ::2] = _shortest_in_plane(*lengths[monoclinic, ::2].T, beta)
    unordered = np.isin(system, [SYSTEMS.index("orthorhombic"), SYSTEMS.index("triclinic")])
    lengths[unordered] = np.sort(lengths[unordered], axis=1)
    return lengths.astype(np.float32)


def _shortest_in_plane(
    first: npt.NDArray, second: npt.NDArray, angle: npt.NDArray
) -> npt.NDArray[np.float64]:
    """Lengths (n, 2) of the two shortest vectors of plane lattices, Gauss's reduction."""
    short = first.astype(complex)
    long = second * np.exp(1j * angle)
    for _ in range(_REDUCTIONS):
        swap = abs(long) < abs(short)
        short, long = np.where(swap, long, short), np.where(swap, short, long)
        long = long - short * np.round((long / short).real)
    return np.sort(np.abs(np.column_stack([short, long])), axis=1)
