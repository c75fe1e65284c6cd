"""Diffraction patterns in, Bragg peaks out: any size, any probe radius, any pixel values."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn import functional

from ..compute import mixed_precision, pick_device
from .peaks import find_peaks, peak_spread
from .probe import VacuumProbe, fourier_shift, prepare_probe

__all__ = ["BraggDiskFinder"]

# Probe radii in pixels that the networks were trained with; others are resampled into this range.
RADIUS_RANGE = (2.0, 11.0)
# Fixed, so that the dropout masks of a pattern do not depend on the batch size.
_MC_CHUNK = 8
# torch draws dropout masks from one generator a process: who seeds it must be alone.
_RNG_LOCK = threading.Lock()


class Cleaned(NamedTuple):
    """Patterns fit for a network, and how many of their pixels had to be replaced."""

    patterns: np.ndarray
    not_finite: int
    negative: int


@dataclass(frozen=True)
class _Geometry:
    """How a detector's pixels map to the network's.

    `binning` detector pixels make one, or `zoom` of the network's pixels make one detector pixel;
    the frame is the network's image size: even, and covering the detector.
    """

    shape: tuple[int, int]
    binning: int
    zoom: int

    @classmethod
    def fit(cls, shape: tuple[int, int], radius: float) -> _Geometry:
        low, high = RADIUS_RANGE
        return cls(shape, max(1, int(np.ceil(radius / high))), max(1, int(np.ceil(low / radius))))

    @property
    def padded(self) -> tuple[int, int]:
        """Shape in detector pixels that fills the network's frame exactly."""
        unit = 2 * self.binning // math.gcd(2 * self.binning, self.zoom)
        height, width = (-(-n // unit) * unit for n in self.shape)
        return height, width

    @property
    def frame(self) -> tuple[int, int]:
        height, width = (n * self.zoom // self.binning for n in self.padded)
        return height, width

    @property
    def pixel(self) -> float:
        """Size of the network's pixel in detector pixels."""
        return self.binning / self.zoom

    def to_network(self, patterns: torch.Tensor) -> torch.Tensor:
        """Resample (B, H, W) to (B, *frame); area means when binning, linear when zooming."""
        height, width = self.padded
        # The last pixel is repeated: a step to zero would ring through Fourier space.
        pad = (0, width - self.shape[1], 0, height - self.shape[0])
        patterns = functional.pad(patterns[:, None], pad, mode="replicate")
        if self.binning > 1:
            patterns = functional.avg_pool2d(patterns, self.binning)
        elif self.zoom > 1:
            patterns = functional.interpolate(patterns, scale_factor=self.zoom, mode="bilinear")
        return patterns[:, 0]

    def probe(self, probe: VacuumProbe) -> np.ndarray:
        """The probe on the network's pixels, centred on its central pixel."""
        rows, cols = self.frame
        height, width = self.shape
        fine = np.zeros((rows * self.binning, cols * self.binning))
        fine[:height, :width] = probe.image
        if self.zoom > 1:
            fine = self.to_network(torch.from_numpy(probe.image)[None])[0].double().numpy()
        now = ((np.array([height // 2, width // 2]) + 0.5) * self.zoom) - 0.5
        wanted = (np.array([rows // 2, cols // 2]) + 0.5) * self.binning - 0.5
        fine = fourier_shift(fine, wanted - now).clip(min=0)
        binned = fine.reshape(rows, self.binning, cols, self.binning).mean((1, 3))
        return (binned / binned.max()).astype(np.float32)

    def to_detector(self, points: np.ndarray) -> np.ndarray:
        return (points + 0.5) * self.pixel - 0.5

    def limits(self, edge_boundary: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """Where peaks may lie in the network's pixels, `edge_boundary` being the detector's."""
        rows, cols = (
            tuple((x + 0.5) / self.pixel - 0.5 for x in (edge_boundary, n - 1 - edge_boundary))
            for n in self.shape
        )
        return rows, cols


class BraggDiskFinder:
    """Finds the Bragg disks in diffraction patterns: a callable for single patterns or stacks.

    Safe to call from several threads, and picklable: the network is loaded when first needed, in
    each process. Patterns are resampled to the pixels that the network knows, judged by the
    probe's radius, and peaks are given in the pixels of the patterns.

    Parameters
    ----------
    probe : array_like, (H, W) or (N, H, W)
        The beam in vacuum, of the same size as the patterns, anywhere in the frame.
    model : str, path or torch.nn.Module, optional
        Name of weights (see `list_pretrained`), a ``.safetensors`` file, or a network that takes
        ``(patterns, probe, mc_dropout=False)``. None: the default weights.
    device : str or torch.device, optional
        None: a GPU if there is one.
    batch_size : int
        Patterns that pass the network together; halved where a GPU runs out of memory.
    min_relative_intensity : float
        Weakest peak kept, relative to the strongest of its pattern.
    min_spacing : float, optional
        Smallest distance of two peaks in pixels; None: 2.5 pixels of the network, or a quarter of
        the probe's radius if that is more, which tells overlapping disks apart.
    edge_boundary : float, optional
        Smallest distance of a peak from the edge in pixels; None: one pixel of the network.
    max_num_peaks : int
        How many of the strongest peaks to keep in a pattern.
    mc_samples : int
        0: the network as it is. 2 or more: so many passes with random dropout, whose mean is
        searched for peaks and whose spread gives their uncertainties.
    seed : int
        Of the dropout masks. A pattern gives the same peaks in any batch, order or thread.

    Attributes
    ----------
    probe : VacuumProbe
        The probe as it is used, with its `radius` in pixels.

    Raises
    ------
    ValueError
        If the probe cannot be used, or a parameter is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_ml import BraggDiskFinder
    >>> row, col = np.ogrid[:128, :128]
    >>> disk = (np.hypot(row - 64, col - 64) < 5).astype("float32")
    >>> finder = BraggDiskFinder(disk)
    >>> finder(np.zeros((128, 128))).shape  # an empty pattern has no peaks
    (0, 3)

    Notes
    -----
    The network follows Munshi et al., npj Comput. Mater. 8 (2022) 254.
    """

    def __init__(
        self,
        probe: ArrayLike,
        *,
        model: str | os.PathLike | torch.nn.Module | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 64,
        min_relative_intensity: float = 1e-3,
        min_spacing: float | None = None,
        edge_boundary: float | None = None,
        max_num_peaks: int = 1000,
        mc_samples: int = 0,
        seed: int = 0,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if mc_samples < 0 or mc_samples == 1:
            raise ValueError(f"mc_samples must be 0 or at least 2, not {mc_samples}")
        if not 0 <= min_relative_intensity <= 1:
            raise ValueError(
                f"min_relative_intensity must lie in 0 to 1, not {min_relative_intensity}"
            )
        self.probe = prepare_probe(probe)
        self._geometry = _Geometry.fit(self.probe.image.shape, self.probe.radius)
        self._network_probe = self._geometry.probe(self.probe)
        self.model = model
        self.device = device
        self.batch_size = batch_size
        self.min_relative_intensity = min_relative_intensity
        pixel = self._geometry.pixel
        self.min_spacing = (
            max(2.5 * pixel, 0.25 * self.probe.radius) if min_spacing is None else min_spacing
        )
        self.edge_boundary = pixel if edge_boundary is None else edge_boundary
        self.max_num_peaks = max_num_peaks
        self.mc_samples = mc_samples
        self.seed = seed
        self._network = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k not in ("_network", "_lock")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _network=None, _lock=threading.Lock())

    def __call__(self, pattern: ArrayLike) -> np.ndarray:
        """Peaks of one pattern.

        Parameters
        ----------
        pattern : array_like, (H, W)

        Returns
        -------
        numpy.ndarray, (n, 3) or (n, 6), float64
            See `find`.

        Raises
        ------
        ValueError
            If the pattern is not 2-D, not real, or not of the probe's size.
        """
        pattern = np.asarray(pattern)
        if pattern.ndim != 2:
            raise ValueError(f"a diffraction pattern must be 2-D, not {pattern.ndim}-D")
        return self.find(pattern[None])[0]

    def find(self, patterns: ArrayLike) -> list[np.ndarray]:
        """Peaks of a stack of patterns, strongest first.

        Parameters
        ----------
        patterns : array_like, (B, H, W)
            Real numbers on any scale. Pixels that are not finite are replaced by the median of
            their neighbours, negative ones by 0; one warning says how many there were.

        Returns
        -------
        list of numpy.ndarray, (n, 3), float64
            ``[row, col, intensity]`` in pixels of the pattern; intensity is relative |V_g|, the
            strongest 1. With `mc_samples` (n, 6): ``[row, col, intensity, sigma_row, sigma_col,
            sigma_intensity]``. A constant pattern gives an empty array.

        Raises
        ------
        ValueError
            If the patterns are not 3-D, not real, or not of the probe's size.
        """
        cleaned = self.clean(patterns)
        warn_of_replaced(cleaned.not_finite, cleaned.negative)
        return self.find_cleaned(cleaned.patterns)

    def clean(self, patterns: ArrayLike) -> Cleaned:
        """Check a stack of patterns (B, H, W) and replace what a network cannot take."""
        patterns = np.asarray(patterns)
        if patterns.ndim != 3:
            raise ValueError(f"a stack of patterns must be 3-D, not {patterns.ndim}-D")
        if patterns.dtype.kind not in "buif":
            raise ValueError(f"patterns must hold real numbers, not {patterns.dtype}")
        if patterns.shape[1:] != self.probe.image.shape:
            (height, width), (rows, cols) = patterns.shape[1:], self.probe.image.shape
            raise ValueError(
                f"the patterns are {height} x {width} pixels but the probe is {rows} x {cols}; "
                f"bin, crop or pad the probe as the patterns were"
            )
        return clean(patterns)

    def find_cleaned(self, patterns: np.ndarray) -> list[np.ndarray]:
        """Peaks of patterns (B, H, W) float32 that `clean` has seen."""
        empty = np.empty((0, 6 if self.mc_samples else 3))
        peaks = [empty] * len(patterns)
        filled = np.flatnonzero(np.ptp(patterns, axis=(1, 2)) > 0)
        for start in range(0, len(filled), self.batch_size):
            batch = filled[start : start + self.batch_size]
            for i, found in zip(batch, self._find_batch(patterns[batch]), strict=True):
                peaks[i] = found
        return peaks

    @property
    def network(self) -> torch.nn.Module:
        """The network, loaded on first use."""
        with self._lock:
            if self._network is None:
                device = pick_device(self.device)
                if isinstance(self.model, torch.nn.Module):
                    self._network = self.model.to(device).eval()
                else:
                    from .network import load_network

                    self._network = load_network(self.model, device)
            return self._network

    @torch.inference_mode()
    def _find_batch(self, patterns: np.ndarray) -> list[np.ndarray]:
        device = pick_device(self.device)
        network, probe = self.network, torch.from_numpy(self._network_probe).to(device)
        # On a scale of 1, so that neither float32 nor half precision overflows.
        patterns = patterns / patterns.max(axis=(1, 2), keepdims=True)
        images = self._geometry.to_network(torch.from_numpy(patterns).to(device))
        if not self.mc_samples:
            with mixed_precision(device):
                spots = _halving(lambda part: _spots(network, part, probe), images)
            return [self._on_detector(p) for p in self._peaks(spots)]
        peaks = []
        for image in images:
            spots = self._dropout_spots(network, image, probe)
            (found,) = self._peaks(spots.mean(0, keepdim=True))
            spread = peak_spread(spots[:, 0], found[:, :2], reach=1, offsets=_offsets(spots))
            peaks.append(self._on_detector(np.hstack([found, spread])))
        return peaks

    def _dropout_spots(
        self, network: torch.nn.Module, image: torch.Tensor, probe: torch.Tensor
    ) -> torch.Tensor:
        """What `mc_samples` passes see in one image, by the same masks for every image."""
        spots = []
        with _seeded(self.seed, image.device), mixed_precision(image.device):
            for start in range(0, self.mc_samples, _MC_CHUNK):
                count = min(_MC_CHUNK, self.mc_samples - start)
                spots.append(_spots(network, image.expand(count, -1, -1), probe, mc_dropout=True))
        return torch.cat(spots)

    def _peaks(self, spots: torch.Tensor) -> list[np.ndarray]:
        return find_peaks(
            spots[:, 0],
            min_relative_intensity=self.min_relative_intensity,
            min_spacing=self.min_spacing / self._geometry.pixel,
            limits=self._geometry.limits(self.edge_boundary),
            max_num_peaks=self.max_num_peaks,
            offsets=_offsets(spots),
        )

    def _on_detector(self, peaks: np.ndarray) -> np.ndarray:
        peaks = peaks.copy()
        peaks[:, :2] = self._geometry.to_detector(peaks[:, :2])
        peaks[:, 3:5] *= self._geometry.pixel
        return peaks


def clean(patterns: np.ndarray) -> Cleaned:
    """Replace pixels that are not finite by the median of 5 x 5 neighbours, negative ones by 0.

    Parameters
    ----------
    patterns : numpy.ndarray, (B, H, W)

    Returns
    -------
    Cleaned
        The patterns as contiguous float32; the input is left as it is.
    """
    with np.errstate(over="ignore"):
        cleaned = np.array(patterns, dtype=np.float32, order="C")
    bad = ~np.isfinite(cleaned)
    not_finite = int(bad.sum())
    if not_finite:
        cleaned[bad] = np.nan
        for i in np.flatnonzero(bad.any(axis=(1, 2))):
            cleaned[i][bad[i]] = _neighbour_medians(cleaned[i], bad[i])
    negative = int((cleaned < 0).sum())
    return Cleaned(np.maximum(cleaned, 0, out=cleaned), not_finite, negative)


def _neighbour_medians(pattern: np.ndarray, bad: np.ndarray) -> np.ndarray:
    padded = np.pad(pattern, 2, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))[bad]
    values = windows.reshape(len(windows), 25)
    medians = np.zeros(len(values), np.float32)
    known = ~np.isnan(values).all(axis=1)
    medians[known] = np.nanmedian(values[known], axis=1)
    return medians


def warn_of_replaced(not_finite: int, negative: int) -> None:
    """One warning for all the pixels that `clean` replaced, none if there were none."""
    replaced = []
    if not_finite:
        replaced.append(f"{not_finite} NaN or infinite pixels by the median of their neighbours")
    if negative:
        replaced.append(f"{negative} negative pixels by 0")
    if not replaced:
        return
    # Pointed at the line that called this package, however deep inside we are.
    frame, level = inspect.currentframe(), 1
    while frame.f_back and frame.f_globals["__name__"].split(".")[0] == __name__.split(".")[0]:
        frame, level = frame.f_back, level + 1
    warnings.warn("replaced " + " and ".join(replaced), UserWarning, stacklevel=level)


def _spots(
    network: torch.nn.Module, patterns: torch.Tensor, probe: torch.Tensor, **options: bool
) -> torch.Tensor:
    """Maps, and offsets where the network gives them: (b, 3, h, w) or (b, 1, h, w)."""
    if hasattr(network, "spots"):
        return network.spots(patterns, probe, **options)
    return network(patterns, probe, **options)[:, None]


def _offsets(spots: torch.Tensor) -> torch.Tensor | None:
    return spots[:, 1:] if spots.shape[1] == 3 else None


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers of their own for this thread, torch's state left as it was."""
    cuda = [device.index or 0] if device.type == "cuda" else []
    with _RNG_LOCK, torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield


def _halving(network, images: torch.Tensor) -> torch.Tensor:
    """Pass a batch through a network, in halves of halves where the GPU's memory is too small."""
    try:
        return network(images)
    except torch.cuda.OutOfMemoryError:
        if len(images) == 1:
            raise
    # Outside of the except clause, whose traceback would keep the failed pass in memory.
    torch.cuda.empty_cache()
    half = len(images) // 2
    return torch.cat([_halving(network, images[:half]), _halving(network, images[half:])])
