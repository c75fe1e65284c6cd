"""How far a reading may be off: the errors of calibration patterns that look alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from .regressors import Floats, Neighbours

#: Shares of the truth that intervals are made for; the first is a standard deviation's.
LEVELS = (0.6827, 0.9, 0.95)
#: Calibration patterns that tell the error of one.
_ALIKE = 32


@dataclass(frozen=True, eq=False)
class Calibration:
    """Errors of patterns that were not trained on, and what made them like others.

    A reading's local error is the root mean square of the errors of the patterns nearest in code
    and novelty; it is stretched by factors that made intervals hold the truth as often as they
    should on the calibration patterns themselves, each judged by the others (split conformal
    prediction with a local scale; Lei et al., J. Am. Stat. Assoc. 113 (2018) 1094).

    Attributes
    ----------
    features : ndarray, shape (m, f)
    errors : ndarray, shape (m, t)
        Absolute.
    factors : ndarray, shape (levels, t)
        By which a local error is stretched, for each of `LEVELS`.
    """

    features: npt.NDArray[np.float32]
    errors: Floats
    factors: Floats

    @classmethod
    def of(
        cls, features: npt.ArrayLike, errors: npt.ArrayLike, groups: npt.ArrayLike | None = None
    ) -> Calibration:
        """Calibrate on features (m, f) and errors (m, t).

        Parameters
        ----------
        features : array_like, shape (m, f)
        errors : array_like, shape (m, t)
        groups : array_like of int, shape (m,), optional
            Patterns of one group, as disturbed copies of one image are, do not judge each other.
            None: each is its own.

        Raises
        ------
        ValueError
            If there are fewer than 20 patterns.
        """
        near = np.asarray(features, dtype=np.float32)
        absolute = np.abs(np.asarray(errors, dtype=float))
        if len(near) < 20:
            raise ValueError(f"a calibration needs 20 patterns at least; not {len(near)}")
        unscaled = cls(near, absolute, np.ones((len(LEVELS), absolute.shape[1])))
        own = np.arange(len(near)) if groups is None else np.asarray(groups)
        ratio = absolute / unscaled._local(near, own).clip(min=1e-12)
        ranks = [min(1.0, level * (len(near) + 1) / len(near)) for level in LEVELS]
        return cls(near, absolute, np.quantile(ratio, ranks, axis=0))

    def _local(self, features: npt.ArrayLike, groups: npt.NDArray | None = None) -> Floats:
        """Local errors (n, t); of the calibration patterns themselves by those of other groups."""
        siblings = 0 if groups is None else int(np.unique(groups, return_counts=True)[1].max())
        count = min(_ALIKE + siblings, len(self.features))
        known = Neighbours(self.features, self.errors, np.array([count]))
        places, distances = known.nearest(features)
        order = distances.argsort(1, kind="stable")
        places = np.take_along_axis(places, order, 1)
        if groups is None:
            weights = np.ones(places.shape)
        else:
            others = groups[places] != groups[:, None]
            weights = (others & (others.cumsum(1) <= _ALIKE)).astype(float)
        squared = (weights[..., None] * self.errors[places] ** 2).sum(1)
        return np.sqrt(squared / weights.sum(1, keepdims=True).clip(min=1))

    def intervals(self, features: npt.ArrayLike) -> Floats:
        """Return half widths (levels, n, t) of the intervals of each of `LEVELS`."""
        return self.factors[:, None] * self._local(features)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the arrays by name."""
        return {name: torch.from_numpy(np.asarray(one)) for name, one in vars(self).items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Calibration:
        """Rebuild from `tensors`."""
        return cls(**{name: tensor.numpy() for name, tensor in tensors.items()})
