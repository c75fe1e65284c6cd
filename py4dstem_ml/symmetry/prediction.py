"""What is predicted of Bragg lists, by whichever model, and how several predictions are joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .crystal_classes import SYSTEMS
from .lists import LISTS_AT_ONCE, BraggLists

#: Fewest diffracted peaks of a list that is read, as in the paper.
MIN_PEAKS = 5


@dataclass(eq=False)
class CrystalPrediction:
    """Crystal system, space group and lattice of each of n lists, or bags of lists.

    Attributes
    ----------
    probabilities : ndarray of float32, shape (n, 7)
        Of the systems in `SYSTEMS`, calibrated.
    confidence : ndarray of float32, shape (n,)
        Share of the trees that vote for the most voted system; a network's probability.
    difference : ndarray of float32, shape (n,)
        That share less the next system's.
    space_group : ndarray of int16, shape (n,)
        Number 1 to 230, of the predicted system.
    space_group_confidence, space_group_difference : ndarray of float32, shape (n,)
        As of the systems, given the system.
    lattice, lattice_spread : ndarray of float32, shape (n, 3)
        a, b, c of the conventional cell in Å, see `lattice_targets`, and half the width of the
        central 68 %.
    mixed : ndarray of float32, shape (n,)
        Probability that a list is of two crystals, or the share of such lists in a bag; NaN where
        the model cannot say.
    valid : ndarray of bool, shape (n,)
        False where there was too little to read: all else is -1 or NaN there.
    """

    probabilities: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    difference: npt.NDArray[np.float32]
    space_group: npt.NDArray[np.int16]
    space_group_confidence: npt.NDArray[np.float32]
    space_group_difference: npt.NDArray[np.float32]
    lattice: npt.NDArray[np.float32]
    lattice_spread: npt.NDArray[np.float32]
    mixed: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]

    @property
    def system(self) -> npt.NDArray[np.int16]:
        """Index in `SYSTEMS` of the likeliest system, -1 where there is none."""
        found = np.nan_to_num(self.probabilities).argmax(1)
        return np.where(self.valid, found, -1).astype(np.int16)

    @property
    def system_name(self) -> npt.NDArray[np.str_]:
        """Name of that system, "" where there is none."""
        return np.array([*SYSTEMS, ""])[self.system]

    def __len__(self) -> int:
        return len(self.valid)

    @classmethod
    def nothing(cls, n: int) -> CrystalPrediction:
        """Return that nothing is known of n lists."""

        def unknown(*shape: int) -> npt.NDArray[np.float32]:
            return np.full((n, *shape), np.nan, dtype=np.float32)

        return cls(
            unknown(len(SYSTEMS)), unknown(), unknown(), np.full(n, -1, np.int16), unknown(),
            unknown(), unknown(3), unknown(3), unknown(), np.zeros(n, bool),
        )  # fmt: skip

    def take(self, where: npt.NDArray) -> CrystalPrediction:
        """Return what is known of some lists, by number or mask."""
        return CrystalPrediction(*(getattr(self, field.name)[where] for field in fields(self)))

    def put(self, where: npt.NDArray | slice, part: CrystalPrediction) -> None:
        """Write what is known of some lists, by number, mask or slice, into this."""
        for field in fields(self):
            getattr(self, field.name)[where] = getattr(part, field.name)


def read_in_blocks(
    lists: BraggLists,
    system: npt.NDArray[np.int64] | None,
    read: Callable[[BraggLists, npt.NDArray[np.int64] | None], CrystalPrediction],
    size: int = LISTS_AT_ONCE,
) -> CrystalPrediction:
    """Read lists, with the systems whose details to give, block by block."""
    found = CrystalPrediction.nothing(len(lists))
    start = 0
    for block in lists.blocks(size):
        where = slice(start, start + len(block))
        found.put(where, read(block, None if system is None else system[where]))
        start += len(block)
    return found


class Model(Protocol):
    """What forests and network have in common."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What was said of the weights when they were saved."""
        ...

    def read(
        self,
        lists: BraggLists,
        system: npt.NDArray[np.int64] | None = None,
        *,
        system_only: bool = False,
    ) -> CrystalPrediction:
        """Read each list by itself; space group and lattice of `system`, or of the likeliest."""
        ...

    def pool(self, lists: BraggLists, bag: npt.NDArray[np.int64]) -> CrystalPrediction:
        """Read bags of lists of one crystal each."""
        ...


def top_two(shares: npt.NDArray) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the largest share of each row, and by how much it leads, shapes (n,).

    Examples
    --------
    >>> first, lead = top_two(np.array([[47, 20, 13]]) / 80)
    >>> float(lead[0])
    0.3375
    """
    ordered = np.sort(np.asarray(shares, dtype=np.float32), axis=1)
    if ordered.shape[1] == 1:  # nobody else stands
        return ordered[:, 0], ordered[:, 0]
    return ordered[:, -1], ordered[:, -1] - ordered[:, -2]


def difference_weighted(
    label: npt.NDArray, difference: npt.NDArray, bag: npt.NDArray, bags: int, classes: int
) -> npt.NDArray[np.float32]:
    """Return the share of each class in each bag's sum of difference confidences.

    Parameters
    ----------
    label, difference, bag : ndarray, shape (n,)
        Of each list: its class, how far that leads, and the bag that it is in.
    bags, classes : int

    Returns
    -------
    ndarray, shape (bags, classes)
        Equal shares where a bag has no list that leads.

    Notes
    -----
    W_c = sum of (n1 - n2) / T over the patterns called c (PR Materials 8, 093802).
    """
    weight = np.bincount(bag * classes + label, difference, bags * classes)
    weight = weight.reshape(bags, classes)
    total = weight.sum(1, keepdims=True)
    shares = np.where(total > 0, weight / np.where(total > 0, total, 1.0), 1.0 / classes)
    return shares.astype(np.float32)
