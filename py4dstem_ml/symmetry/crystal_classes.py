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

    Those of orthorhombic crystals, which have no natural order, are sorted.
    """
    lengths = np.array(cell, dtype=np.float32)[:, :3]
    orthorhombic = np.asarray(system) == SYSTEMS.index("orthorhombic")
    lengths[orthorhombic] = np.sort(lengths[orthorhombic], axis=1)
    return lengths
