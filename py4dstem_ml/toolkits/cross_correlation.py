"""py4DSTEM's cross-correlation at its best: what the networks are measured against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
import numpy.typing as npt

#: What `tune` tries: kernel radii and spacing in probe radii, powers, thresholds, readings.
KERNEL_RADII = ((0.0, 4.0), (1.0, 2.0))
CORR_POWERS = (1.0, 0.86)
MIN_RELATIVE_INTENSITIES = (1e-4, 1e-3, 5e-3, 2e-2)
MIN_SPACINGS = (0.7, 1.0, 1.5)
READINGS = ("correlation", "root")


@dataclass(frozen=True)
class CrossCorrelationFinder:
    """Bragg disks by py4DSTEM's ``find_Bragg_disks``, with lengths in units of the probe's radius.

    Parameters
    ----------
    subpixel : {"poly", "multicorr"}
        Parabola through the maximum, or Fourier upsampling 16 times.
    kernel_radii : (float, float)
        Inner and outer radius of the sigmoid trench around the probe.
    corr_power : float
        1 is cross-correlation, 0 phase correlation.
    min_relative_intensity : float
        Of the correlation, relative to the strongest peak.
    min_spacing : float
        Smallest distance of two peaks.
    reading : {"correlation", "root"}
        The intensity given for a peak: its correlation, proportional to the disk's intensity, or
        the root of it, which is nearer to |V_g| where scattering is kinematical.
    edge_boundary : int
        Pixels.
    max_num_peaks : int

    Examples
    --------
    >>> import numpy as np
    >>> row, col = np.ogrid[-32:32, -32:32]
    >>> probe = (np.hypot(row, col) < 5).astype(float)
    >>> peaks = CrossCorrelationFinder()(np.roll(probe, 7, 0)[None], probe)[0]
    >>> peaks[0, :2].round().tolist()
    [39.0, 32.0]
    """

    subpixel: Literal["poly", "multicorr"] = "poly"
    kernel_radii: tuple[float, float] = (0.0, 4.0)
    corr_power: float = 1.0
    min_relative_intensity: float = 1e-3
    min_spacing: float = 1.0
    reading: Literal["correlation", "root"] = "correlation"
    edge_boundary: int = 2
    max_num_peaks: int = 1000

    def __call__(self, patterns: npt.ArrayLike, probe: npt.ArrayLike) -> list[npt.NDArray]:
        """Find the peaks of patterns that share a probe.

        Parameters
        ----------
        patterns : array_like, shape (b, h, w)
        probe : array_like, shape (h, w)
            Image of the beam in vacuum.

        Returns
        -------
        list of ndarray, shape (n, 3)
            [row, col, intensity], the strongest 1.
        """
        from py4DSTEM.braggvectors import Probe
        from py4DSTEM.braggvectors.diskdetection import find_Bragg_disks

        vacuum = Probe(np.asarray(probe, dtype=float))
        radius, row, col = vacuum.measure_disk(plot=False)
        radii = tuple(radius * r for r in self.kernel_radii)
        kernel = vacuum.get_kernel(mode="sigmoid", origin=(row, col), radii=radii)
        # The data of the node, whichever way this version returns it.
        kernel = np.asarray(getattr(kernel, "kernel", kernel))
        found = (
            find_Bragg_disks(
                np.asarray(pattern, dtype=float), kernel,
                corrPower=self.corr_power, sigma_cc=0, subpixel=self.subpixel,
                upsample_factor=16, minRelativeIntensity=self.min_relative_intensity,
                minPeakSpacing=self.min_spacing * radius, edgeBoundary=self.edge_boundary,
                maxNumPeaks=self.max_num_peaks,
            )
            for pattern in np.asarray(patterns)
        )  # fmt: skip
        return [self._peaks(points.data) for points in found]

    def _peaks(self, points: npt.NDArray) -> npt.NDArray:
        peaks = np.column_stack([points["qx"], points["qy"], points["intensity"]])
        peaks = peaks[np.isfinite(peaks).all(axis=1) & (peaks[:, 2] > 0)]
        if self.reading == "root":
            peaks[:, 2] **= 0.5
        if len(peaks):
            peaks[:, 2] /= peaks[:, 2].max()
        return peaks


def settings(subpixel: str = "poly") -> Iterator[CrossCorrelationFinder]:
    """Yield every combination that `tune` tries."""
    grid = product(KERNEL_RADII, CORR_POWERS, MIN_RELATIVE_INTENSITIES, MIN_SPACINGS, READINGS)
    for radii, power, threshold, spacing, reading in grid:
        yield CrossCorrelationFinder(subpixel, radii, power, threshold, spacing, reading)  # type: ignore[arg-type]


def tune(
    score: Callable[[CrossCorrelationFinder], float],
    candidates: Iterable[CrossCorrelationFinder] | None = None,
) -> dict[str, CrossCorrelationFinder]:
    """Choose the settings with the highest score, for each way of refinement.

    They are chosen with "poly" and hold for "multicorr" too, as py4DSTEM refines positions only
    after all thresholds.

    Parameters
    ----------
    score : callable
        A finder -> a number, on a validation set that is not tested on.
    candidates : iterable of CrossCorrelationFinder, optional
        Default: all of `settings`.

    Returns
    -------
    dict
        ``"poly"`` and ``"multicorr"``.
    """
    best = max(settings() if candidates is None else candidates, key=score)
    return {subpixel: replace(best, subpixel=subpixel) for subpixel in ("poly", "multicorr")}
