"""A stand-in for a disk network that needs no training: correlation with the probe.

As the networks do it gives the square root of intensity. Where the probe is a Gaussian the spots
are Gaussians too, so that the sub-pixel fit is exact and what is tested is all around the network.
"""

import numpy as np
import torch
from torch import nn


class Correlation(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, patterns, probe, mc_dropout=False):
        assert patterns.shape[1:] == probe.shape
        assert all(n % 2 == 0 for n in probe.shape)
        assert patterns.dtype == probe.dtype == torch.float32
        assert not self.training
        self.calls.append(tuple(patterns.shape))
        spectrum = torch.fft.rfft2(patterns)
        spectrum = spectrum * torch.fft.rfft2(torch.fft.ifftshift(probe)).conj()
        if mc_dropout:
            shape, device = spectrum.shape[1:], spectrum.device
            draws = [torch.rand(shape, generator=g, device=device) for g in mc_dropout]
            spectrum = spectrum * (torch.stack(draws) > 0.1)
        spots = torch.fft.irfft2(spectrum, s=patterns.shape[1:]).clamp_min(0)
        return (spots / spots.amax((1, 2), keepdim=True).clamp_min(1e-30)).sqrt()


def gaussian(shape, row, col, sigma):
    """A spot, integrated over the pixels."""
    offsets = (np.arange(5) - 2) / 5
    rows = np.exp(-0.5 * ((np.arange(shape[0])[:, None] + offsets - row) / sigma) ** 2).mean(1)
    cols = np.exp(-0.5 * ((np.arange(shape[1])[:, None] + offsets - col) / sigma) ** 2).mean(1)
    return np.outer(rows, cols)


def disk(shape, row, col, radius):
    """A disk with a soft edge, integrated over the pixels."""
    offsets = (np.arange(5) - 2) / 5
    rows = (np.arange(shape[0])[:, None] + offsets - row).ravel()
    cols = (np.arange(shape[1])[:, None] + offsets - col).ravel()
    edge = np.clip((np.hypot(rows[:, None], cols) - radius) / (0.05 * radius + 0.05), -50, 50)
    return (1 / (1 + np.exp(edge))).reshape(shape[0], 5, shape[1], 5).mean((1, 3))


def lattice(shape, spacing, rng):
    """Spots (n, 3) on a grid with sub-pixel shifts, one of intensity 1, clear of the edges."""
    grid = [np.arange(0.75 * spacing, n - 0.7 * spacing, spacing) for n in shape]
    spots = np.stack(np.meshgrid(*grid, indexing="ij"), -1).reshape(-1, 2)
    spots = spots + rng.uniform(-0.5, 0.5, spots.shape)
    intensity = rng.uniform(0.1, 0.9, len(spots))
    intensity[len(spots) // 2] = 1
    return np.column_stack([spots, intensity])


def draw(shape, spots, shape_of_disk, size):
    return sum(i * shape_of_disk(shape, r, c, size) for r, c, i in spots)
