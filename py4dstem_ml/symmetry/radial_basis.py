"""The radial basis: a Bragg list of any length as 41 x 13 complex numbers.

    r_mp = sum_i I_i max(1 - | |q_i| / dq - m |, 0) exp(i p phi_i)

Tents of half-width dq along |q|, harmonics of order p around the direct beam. A rotation of the
pattern by t multiplies r_mp by exp(i p t), a mirror conjugates it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from .lists import BraggLists

#: Coefficients weaker than this share of a list's strongest have no argument, only rounding.
_NO_ARGUMENT = 1e-9


@dataclass(frozen=True)
class RadialBasis:
    """The basis, and what is done to a list before it is expanded.

    Attributes
    ----------
    step, q_max : float
        dq and the centre of the last tent, a multiple of it, 1/Å.
    orders : int
        Angular orders 0 to ``orders - 1``.
    direct_beam : float or "brightest"
        Peaks within this radius in 1/Å are the direct beam and are left out. "brightest" leaves
        out the brightest peak, wherever it is, as the paper's code does: in a thick crystal, or
        where the direct beam is masked, that is a diffracted beam.

    Raises
    ------
    ValueError
        If ``q_max`` is no multiple of ``step``.

    Examples
    --------
    >>> basis = RadialBasis()
    >>> lists = BraggLists.pack([[[0, 0, 1], [0.5, 0, 0.1], [0, 0.525, 0.2]]])
    >>> r = basis.coefficients(basis.diffracted(lists))[0]
    >>> r.shape, np.round(r[10, 1], 3), np.round(r[11, 1], 3)
    ((41, 13), (0.1+0.1j), 0.1j)

    """

    step: float = 0.05
    q_max: float = 2.0
    orders: int = 13
    direct_beam: float | Literal["brightest"] = 0.05

    def __post_init__(self) -> None:
        if abs(self.q_max - round(self.q_max / self.step) * self.step) > 1e-9:
            raise ValueError(f"q_max {self.q_max} is no multiple of the step {self.step}")

    @property
    def bins(self) -> int:
        """How many tents there are."""
        return round(self.q_max / self.step) + 1  # 2.0 / 0.05 is not exactly 40

    @property
    def n_features(self) -> int:
        """Length of a feature vector."""
        return 2 * self.bins * self.orders

    def diffracted(self, lists: BraggLists) -> BraggLists:
        """Return the lists without their direct beams."""
        if self.direct_beam != "brightest":
            q = np.hypot(lists.peaks[:, 0], lists.peaks[:, 1])
            return lists.keep(q > self.direct_beam)
        # The first of the brightest: by list, by falling intensity, by position in the list.
        order = np.lexsort((-lists.peaks[:, 2], lists.owner))
        chosen = np.ones(len(order), dtype=bool)
        filled = np.diff(lists.offsets) > 0
        chosen[order[lists.offsets[:-1][filled]]] = False
        return lists.keep(chosen)

    def coefficients(self, lists: BraggLists) -> npt.NDArray[np.complex128]:
        """Expand lists without their direct beams, shape (n, bins, orders).

        Peaks beyond the last tent count for nothing. See `diffracted`.
        """
        x, y, intensity = lists.peaks.T
        q = np.hypot(x, y)
        height = q / self.step
        lower = np.floor(height).astype(np.int64)
        upper_share = height - lower
        row = np.concatenate([lower, lower + 1])
        weight = np.concatenate([intensity * (1.0 - upper_share), intensity * upper_share])
        inside = row < self.bins
        peak = np.tile(np.arange(len(q)), 2)[inside]
        row = (np.tile(lists.owner, 2)[inside]) * self.bins + row[inside]
        tents = csr_matrix((weight[inside], (row, peak)), shape=(len(lists) * self.bins, len(q)))
        turn = (x + 1j * y) / np.where(q > 0, q, 1.0)
        harmonics = np.ones((len(q), self.orders), dtype=complex)
        for order in range(1, self.orders):
            harmonics[:, order] = harmonics[:, order - 1] * turn
        real = tents @ harmonics.view(float)
        return real.view(complex).reshape(len(lists), self.bins, self.orders)

    def features(self, lists: BraggLists) -> npt.NDArray[np.float32]:
        """Return |r| and arg(r) by turns, shape (n, 2 bins orders): the paper's feature vector.

        Column ``2 (orders m + p)`` is |r_mp|, the next one arg(r_mp), 0 where there is none.
        """
        parts = [self._features(block) for block in lists.blocks()]
        return np.concatenate(parts) if parts else np.empty((0, self.n_features), np.float32)

    def _features(self, lists: BraggLists) -> npt.NDArray[np.float32]:
        r = self.coefficients(lists).reshape(len(lists), -1)
        size = np.abs(r)
        angle = np.angle(r)
        angle[size <= _NO_ARGUMENT * size.max(axis=1, keepdims=True, initial=0.0)] = 0.0
        return np.stack([size, angle], axis=2, dtype=np.float32).reshape(len(lists), -1)
