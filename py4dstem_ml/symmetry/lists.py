"""Bragg lists of any length, many of them in flat arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Lists that are worked on at once.
LISTS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class BraggLists:
    """Many Bragg lists in flat arrays.

    Attributes
    ----------
    peaks : ndarray of float32 or float64, shape (m, 3)
        [qx, qy, intensity]; 1/Å, about the direct beam.
    offsets : ndarray of int, shape (n + 1,)
        The peaks of list i are ``offsets[i]:offsets[i + 1]``.

    Examples
    --------
    >>> lists = BraggLists.pack([[[0.5, 0.0, 1.0]], [[0.0, 0.4, 1.0], [0.4, 0.0, 2.0]]])
    >>> len(lists), len(lists.peaks), lists[1].shape
    (2, 3, (2, 3))
    """

    peaks: npt.NDArray[np.floating]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def pack(cls, lists: Sequence[npt.ArrayLike]) -> BraggLists:
        """Join lists of shape (k, 3) each, or empty ones.

        Raises
        ------
        ValueError
            If one has another shape.
        """
        arrays = []
        for i, one in enumerate(lists):
            peaks = np.asarray(one, dtype=float)
            if peaks.size == 0:
                peaks = np.empty((0, 3))
            if peaks.ndim != 2 or peaks.shape[1] != 3:
                raise ValueError(
                    f"list {i} has shape {peaks.shape}, not (n, 3): [qx, qy, intensity]"
                )
            arrays.append(peaks)
        offsets = np.cumsum([0, *map(len, arrays)])
        return cls(np.concatenate(arrays) if arrays else np.empty((0, 3)), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> npt.NDArray[np.floating]:
        return self.peaks[self.offsets[i] : self.offsets[i + 1]]

    @property
    def owner(self) -> npt.NDArray[np.int64]:
        """Number of the list that each peak belongs to, shape (m,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def keep(self, chosen: npt.NDArray[np.bool_]) -> BraggLists:
        """Return the lists with only the chosen peaks, shape (m,)."""
        kept = np.concatenate([[0], np.cumsum(chosen)])
        return BraggLists(self.peaks[chosen], kept[self.offsets])

    @classmethod
    def joined(cls, parts: Sequence[BraggLists]) -> BraggLists:
        """Return the lists of several, one after the other."""
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return cls(np.concatenate([part.peaks for part in parts]), offsets)

    def take(self, indices: npt.ArrayLike) -> BraggLists:
        """Return the lists of these numbers."""
        indices = np.asarray(indices, dtype=np.int64)
        lengths = np.diff(self.offsets)[indices]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.repeat(self.offsets[indices], lengths) + place_within(lengths)
        return BraggLists(self.peaks[rows], offsets)

    def padded(self, spots: int) -> npt.NDArray[np.float32]:
        """Return the first peaks of each list, shape (n, spots, 3), zeros where there are none."""
        rank = place_within(np.diff(self.offsets))
        first = rank < spots
        out = np.zeros((len(self), spots, 3), dtype=np.float32)
        out[self.owner[first], rank[first]] = self.peaks[first]
        return out

    def by_intensity(self) -> BraggLists:
        """Return the lists with the strongest peak first."""
        order = np.lexsort((-self.peaks[:, 2], self.owner))
        return BraggLists(self.peaks[order], self.offsets)

    def blocks(self, size: int = LISTS_AT_ONCE) -> Iterator[BraggLists]:
        """Yield runs of at most ``size`` lists."""
        for start in range(0, len(self), size):
            offsets = self.offsets[start : start + size + 1]
            yield BraggLists(self.peaks[offsets[0] : offsets[-1]], offsets - offsets[0])


def normalised(lists: BraggLists) -> BraggLists:
    """Scale each list to a sum of intensities of 1; without direct beams, see `diffracted`.

    Counts of a scan and fractions of a simulation then mean the same.
    """
    total = np.bincount(lists.owner, lists.peaks[:, 2], minlength=len(lists))
    peaks = lists.peaks.copy()
    peaks[:, 2] /= np.where(total > 0, total, 1.0)[lists.owner]
    return BraggLists(peaks, lists.offsets)


def place_within(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Count from 0 within each of several groups that follow each other.

    Examples
    --------
    >>> place_within(np.array([2, 0, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
