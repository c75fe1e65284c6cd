"""Move peaks to where the pattern's own disks are, for disks that stand alone.

A network says where a lattice of disks lies; the edge of a clear disk says it better. Disks are
seldom even: off the Bragg condition one side is brighter, and a correlation, or a network, is
drawn to that side. So the model of a disk is the probe times a plane, on a constant background,

    I(x) = a + P(x - c) (b + d . (x - c)),

fitted to the counts by least squares at every trial centre c. The fit and the network's peak are
averaged by their variances: a disk that cannot be seen stays where the network put it.
"""

from __future__ import annotations

from itertools import product
from math import ceil

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree

#: Trial centres in pixels: within this of the peak's pixel, so far apart.
_REACH, _STEP = 1.25, 0.25
#: Standard error of a network's peak, in pixels, and the best that a fit is trusted.
_SIGMA_NETWORK, _SIGMA_LEAST = 0.3, 0.02
#: Farthest that a fit may lie from the network's peak, in pixels.
_FARTHEST = 0.9
#: Peaks closer than this many radii have disks that overlap too much to be fitted one by one.
_APART = 1.6
#: A disk is seen where each term of the model explains so many times the noise (an F test).
_SEEN = 40.0
#: Share of a disk's variance that the model does not explain even without noise.
_MODEL_ERROR = 3e-3
#: Width of a probe's edge, from 20 to 80 % of its height, over its radius, beyond which it is no
#: disk: a shift of a soft spot is nearly a slope.
_SOFT = 0.7
#: Disks without an inner pixel have no edge to fit.
_SMALLEST_RADIUS = 1.5
#: Peaks that are fitted together.
_CHUNK = 16384


class DiskRefiner:
    """Refine peaks with the probe of their patterns.

    Parameters
    ----------
    probe : array_like, shape (h, w)
        Centred at pixel (h // 2, w // 2).
    radius : float
        Of its disk, in pixels.

    Examples
    --------
    >>> import numpy as np
    >>> rows, cols = np.indices((64, 64))
    >>> disk = lambda r, c: np.clip(5.5 - np.hypot(rows - r, cols - c), 0, 1)
    >>> refiner = DiskRefiner(disk(32, 32), 5.0)
    >>> pattern = 100 * disk(20.3, 40.1) * (1 + 0.1 * (rows - 20.3))
    >>> (found,) = refiner(pattern[None], [np.array([[20.0, 40.0, 1.0]])])
    >>> bool(np.abs(found[0, :2] - (20.3, 40.1)).max() < 0.05)
    True
    """

    def __init__(self, probe: npt.ArrayLike, radius: float) -> None:
        probe = np.asarray(probe, dtype=float)
        self.radius = float(radius)
        self.half = ceil(self.radius) + 2
        self.usable = (
            self.radius >= _SMALLEST_RADIUS
            and 2 * self.half < min(probe.shape)
            and _edge_width(probe) <= _SOFT * self.radius
        )
        if self.usable:
            self.models, self.centres = _disk_models(probe, self.half)
            self.side = round(len(self.centres) ** 0.5)

    def __call__(
        self, patterns: npt.ArrayLike | torch.Tensor, peaks: list[npt.NDArray]
    ) -> list[npt.NDArray]:
        """Return the peaks with their positions refined.

        Parameters
        ----------
        patterns : array_like or torch.Tensor, shape (b, h, w)
            Intensities.
        peaks : list of ndarray, shape (n, >= 2)
            [row, col, ...] in pixels; the other columns are kept.
        """
        counts = [len(found) for found in peaks]
        if not self.usable or sum(counts) == 0:
            return peaks
        index = np.repeat(np.arange(len(peaks)), counts)
        points = np.concatenate([found[:, :2] for found in peaks])
        images = torch.as_tensor(patterns).float()
        alone = np.flatnonzero(self._stand_alone(index, points, images.shape[1:]))
        refined = points.copy()
        for start in range(0, len(alone), _CHUNK):
            some = alone[start : start + _CHUNK]
            refined[some] = self._refine(images, index[some], points[some])
        parts = np.split(refined, np.cumsum(counts)[:-1])
        return [
            np.column_stack([moved, found[:, 2:]])
            for moved, found in zip(parts, peaks, strict=True)
        ]

    def _stand_alone(
        self, index: npt.NDArray, points: npt.NDArray, shape: tuple[int, ...]
    ) -> npt.NDArray[np.bool_]:
        """Which disks touch neither another one nor the edge of the pattern."""
        apart = _APART * self.radius
        # One tree for the batch: the patterns lie apart along a third direction.
        tree = cKDTree(np.column_stack([points, index * (2.0 * apart)]))
        alone = np.ones(len(points), dtype=bool)
        alone[tree.query_pairs(apart, output_type="ndarray").ravel()] = False
        inside = (points >= self.half) & (points <= np.array(shape) - 1 - self.half)
        return alone & inside.all(axis=1)

    def _refine(
        self, images: torch.Tensor, index: npt.NDArray, points: npt.NDArray
    ) -> npt.NDArray[np.float64]:
        pixel = np.rint(points).astype(np.int64)
        window = torch.arange(-self.half, self.half + 1)
        rows = torch.as_tensor(pixel[:, :1]) + window
        cols = torch.as_tensor(pixel[:, 1:]) + window
        patches = images[torch.as_tensor(index)[:, None, None], rows[:, :, None], cols[:, None]]
        patches = patches.flatten(1).cpu()
        patches = patches - patches.mean(1, keepdim=True)
        n_trials, n_pixels, n_terms = self.models.shape
        stacked = self.models.permute(1, 0, 2).reshape(n_pixels, -1)
        projected = (patches @ stacked).square().view(-1, n_trials, n_terms)
        explained = projected.sum(2).double().view(-1, self.side, self.side).numpy()
        total = patches.double().square().sum(1).numpy()

        guess = points - pixel
        fitted, variance = self._fit(explained, total, guess, n_pixels - n_terms - 2)
        trust = 1.0 / (variance + _SIGMA_LEAST**2)
        prior = 1.0 / _SIGMA_NETWORK**2
        return pixel + (fitted * trust + guess * prior) / (trust + prior)

    def _fit(
        self, explained: npt.NDArray, total: npt.NDArray, guess: npt.NDArray, freedom: int
    ) -> tuple[npt.NDArray, npt.NDArray]:
        """Best centre (n, 2) and its variance; infinite where there is no maximum nearby."""
        axis = self.centres[:: self.side, 0]
        near_r = np.abs(axis - guess[:, :1]) <= _FARTHEST
        near_c = np.abs(axis - guess[:, 1:]) <= _FARTHEST
        searched = np.where(near_r[:, :, None] & near_c[:, None], explained, -np.inf)
        best = searched.reshape(len(guess), -1).argmax(1)
        i, j = best // self.side, best % self.side
        inner = (i > 0) & (i < self.side - 1) & (j > 0) & (j < self.side - 1)
        i, j = i.clip(1, self.side - 2), j.clip(1, self.side - 2)

        # A paraboloid through the 3 x 3 trial centres around the best one.
        def at(down: int, right: int) -> npt.NDArray:
            return explained[np.arange(len(i)), i + down, j + right]

        top = at(0, 0)
        slope = np.stack([at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1)], axis=1) / 2
        bend_r, bend_c = at(1, 0) - 2 * top + at(-1, 0), at(0, 1) - 2 * top + at(0, -1)
        cross = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4
        determinant = bend_r * bend_c - cross**2
        peaked = inner & (bend_r < 0) & (bend_c < 0) & (determinant > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            move = (
                np.stack(
                    [
                        cross * slope[:, 1] - bend_c * slope[:, 0],
                        cross * slope[:, 0] - bend_r * slope[:, 1],
                    ],
                    axis=1,
                )
                / determinant[:, None]
            )
            # No disk follows the model exactly.
            noise = (np.maximum(total - top, 0.0) + _MODEL_ERROR * top) / freedom
            # The explained sum of squares falls by its noise where c is off by one sigma.
            variance = 2 * noise[:, None] * _STEP**2 / -np.stack([bend_r, bend_c], axis=1)
        seen = top > _SEEN * 3 * noise
        good = peaked & seen & (np.abs(move) < 1).all(1)
        fitted = np.stack([axis[i], axis[j]], axis=1) + _STEP * move
        return np.where(good[:, None], fitted, 0.0), np.where(good[:, None], variance, np.inf)


def _edge_width(probe: npt.NDArray) -> float:
    """Radius at 20 % less radius at 80 % of the highest value, from the areas above."""
    share = probe / probe.max()
    outer, inner = ((share > level).sum() for level in (0.2, 0.8))
    return float(np.sqrt(outer / np.pi) - np.sqrt(inner / np.pi))


def _disk_models(probe: npt.NDArray, half: int) -> tuple[torch.Tensor, npt.NDArray[np.float64]]:
    """Orthonormal terms (trials, pixels, 4) of the model at the trial centres (trials, 2)."""
    height, width = probe.shape
    axis = np.arange(-_REACH, _REACH + 0.5 * _STEP, _STEP)
    centres = np.array(list(product(axis, axis)))
    f_row, f_col = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    spectrum = np.fft.fft2(probe / probe.max())
    window = np.arange(-half, half + 1)
    take = np.ix_(height // 2 + window, width // 2 + window)
    models = []
    for row, col in centres:
        ramp = np.exp(-2j * np.pi * (f_row * row + f_col * col))
        disk = np.fft.ifft2(spectrum * ramp).real[take]
        down, right = np.broadcast_arrays(window[:, None] - row, window - col)
        terms = np.stack([np.ones_like(disk), disk, disk * down, disk * right], axis=-1)
        models.append(np.linalg.qr(terms.reshape(-1, 4))[0])
    return torch.as_tensor(np.array(models), dtype=torch.float32), centres
