"""What a microscope does to a pattern: backgrounds, distortion, blur, noise, detector faults.

The order is the order in which they happen, and it matters:

1. a second grain under the probe          P <- f P_1 + (1 - f) P_2
2. inelastic and amorphous scattering       P <- (1 - w) P + w B / sum B
3. lens distortion and shift                P(x) <- P(c + M (x - c) + s)
4. blur of the detector                     P <- P * Gaussian
5. counting                                 P <- Poisson(N P / sum P)
6. faults of the detector                   hot, dead, gaps, beam stop, read noise

The probe goes through 3 (without shift) and 4 too; the peaks follow 3 by its inverse,
x <- c + M^-1 (x - c - s). Sums of patterns are 1 until they are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from torch.nn import functional

from ..training import TensorBatch

Range = tuple[float, float]


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges (uniform unless said) and the share of patterns that each befalls.

    Attributes
    ----------
    grain_share, grain_fraction
        A second grain of the same shard, and the fraction f of the first.
    background_share, plasmon_weight, plasmon_width
        B is a Lorentzian 1 / (q^2 + q0^2), q0 in 1/Å, convolved with the probe.
    diffuse_weight, diffuse_width
        A Gaussian of this standard deviation in 1/Å: thermal diffuse scattering.
    ring_share, ring_weight, ring_radius, ring_width
        An amorphous ring; radius and width in 1/Å.
    warp_share, scale, ellipticity, shift_px
        M = (1 + scale) [[1 + e, d], [d, 1 - e]], e and d normal with sigma ``ellipticity``.
    blur_share, blur_px
        Standard deviation of the detector's point spread in pixels.
    clean_share, dose
        Patterns without noise; electrons in a pattern, log-uniform.
    fault_share, hot_fraction, read_noise
        Hot and dead pixels (each up to this fraction), Gaussian read noise in electrons.
    gap_share, stop_share
        Detector gaps; a beam stop over the direct beam.
    """

    grain_share: float = 0.08
    grain_fraction: Range = (0.3, 0.7)
    background_share: float = 0.6
    plasmon_weight: Range = (0.0, 0.3)
    plasmon_width: Range = (0.01, 0.1)
    diffuse_weight: Range = (0.0, 0.15)
    diffuse_width: Range = (0.25, 0.8)
    ring_share: float = 0.15
    ring_weight: Range = (0.0, 0.2)
    ring_radius: Range = (0.2, 0.7)
    ring_width: Range = (0.02, 0.08)
    warp_share: float = 0.6
    scale: Range = (-0.08, 0.08)
    ellipticity: float = 0.02
    shift_px: Range = (-5.0, 5.0)
    blur_share: float = 0.4
    blur_px: Range = (0.2, 1.1)
    clean_share: float = 0.1
    dose: Range = (1e3, 1e7)
    fault_share: float = 0.2
    hot_fraction: float = 5e-4
    read_noise: Range = (0.0, 0.5)
    gap_share: float = 0.04
    stop_share: float = 0.05


@dataclass(frozen=True, eq=False)
class Batch(TensorBatch):
    """Patterns with their probes and peaks.

    Attributes
    ----------
    patterns, probes : torch.Tensor, shape (b, h, w)
    peaks : torch.Tensor, shape (b, n, 3)
        [row, col, weight relative to the strongest], unused rows of weight 0.
    pixel_size, radius_px : torch.Tensor, shape (b,)
    """

    patterns: torch.Tensor
    probes: torch.Tensor
    peaks: torch.Tensor
    pixel_size: torch.Tensor
    radius_px: torch.Tensor


class Augmentation:
    """Apply everything above to a batch, with random numbers of its own.

    Parameters
    ----------
    config : AugmentConfig
    seed : int
    device : torch.device or str
    """

    def __init__(self, config: AugmentConfig, seed: int, device: torch.device | str = "cpu"):
        self.config = config
        self.generator = torch.Generator(device).manual_seed(seed)
        self.device = device

    def __call__(self, batch: Batch) -> Batch:
        batch = self._flip(batch)
        patterns = self._background(batch)
        patterns, probes, peaks = self._warp(patterns, batch.probes, batch.peaks)
        patterns, probes = self._blur(patterns, probes)
        patterns = self._faults(self._count(patterns), batch.radius_px)
        return Batch(patterns, probes, peaks, batch.pixel_size, batch.radius_px)

    def _uniform(self, n: int, bounds: Range) -> torch.Tensor:
        low, high = bounds
        return low + (high - low) * torch.rand(n, generator=self.generator, device=self.device)

    def _chosen(self, n: int, share: float) -> torch.Tensor:
        return (self._uniform(n, (0.0, 1.0)) < share).float()

    def _flip(self, batch: Batch) -> Batch:
        """Mirror the batch in one of eight ways about its centre pixel."""
        vertical, horizontal, transpose = (self._uniform(3, (0.0, 1.0)) < 0.5).tolist()
        patterns, probes, peaks = batch.patterns, batch.probes, batch.peaks.clone()
        for flipped, axis, size in (
            (vertical, 1, patterns.shape[1]),
            (horizontal, 2, patterns.shape[2]),
        ):
            if flipped:
                # The centre is pixel n // 2, so a mirror image moves by one pixel.
                patterns = torch.roll(torch.flip(patterns, (axis,)), 1, axis)
                peaks[..., axis - 1] = 2 * (size // 2) - peaks[..., axis - 1]
        if transpose:
            patterns, probes = patterns.mT.contiguous(), probes.mT.contiguous()
            peaks = peaks[..., [1, 0, 2]]
        return Batch(patterns, probes, peaks, batch.pixel_size, batch.radius_px)

    def _background(self, batch: Batch) -> torch.Tensor:
        c, n = self.config, len(batch.patterns)
        q = _distance(batch.patterns.shape[-2:], self.device) * batch.pixel_size[:, None, None]
        present = self._chosen(n, c.background_share)

        width = self._uniform(n, c.plasmon_width)[:, None, None]
        plasmon = _convolve(1.0 / (q**2 + width**2), batch.probes)
        sigma = self._uniform(n, c.diffuse_width)[:, None, None]
        diffuse = torch.exp(-0.5 * (q / sigma) ** 2)
        radius, ring_width = (
            self._uniform(n, r)[:, None, None] for r in (c.ring_radius, c.ring_width)
        )
        ring = torch.exp(-0.5 * ((q - radius) / ring_width) ** 2)

        patterns = batch.patterns
        for image, weight in (
            (plasmon, present * self._uniform(n, c.plasmon_weight)),
            (diffuse, present * self._uniform(n, c.diffuse_weight)),
            (ring, self._chosen(n, c.ring_share) * self._uniform(n, c.ring_weight)),
        ):
            weight = weight[:, None, None]
            patterns = (1.0 - weight) * patterns + weight * _unit_sum(image)
        return patterns

    def _warp(
        self, patterns: torch.Tensor, probes: torch.Tensor, peaks: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        c, n = self.config, len(patterns)
        warped = self._chosen(n, c.warp_share)
        e, d = (
            warped * c.ellipticity * torch.randn(n, generator=self.generator, device=self.device)
            for _ in range(2)
        )
        matrix = torch.stack([1.0 + e, d, d, 1.0 - e], dim=-1).reshape(n, 2, 2)
        matrix = matrix * (1.0 + warped * self._uniform(n, c.scale))[:, None, None]
        shift = torch.stack([warped * self._uniform(n, c.shift_px) for _ in range(2)], dim=-1)
        shape = patterns.shape[-2:]
        centre = torch.tensor([shape[0] // 2, shape[1] // 2], device=self.device)

        inverse = torch.linalg.inv(matrix)
        moved = (peaks[..., :2] - centre - shift[:, None]) @ inverse.mT + centre
        peaks = torch.cat([moved, peaks[..., 2:]], dim=-1)
        patterns = _unit_sum(sample_affine(patterns, matrix, shift))
        probes = _unit_sum(sample_affine(probes, matrix, torch.zeros_like(shift)))
        return patterns, probes, peaks

    def _blur(
        self, patterns: torch.Tensor, probes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        n = len(patterns)
        sigma = self._chosen(n, self.config.blur_share) * self._uniform(n, self.config.blur_px)
        f_row = torch.fft.fftfreq(patterns.shape[-2], device=self.device)[:, None]
        f_col = torch.fft.rfftfreq(patterns.shape[-1], device=self.device)[None, :]
        transfer = torch.exp(-2.0 * pi**2 * sigma[:, None, None] ** 2 * (f_row**2 + f_col**2))
        blurred = (
            torch.fft.irfft2(torch.fft.rfft2(image) * transfer, s=image.shape[-2:]).clamp(min=0.0)
            for image in (patterns, probes)
        )
        return tuple(blurred)  # type: ignore[return-value]

    def _count(self, patterns: torch.Tensor) -> torch.Tensor:
        n = len(patterns)
        low, high = (torch.log(torch.tensor(v)).item() for v in self.config.dose)
        dose = torch.exp(self._uniform(n, (low, high)))[:, None, None]
        expected = dose * _unit_sum(patterns)
        counted = torch.poisson(expected, generator=self.generator)
        return torch.where(
            self._chosen(n, self.config.clean_share)[:, None, None] > 0, expected, counted
        )

    def _faults(self, patterns: torch.Tensor, radius_px: torch.Tensor) -> torch.Tensor:
        c, n = self.config, len(patterns)
        shape = patterns.shape[-2:]
        faulty = self._chosen(n, c.fault_share)
        noise = torch.randn(patterns.shape, generator=self.generator, device=self.device)
        patterns = patterns + noise * (faulty * self._uniform(n, c.read_noise))[:, None, None]

        draw = torch.rand(patterns.shape, generator=self.generator, device=self.device)
        fraction = (faulty * self._uniform(n, (0.0, c.hot_fraction)))[:, None, None]
        brightest = patterns.amax((-2, -1), keepdim=True)
        hot = draw < fraction
        patterns = torch.where(hot, brightest * (draw / fraction.clamp(min=1e-12)), patterns)
        patterns = torch.where(draw > 1.0 - fraction, 0.0, patterns)

        rows = torch.arange(shape[0], device=self.device)[None, :, None]
        cols = torch.arange(shape[1], device=self.device)[None, None, :]
        gap_row, gap_col = (
            (self._uniform(n, (0.05, 0.95)) * size).floor()[:, None, None] for size in shape
        )
        gap = self._chosen(n, c.gap_share)[:, None, None]
        thickness = self._uniform(n, (1.0, 4.0))[:, None, None]
        in_gap = (rows - gap_row).abs().minimum((cols - gap_col).abs()) < 0.5 * thickness
        stop = self._chosen(n, c.stop_share)[:, None, None]
        size = (self._uniform(n, (0.8, 1.6)) * radius_px + 1.0)[:, None, None]
        distance = torch.hypot((rows - shape[0] // 2).float(), (cols - shape[1] // 2).float())
        # A disk on an arm that comes from the right.
        arm = (rows - shape[0] // 2).abs() < 0.35 * size
        in_stop = (distance < size) | (arm & (cols > shape[1] // 2))
        hidden = (gap > 0) & in_gap | (stop > 0) & in_stop
        return torch.where(hidden, 0.0, patterns).clamp(min=0.0)


def sample_affine(images: torch.Tensor, matrix: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Return images with value at x taken from c + M (x - c) + s, (row, col) pixels.

    Parameters
    ----------
    images : torch.Tensor, shape (b, h, w)
    matrix : torch.Tensor, shape (b, 2, 2)
    shift : torch.Tensor, shape (b, 2)
        Pixels. c is pixel (h // 2, w // 2); outside the image is zero; linear interpolation.
    """
    height, width = images.shape[-2:]
    device = images.device
    rows = torch.arange(height, device=device, dtype=torch.float32) - height // 2
    cols = torch.arange(width, device=device, dtype=torch.float32) - width // 2
    grid = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), dim=-1)
    source = grid @ matrix[:, None].mT + shift[:, None, None]
    row = (source[..., 0] + height // 2) * (2.0 / (height - 1)) - 1.0
    col = (source[..., 1] + width // 2) * (2.0 / (width - 1)) - 1.0
    sampled = functional.grid_sample(
        images[:, None], torch.stack([col, row], dim=-1), align_corners=True
    )
    return sampled[:, 0]


def two_grains(first: torch.Tensor, second: torch.Tensor, fraction: float) -> torch.Tensor:
    """Join two lists of peaks (n, 3) whose strongest weight is 1; the strongest stays 1."""
    joined = torch.cat([first, second])
    joined[: len(first), 2] *= fraction
    joined[len(first) :, 2] *= 1.0 - fraction
    joined[:, 2] /= joined[:, 2].max()
    return joined


def _distance(shape: torch.Size, device: torch.device | str) -> torch.Tensor:
    rows, cols = (torch.arange(n, device=device) - n // 2 for n in shape)
    return torch.hypot(rows[:, None].float(), cols[None, :].float())


def _convolve(image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    transfer = torch.fft.rfft2(torch.fft.ifftshift(kernel, dim=(-2, -1)))
    return torch.fft.irfft2(torch.fft.rfft2(image) * transfer, s=image.shape[-2:]).clamp(min=0.0)


def _unit_sum(images: torch.Tensor) -> torch.Tensor:
    return images / images.sum((-2, -1), keepdim=True).clamp(min=1e-20)
