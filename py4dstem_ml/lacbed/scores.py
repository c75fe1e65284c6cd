"""How alike two pictures are: the papers' R, errors on min-max pictures, the best origin."""

from __future__ import annotations

import torch

_LEAST = 1e-12


def pearson(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the correlation of pictures (..., H, W); 0 where one is constant."""
    one = one - one.mean((-2, -1), keepdim=True)
    other = other - other.mean((-2, -1), keepdim=True)
    power = one.square().mean((-2, -1)) * other.square().mean((-2, -1))
    return (one * other).mean((-2, -1)) / power.clamp(min=_LEAST**2).sqrt()


def likeness(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return R = (1 + Pearson) / 2 of pictures (..., H, W): 1 alike, 0.5 nothing in common.

    Webb, Beanland and Römer (arXiv 2503.02852, eq. 3), from the zero-mean normalised
    cross-correlation.

    Examples
    --------
    >>> picture = torch.rand(8, 8)
    >>> round(float(likeness(picture, 2 * picture + 1)), 4)
    1.0
    """
    return 0.5 * (1.0 + pearson(one, other))


def stretched(pictures: torch.Tensor) -> torch.Tensor:
    """Return pictures (..., H, W) from 0 to 1, each by its own least and greatest value."""
    low = pictures.amin((-2, -1), keepdim=True)
    return (pictures - low) / (pictures.amax((-2, -1), keepdim=True) - low).clamp(min=_LEAST)


def squared_error(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference of pictures (..., H, W), each stretched to 0 to 1."""
    return (stretched(one) - stretched(other)).square().mean((-2, -1))


def at_best_origin(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Return potentials (b, n, n), moved round the cell to where they are most like others.

    Parameters
    ----------
    wanted : torch.Tensor, shape (b, n, n)
        The potentials to be moved.
    found : torch.Tensor, shape (b, n, n)
        What they are compared with.
    """
    n = wanted.shape[-1]
    with torch.no_grad():
        spectrum = torch.fft.rfft2(found.float()) * torch.fft.rfft2(wanted.float()).conj()
        best = torch.fft.irfft2(spectrum, s=wanted.shape[-2:]).flatten(1).argmax(1)
    rows = (torch.arange(n, device=wanted.device) - (best // n)[:, None]) % n
    cols = (torch.arange(n, device=wanted.device) - (best % n)[:, None]) % n
    batch = torch.arange(len(wanted), device=wanted.device)[:, None, None]
    return wanted[batch, rows[:, :, None], cols[:, None, :]]
