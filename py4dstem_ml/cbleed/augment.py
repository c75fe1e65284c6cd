"""What a microscope adds to a pattern: counting noise, a detector's blur, small misalignment."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Disturbance:
    """How much patterns are disturbed; each by its own draw.

    Attributes
    ----------
    counts : (float, float)
        Electrons of a pattern, drawn evenly in their logarithm.
    clean : float
        Share of patterns without counting noise.
    blur : float
        Greatest standard deviation of the detector's blur in pixels.
    shift : float
        Standard deviation of the centre along rows and columns in pixels.
    rotation_deg, scale : float
        Standard deviation of the rotation, and of the relative error of the pixel size.

    Raises
    ------
    ValueError
        If counts are not above 0 and rising, or another figure is negative.
    """

    counts: tuple[float, float] = (1e4, 1e7)
    clean: float = 0.25
    blur: float = 0.5
    shift: float = 0.25
    rotation_deg: float = 0.3
    scale: float = 0.003

    def __post_init__(self) -> None:
        if not 0 < self.counts[0] <= self.counts[1]:
            raise ValueError(f"counts are a range of numbers above 0; not {self.counts}")
        if not min(self.clean, self.blur, self.shift, self.rotation_deg, self.scale) >= 0:
            raise ValueError("shares, blur and misalignment are not negative")


def counted(images: torch.Tensor, counts: float, generator: torch.Generator) -> torch.Tensor:
    """Return images (n, H, W) of sum 1 as they are counted with so many electrons each."""
    return torch.poisson(images * counts, generator)


def disturbed(images: torch.Tensor, how: Disturbance, generator: torch.Generator) -> torch.Tensor:
    """Return images (n, H, W) of sum 1 as a microscope might show them.

    Examples
    --------
    >>> images = torch.full((2, 16, 16), 1 / 256)
    >>> disturbed(images, Disturbance(), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 16, 16])
    """
    n, device = len(images), images.device
    found = _misaligned(images, how, generator)
    if how.blur:
        width = how.blur * torch.rand(n, generator=generator, device=device)
        found = _blurred(found, width)
    low, high = map(math.log, how.counts)
    counts = torch.exp(low + (high - low) * torch.rand(n, generator=generator, device=device))
    noisy = torch.poisson(found.clamp(min=0) * counts[:, None, None], generator)
    clean = torch.rand(n, generator=generator, device=device) < how.clean
    return torch.where(clean[:, None, None], found, noisy / counts[:, None, None])


def _misaligned(images: torch.Tensor, how: Disturbance, generator: torch.Generator) -> torch.Tensor:
    if not (how.shift or how.rotation_deg or how.scale):
        return images
    n, pixels = len(images), images.shape[-1]
    drawn = torch.randn(4, n, generator=generator, device=images.device)
    angle = math.radians(how.rotation_deg) * drawn[0]
    size = 1 + how.scale * drawn[1]
    moved = (2 * how.shift / pixels) * drawn[2:]
    cos, sin = size * torch.cos(angle), size * torch.sin(angle)
    rows = torch.stack([cos, -sin, moved[0], sin, cos, moved[1]], dim=1).reshape(n, 2, 3)
    grid = functional.affine_grid(rows, [n, 1, pixels, pixels], align_corners=False)
    found = functional.grid_sample(images[:, None], grid, mode="bicubic", align_corners=False)
    return found[:, 0].clamp(min=0)


def _blurred(images: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """Gaussians of standard deviation ``width`` (n,), by their Fourier transform."""
    pixels = images.shape[-1]
    k = 2 * math.pi * torch.fft.fftfreq(pixels, device=images.device)
    half = k[: pixels // 2 + 1].abs()
    squared = k[:, None] ** 2 + half[None] ** 2
    damped = torch.exp(-0.5 * width[:, None, None] ** 2 * squared)
    return torch.fft.irfft2(torch.fft.rfft2(images) * damped, s=images.shape[-2:])
