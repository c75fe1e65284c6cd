"""Bragg lines: the directions at which a reflection is excited.

In natural variables (`natural`) the wave of direction k is off the Bragg condition of g by
G = g^2 + 2 k.g. A bright field of a cubic crystal along [001] has both mirrors, so that a quadrant
of directions and one of reflections, summed over the four signs, hold all.
"""

from __future__ import annotations

import torch
from torch import nn

#: Widths of the lines that networks read along and draw, in G.
_WIDTHS = (0.5, 2.0, 8.0)


def quadrant(pictures: torch.Tensor) -> torch.Tensor:
    """Return the mean of the four quadrants of pictures (..., n, n), from the centre outwards."""
    half = pictures.shape[-1] // 2
    rows = 0.5 * (pictures[..., half:, :] + pictures[..., :half, :].flip(-2))
    return 0.5 * (rows[..., half:] + rows[..., :half].flip(-1))


def unfolded(quadrants: torch.Tensor) -> torch.Tensor:
    """Return the pictures (..., 2 n, 2 n) of quadrants (..., n, n)."""
    rows = torch.cat([quadrants.flip(-2), quadrants], dim=-2)
    return torch.cat([rows.flip(-1), rows], dim=-1)


class BraggLines(nn.Module):
    """Geometry of the Bragg lines of a square of directions.

    Parameters
    ----------
    pixels : int
        Rows and columns of a quadrant of directions.
    half_width : float
        Its side, in reciprocal lattice vectors.
    highest : int
        Reflections (h, k) of up to this length are counted.
    """

    def __init__(self, pixels: int, half_width: float, highest: int) -> None:
        super().__init__()
        k = (torch.arange(pixels) + 0.5) * (half_width / pixels)
        h = torch.arange(highest + 1)
        pairs = torch.cartesian_prod(h, h)
        pairs = pairs[(pairs.square().sum(1) <= highest**2) & (pairs.sum(1) > 0)]
        signs = torch.cartesian_prod(torch.tensor([1, -1]), torch.tensor([1, -1]))
        signed = pairs * signs[:, None]
        along = torch.einsum("sgd,dxy->xysg", signed.float(), torch.stack(
            torch.meshgrid(k, k, indexing="ij"), dim=0
        ))  # fmt: skip
        off = 2.0 * along + pairs.square().sum(1)
        self.pixels, self.side = pixels, highest + 1
        # Where h or k is zero two signs are one reflection.
        weight = 0.5 ** (pairs == 0).sum(1).float()
        self.register_buffer("pairs", pairs, persistent=False)
        lines = _profiles(off.reshape(pixels**2, 4, len(pairs)), weight)
        self.register_buffer("lines", lines, persistent=False)

    @property
    def kinds(self) -> int:
        """Number of profiles."""
        return 2 * len(_WIDTHS)

    def gather(self, grid: torch.Tensor) -> torch.Tensor:
        """Return what a grid (..., side, side) over h, k >= 0 holds at the reflections (..., g)."""
        return grid[..., self.pairs[:, 0], self.pairs[:, 1]]

    def scatter(self, values: torch.Tensor) -> torch.Tensor:
        """Put values (..., g) of the reflections on a grid (..., side, side), zero elsewhere."""
        grid = values.new_zeros(*values.shape[:-1], self.side, self.side)
        grid[..., self.pairs[:, 0], self.pairs[:, 1]] = values
        return grid

    def spectra(self, fields: torch.Tensor) -> torch.Tensor:
        """Return Fourier coefficients of fields (..., n, n) at (h, k) and (-h, k), (..., 2, g)."""
        last = self.side - 1
        spectrum = torch.fft.rfft2(fields, norm="forward")[..., : self.side]
        low = torch.cat([spectrum[..., -last:, :], spectrum[..., : self.side, :]], dim=-2)
        h, k = self.pairs.T
        return low[..., torch.stack([last + h, last - h]), k.expand(2, -1)]

    def coefficients(self, u: torch.Tensor) -> torch.Tensor:
        """Return |u_g| of potentials (b, n, n), shape (b, g), the mean over signs."""
        return self.spectra(u.float()).abs().square().mean(-2).sqrt()

    def draw(self, weights: torch.Tensor) -> torch.Tensor:
        """Draw lines of given weights (b, kinds, c, g) on the quadrant, (b, c, pixels, pixels)."""
        drawn = torch.einsum("kpg,bkcg->bcp", self.lines, weights)
        return drawn.unflatten(2, (self.pixels, self.pixels))

    def read(self, maps: torch.Tensor) -> torch.Tensor:
        """Return means of maps (b, c, pixels, pixels) along the lines, (b, kinds c, g)."""
        found = torch.einsum("kpg,bcp->bkcg", self.lines, maps.flatten(2))
        return found.flatten(1, 2) / self.pixels**2


def _profiles(off: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Even and odd profiles across the lines, summed over signs, (kinds, pixels^2, g).

    ``off`` (pixels^2, 4, g) is how far each direction is off the Bragg condition.
    """
    kinds = []
    for width in _WIDTHS:
        even = 1.0 / (1.0 + (off / width).square())
        for profile in (even, even * off / width):
            summed = (profile * weight).sum(1)
            kinds.append(summed / summed.square().mean().sqrt())
    return torch.stack(kinds)
