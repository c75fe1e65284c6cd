"""Layers of the disk networks: complex convolutions, spectral pooling, Monte Carlo dropout.

A complex field of n channels is a real tensor of 2 n channels, real parts first, so that
autocast, channels-last and safetensors treat it as any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn
from torch.nn import functional

# True: masks from torch's own generator; generators: one for each pattern of the batch.
Sampling = bool | Sequence[torch.Generator]
_sampling: ContextVar[Sampling] = ContextVar("monte_carlo_dropout", default=False)


@contextmanager
def monte_carlo_dropout(active: Sampling) -> Iterator[None]:
    """Keep dropout on in evaluation mode, in this thread only."""
    token = _sampling.set(active)
    try:
        yield
    finally:
        _sampling.reset(token)


class MonteCarloDropout(nn.Module):
    """Channel dropout that `monte_carlo_dropout` can keep on (Gal & Ghahramani 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sampling = _sampling.get()
        if not self.rate or not (self.training or sampling):
            return x
        if isinstance(sampling, bool):
            return functional.dropout2d(x, self.rate, True)
        draws = [torch.rand(x.shape[1], generator=g, device=x.device) for g in sampling]
        kept = (torch.stack(draws) >= self.rate).to(x.dtype) / (1 - self.rate)
        return x * kept[..., None, None]


class ComplexConv2d(nn.Module):
    """A convolution with a complex kernel: (K_r + i K_i) * (x_r + i x_i)."""

    def __init__(self, n_in: int, n_out: int, size: int = 3) -> None:
        super().__init__()
        self.real = nn.Parameter(torch.empty(n_out, n_in, size, size))
        self.imag = nn.Parameter(torch.empty(n_out, n_in, size, size))
        for kernel in (self.real, self.imag):
            # He initialisation over the 2 n_in real inputs that each output sums.
            nn.init.normal_(kernel, std=(1.0 / (n_in * size * size)) ** 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top = torch.cat([self.real, -self.imag], dim=1)
        bottom = torch.cat([self.imag, self.real], dim=1)
        return functional.conv2d(x, torch.cat([top, bottom]), padding=self.real.shape[-1] // 2)


def convolution(n_in: int, n_out: int, complex_: bool) -> nn.Module:
    """Return a 3 x 3 convolution without bias (a normalisation follows)."""
    if complex_:
        return ComplexConv2d(n_in, n_out)
    return nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)


class ConvBlock(nn.Sequential):
    """``depth`` times convolution, batch normalisation, (C)ReLU, dropout.

    On a complex field ReLU acts on the real and imaginary parts by themselves: CReLU
    (Trabelsi et al., ICLR 2018).
    """

    def __init__(
        self, n_in: int, n_out: int, depth: int, *, complex_: bool, dropout: float
    ) -> None:
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [
                convolution(n_in if i == 0 else n_out, n_out, complex_),
                nn.BatchNorm2d(n_out * (2 if complex_ else 1)),
                nn.ReLU(inplace=True),
                MonteCarloDropout(dropout),
            ]
        super().__init__(*layers)


def concatenate(skip: torch.Tensor, x: torch.Tensor, complex_: bool) -> torch.Tensor:
    """Join channels; of complex fields real with real and imaginary with imaginary."""
    if not complex_:
        return torch.cat([skip, x], dim=1)
    skip_real, skip_imag = skip.chunk(2, dim=1)
    real, imag = x.chunk(2, dim=1)
    return torch.cat([skip_real, real, skip_imag, imag], dim=1)


def half_band(spectrum: torch.Tensor) -> torch.Tensor:
    """Return the central half of a centred spectrum (.., h, w) in both axes."""
    h, w = spectrum.shape[-2:]
    return spectrum[..., h // 4 : h // 4 + h // 2, w // 4 : w // 4 + w // 2]


class SpectralPool2d(nn.Module):
    """Halve the size by keeping the lower half of the frequencies (Rippel et al. 2015)."""

    def __init__(self, complex_: bool) -> None:
        super().__init__()
        self.complex_ = complex_

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            field = torch.complex(*x.float().chunk(2, dim=1)) if self.complex_ else x.float()
            spectrum = torch.fft.fftshift(torch.fft.fft2(field, norm="forward"), dim=(-2, -1))
            low = torch.fft.ifftshift(half_band(spectrum), dim=(-2, -1))
            pooled = torch.fft.ifft2(low, norm="forward")
        if self.complex_:
            return torch.cat([pooled.real, pooled.imag], dim=1).to(x.dtype)
        return pooled.real.to(x.dtype)


class FourierUnit(nn.Module):
    """Let every pixel see the whole pattern: mix channels in Fourier space.

    A lattice of disks is a lattice of sharp peaks there. The mixing follows the Fast Fourier
    Convolution of Chi et al., NeurIPS 2020; besides, a gate computed from the local power
    spectrum passes the frequencies that belong to a lattice.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, inner, 1)
        self.mix = nn.Sequential(
            nn.Conv2d(2 * inner, 2 * inner, 1, bias=False),
            nn.BatchNorm2d(2 * inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * inner, 2 * inner, 1),
        )
        self.gate = nn.Sequential(
            nn.Conv2d(inner, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, 2 * inner, 1),
        )
        self.expand = nn.Conv2d(inner, channels, 1)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        reduced = self.reduce(x)
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.fft.rfft2(reduced.float(), norm="ortho")
            power = torch.log1p(spectrum.real**2 + spectrum.imag**2)
            parts = torch.cat([spectrum.real, spectrum.imag], dim=1)
        gated = parts * torch.sigmoid(self.gate(power)) + self.mix(parts)
        with torch.autocast(x.device.type, enabled=False):
            mixed = torch.complex(*gated.float().chunk(2, dim=1))
            field = torch.fft.irfft2(mixed, s=reduced.shape[-2:], norm="ortho")
        return x + self.expand(field.to(reduced.dtype))


class UNet(nn.Module):
    """A U-Net over real or complex fields.

    Parameters
    ----------
    n_in : int
    widths : tuple of int
        Channels of each level; each but the first has half the size of the one before.
    depth : int
        Convolutions of a block.
    complex_ : bool
    pooling : {"max", "spectral"}
    dropout : float
    fourier_levels : tuple of int
        Levels whose encoder ends in a `FourierUnit` (real fields only).
    """

    def __init__(
        self,
        n_in: int,
        widths: tuple[int, ...],
        depth: int,
        *,
        complex_: bool = False,
        pooling: str = "max",
        dropout: float = 0.0,
        fourier_levels: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.complex_ = complex_
        options = {"complex_": complex_, "dropout": dropout}
        inputs = (n_in, *widths[:-1])
        self.encoder = nn.ModuleList(
            ConvBlock(a, b, depth, **options) for a, b in zip(inputs, widths, strict=True)
        )
        self.units = nn.ModuleList(
            FourierUnit(w, max(8, w // 2)) if level in fourier_levels else nn.Identity()
            for level, w in enumerate(widths)
        )
        self.pool = SpectralPool2d(complex_) if pooling == "spectral" else nn.MaxPool2d(2)
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        # Narrowed before it is enlarged: the joined tensors of the largest level are the cost.
        self.narrow = nn.ModuleList(
            ComplexConv2d(below, skip, 1) if complex_ else nn.Conv2d(below, skip, 1, bias=False)
            for skip, below in pairs
        )
        self.decoder = nn.ModuleList(
            ConvBlock(2 * skip, skip, depth, **options) for skip, _ in pairs
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level, (block, unit) in enumerate(zip(self.encoder, self.units, strict=True)):
            x = unit(block(x if level == 0 else self.pool(x)))
            skips.append(x)
        for level in reversed(range(len(self.decoder))):
            up = functional.interpolate(self.narrow[level](x), scale_factor=2.0, mode="nearest")
            x = self.decoder[level](concatenate(skips[level], up, self.complex_))
        return x
