"""Diffraction patterns in, Bragg peaks out: any size, any probe radius, any pixel values."""

from __future__ import annotations

import copy
import inspect
import logging
import math
import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn import functional

from ..compute import mixed_precision, pick_device
from .peaks import find_peaks, peak_spread
from .probe import VacuumProbe, fourier_shift, prepare_probe
from .refine import DiskRefiner

__all__ = ["BraggDiskFinder"]

# Probe radii in pixels that the networks were trained with; others are resampled into this range.
RADIUS_RANGE = (2.0, 11.0)
# Fixed, so that the rounding of a pattern's passes does not depend on the batch size.
_MC_CHUNK = 8
# `batch_size` counts patterns of so many pixels.
_BATCH_PIXELS = 128 * 128
# How many such patterns pass the network together on a CPU: more would not fit its caches.
_CPU_CHUNK = 8
_REPLACED = (
    "replaced pixels of the patterns: NaN and infinite ones by the median of their neighbours, "
    "negative ones by 0"
)

_log = logging.getLogger(__name__)


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
        ``(patterns, probe, mc_dropout=False)`` as `DiskNet` does, and is left as it is: where it
        is in training, or on another device, a copy is used. None: the default weights.
    device : str or torch.device, optional
        None: a GPU if there is one.
    batch_size : int
        Patterns of 128 x 128 pixels that are taken together; fewer if they are larger, as the
        network sees them, and halved where a GPU runs out of memory. A CPU takes them through the
        network by eights.
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
        min_relative_intensity: float = 3e-4,
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
        if max_num_peaks < 1:
            raise ValueError(f"max_num_peaks must be at least 1, not {max_num_peaks}")
        for name, length in (("min_spacing", min_spacing), ("edge_boundary", edge_boundary)):
            if length is not None and not 0 <= length < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, not {length}")
        self.probe = prepare_probe(probe)
        self._geometry = _Geometry.fit(self.probe.image.shape, self.probe.radius)
        self._network_probe = self._geometry.probe(self.probe)
        self._refiner: DiskRefiner | None = None
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
        self._warned = False
        self._network = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        made_again = ("_network", "_refiner", "_lock")
        return {k: v for k, v in self.__dict__.items() if k not in made_again}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _network=None, _refiner=None, _lock=threading.Lock())

    @property
    def patterns_at_once(self) -> int:
        """How many patterns are taken together: `batch_size` for the size of these."""
        return max(1, self.batch_size * _BATCH_PIXELS // math.prod(self._geometry.frame))

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
            raise ValueError(
                f"a diffraction pattern must be 2-D, not {pattern.ndim}-D; for a stack call .find"
            )
        return self.find(pattern[None])[0]

    def find(self, patterns: ArrayLike) -> list[np.ndarray]:
        """Peaks of a stack of patterns, strongest first.

        Parameters
        ----------
        patterns : array_like, (B, H, W)
            Real numbers on any scale. Pixels that are not finite are replaced by the median of
            their neighbours, negative ones by 0; a finder warns of it once.

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
        patterns = self._cleaned(patterns)
        peaks = [np.empty((0, 6 if self.mc_samples else 3))] * len(patterns)
        filled = np.flatnonzero(np.ptp(patterns, axis=(1, 2)) > 0)
        for start in range(0, len(filled), self.patterns_at_once):
            batch = filled[start : start + self.patterns_at_once]
            for i, found in zip(batch, self._find_batch(patterns[batch]), strict=True):
                peaks[i] = found
        return peaks

    def _cleaned(self, patterns: ArrayLike) -> np.ndarray:
        """Check a stack of patterns (B, H, W) and replace what a network cannot take."""
        patterns = np.asarray(patterns)
        if patterns.ndim != 3:
            raise ValueError(
                f"a stack of patterns must be 3-D, not {patterns.ndim}-D; for one pattern call the "
                f"finder itself"
            )
        if patterns.dtype.kind not in "buif":
            raise ValueError(f"patterns must hold real numbers, not {patterns.dtype}")
        if patterns.shape[1:] != self.probe.image.shape:
            (height, width), (rows, cols) = patterns.shape[1:], self.probe.image.shape
            raise ValueError(
                f"the patterns are {height} x {width} pixels but the probe is {rows} x {cols}; "
                f"bin, crop or pad the probe as the patterns were"
            )
        cleaned, not_finite, negative = clean(patterns)
        if not_finite or negative:
            _log.debug("replaced %d pixels not finite, %d negative ones", not_finite, negative)
            with self._lock:
                first, self._warned = not self._warned, True
            if first:
                _warn(_REPLACED)
        return cleaned

    @property
    def network(self) -> torch.nn.Module:
        """The network, loaded on first use."""
        with self._lock:
            if self._network is None:
                device = pick_device(self.device)
                if isinstance(self.model, torch.nn.Module):
                    self._network = _ready(self.model, device)
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
                parts = [
                    _halving(lambda some: network(some, probe), some)
                    for some in images.split(self._chunk(device))
                ]
            peaks = self._peaks(torch.cat(parts))
        else:
            peaks = []
            for image in images:
                maps = self._dropout_maps(network, image, probe)
                (found,) = self._peaks(maps.mean(0, keepdim=True))
                peaks.append(np.hstack([found, peak_spread(maps, found[:, :2], reach=1)]))
        return [self._on_detector(found) for found in self._refined(images, peaks)]

    def _chunk(self, device: torch.device) -> int:
        """How many patterns pass the network together."""
        if device.type != "cpu":
            return self.patterns_at_once
        return max(1, _CPU_CHUNK * _BATCH_PIXELS // math.prod(self._geometry.frame))

    def _refined(self, images: torch.Tensor, peaks: list[np.ndarray]) -> list[np.ndarray]:
        """Peaks moved to the disks; not where zooming has made up the pixels between."""
        if self._geometry.zoom > 1:
            return peaks
        with self._lock:
            if self._refiner is None:
                radius = self.probe.radius / self._geometry.pixel
                self._refiner = DiskRefiner(self._network_probe, radius)
        return self._refiner(images, peaks)

    def _dropout_maps(
        self, network: torch.nn.Module, image: torch.Tensor, probe: torch.Tensor
    ) -> torch.Tensor:
        """Maps (mc_samples, H, W) of one image, by the same masks for every image."""

        def passes(seeds: torch.Tensor) -> torch.Tensor:
            draws = [torch.Generator(image.device).manual_seed(s) for s in seeds.tolist()]
            return network(image.expand(len(draws), -1, -1), probe, mc_dropout=draws)

        # A seed for each pass: its masks do not depend on which passes go together.
        generator = torch.Generator().manual_seed(self.seed)
        seeds = torch.randint(2**62, (self.mc_samples,), generator=generator)
        with mixed_precision(image.device):
            parts = [_halving(passes, some) for some in seeds.split(_MC_CHUNK)]
        return torch.cat(parts)

    def _peaks(self, maps: torch.Tensor) -> list[np.ndarray]:
        return find_peaks(
            maps,
            min_relative_intensity=self.min_relative_intensity,
            min_spacing=self.min_spacing / self._geometry.pixel,
            limits=self._geometry.limits(self.edge_boundary),
            max_num_peaks=self.max_num_peaks,
        )

    def _on_detector(self, peaks: np.ndarray) -> np.ndarray:
        peaks = peaks.copy()
        peaks[:, :2] = self._geometry.to_detector(peaks[:, :2])
        peaks[:, 3:5] *= self._geometry.pixel
        return peaks


def _ready(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The network on a device, for evaluation: a copy where the caller's is not so already."""
    here = torch.empty(0, device=device).device  # with its index
    tensors = (*network.parameters(), *network.buffers())
    if all(t.device == here for t in tensors) and not any(m.training for m in network.modules()):
        return network
    return copy.deepcopy(network).to(device).eval()


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


def _warn(message: str) -> None:
    """Warn, pointing at the line that called this package, however deep inside we are."""
    frame, level = inspect.currentframe(), 1
    while frame.f_back and frame.f_globals["__name__"].split(".")[0] == __name__.split(".")[0]:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def _halving(function: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
    """Apply a function to a batch, in halves of halves where the GPU's memory is too small."""
    try:
        return function(batch)
    except torch.cuda.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # Outside of the except clause, whose traceback would keep the failed pass in memory.
    torch.cuda.empty_cache()
    half = len(batch) // 2
    return torch.cat([_halving(function, batch[:half]), _halving(function, batch[half:])])
