"""Bright fields from a projected potential alone: few beams exact, the others a perturbation.

In natural variables (`natural`) the waves of one direction k of the Brillouin zone pass a foil of
depth tau by exp(i pi tau H), H = u_{h-h'} - |k + h|^2, in the approximation of small angles. Its
diagonal holds the bright field at all directions k + h. Beams far outside join by second order
(Löwdin, J. Chem. Phys. 19 (1951) 1396). Gradients pass the diagonalisation by divided differences
(Daleckii and Krein), which degenerate levels do not disturb.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil, pi

import torch

#: Coefficients below this share of the greatest couple no beams.
_COUPLED = 1e-4
#: By the number of sets of beams that no coefficient joins (one in primitive projections, two or
#: four in centred ones): how far beams that are diagonalised lie from the axis, along a* and b*.
QUICK = {1: 9, 2: 12, 4: 14}
FINE = {1: 11, 2: 15, 4: 19}
#: How far those lie that are a perturbation.
_WEAK = 20


class _Propagator(torch.autograd.Function):
    """Diagonals of exp(i pi tau H) of real symmetric matrices (b, n, n), shape (b, n, t, 2)."""

    @staticmethod
    def forward(ctx, matrix: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        ctx.save_for_backward(values, vectors, tau)
        phases = pi * values[..., None] * tau.to(values)
        waves = torch.cat([phases.cos(), phases.sin()], dim=-1)
        return (vectors.square() @ waves).unflatten(-1, (2, -1)).mT

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        values, vectors, tau = ctx.saved_tensors
        total = torch.zeros_like(vectors)
        for number, depth in enumerate(tau.tolist()):
            # exp(ia) - exp(ib) = 2i sin((a - b) / 2) exp(i (a + b) / 2)
            half = 0.5 * pi * depth * values
            slope = pi * depth * torch.sinc((half[:, :, None] - half[:, None, :]) / pi)
            middle = half[:, :, None] + half[:, None, :]
            for part, shape in ((0, -middle.sin()), (1, middle.cos())):
                inner = vectors.mT @ (gradient[:, :, number, part, None] * vectors)
                total = total + inner * slope * shape
        return vectors @ total @ vectors.mT, None


@dataclass(frozen=True, eq=False)
class _Beams:
    """A set of n strong and m weak beams that coefficients join, for d directions.

    ``among`` (n, n) and ``through`` (n, m) say where their couplings stand in a flat table of
    coefficients, ``level`` (d, n) and ``gap`` (d, n, m) are in natural units; ``seen`` (d, n) are
    those within the square, ``place`` where in a quadrant's flat picture these lie.
    """

    among: torch.Tensor
    through: torch.Tensor
    level: torch.Tensor
    gap: torch.Tensor
    seen: torch.Tensor
    place: torch.Tensor


class BrightField:
    """Bright fields of cubic crystals along [001], with gradients with respect to the potential.

    Parameters
    ----------
    pixels : int
        Rows and columns of the pattern, even.
    half_width : float
        Of the square of directions, in reciprocal lattice vectors; each a whole number of pixels.
    reach : dict of int to int
        See `QUICK` and `FINE`.
    cell_pixels : int
        Rows and columns of the potential; its coefficients are used up to half of that.

    Raises
    ------
    ValueError
        If a reciprocal lattice vector is not a whole number of pixels long.
    """

    def __init__(
        self, pixels: int, half_width: float, reach: dict[int, int] = QUICK, cell_pixels: int = 64
    ) -> None:
        steps = round(pixels / (2.0 * half_width))
        if pixels % 2 or abs(steps * 2.0 * half_width - pixels) > 1e-9:
            raise ValueError("a reciprocal lattice vector must be a whole number of pixels long")
        self.half, self.steps, self.cell_pixels = pixels // 2, steps, cell_pixels
        least = ceil(half_width)
        self.reach = {sets: max(far, least) for sets, far in reach.items()}

    def __call__(self, coefficients: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """Return quadrants of the bright field, from the centre outwards.

        Parameters
        ----------
        coefficients : torch.Tensor, shape (m, m)
            u_h in the order of a Fourier transform; real, as about a centre of inversion.
        tau : torch.Tensor, shape (t,)

        Returns
        -------
        torch.Tensor, shape (t, pixels / 2, pixels / 2)
        """
        image = coefficients.new_zeros(len(tau), self.half**2)
        corner = torch.tensor(self.cell_pixels // 2 * (self.cell_pixels + 1))
        table = coefficients.flatten().index_fill(0, corner, 0.0)  # see `_index`
        for beams in self._sets[uncoupled_sets(coefficients)]:
            matrix = table[beams.among] + torch.diag_embed(beams.level.to(table.dtype))
            through = table[beams.through]
            # No coupling shifts a level by more than itself, however near the other level lies.
            share = through * beams.gap / (beams.gap.square() + through.square() + 1e-12)
            back = share @ through.T
            amplitudes = _Propagator.apply(matrix + 0.5 * (back + back.mT), tau)
            intensity = amplitudes.square().sum(-1)[beams.seen]
            image = image.index_copy(1, beams.place, intensity.T)
        return image.unflatten(1, (self.half, self.half))

    @cached_property
    def _sets(self) -> dict[int, list[_Beams]]:
        return {sets: self._beams(sets) for sets in (1, 2, 4)}

    def _beams(self, sets: int) -> list[_Beams]:
        inside = torch.arange(self.steps) + 0.5
        # Directions of the Brillouin zone that no mirror joins.
        inside = torch.unique(torch.minimum(inside, self.steps - inside)) / self.steps
        directions = torch.cartesian_prod(inside, inside)
        far = max(_WEAK, self.reach[sets])
        side = torch.arange(-far, far + 1)
        beams = torch.cartesian_prod(side, side)
        kind = (beams % 2) @ torch.tensor([2, 1]) if sets == 4 else beams.sum(1) % sets
        near = beams.abs().amax(1) <= self.reach[sets]
        found = []
        for number in range(sets):
            strong, weak = beams[(kind == number) & near], beams[(kind == number) & ~near]
            toward = directions[:, None] + strong
            level = -toward.square().sum(-1)
            place = (toward.abs() * self.steps).long()
            # Half a vector from the axis, beams on either side have the same pixels.
            counted = (toward > 0) | (directions[:, None] < 0.5)
            seen = ((place < self.half) & counted).all(-1)
            # A beam outside the square swings with those inside.
            lowest = level[seen].min()
            weak_level = -(directions[:, None] + weak).square().sum(-1)
            gap = level.clamp(min=float(lowest))[:, :, None] - weak_level[:, None]
            flat = place[seen] @ torch.tensor([self.half, 1])
            found.append(_Beams(
                self._index(strong, strong), self._index(strong, weak), level, gap, seen, flat
            ))  # fmt: skip
        return found

    def _index(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Where couplings stand in the table; beyond its reach, at the one that is zero."""
        n = self.cell_pixels
        apart = one[:, None] - other
        inside = (apart.abs() < n // 2).all(-1)
        apart = torch.where(inside[..., None], apart, n // 2) % n
        return apart @ torch.tensor([n, 1])


def coefficients_of(u: torch.Tensor) -> torch.Tensor:
    """Return u_h of a potential about its centre of inversion, wherever in the cell that lies.

    Parameters
    ----------
    u : torch.Tensor, shape (m, m)
        In natural units. Projections of cubic crystals along [001] have such a centre.

    Returns
    -------
    torch.Tensor, shape (m, m)
        float32, in the order of a Fourier transform.
    """
    spectrum = torch.fft.fft2(u.double(), norm="forward")
    # The potential's convolution with itself is greatest at twice the centre.
    twice = int(torch.fft.ifft2(spectrum.square()).real.argmax())
    m = len(u)
    index = torch.fft.fftfreq(m, 1.0 / m, dtype=torch.float64, device=u.device)
    turns = (index[:, None] * (twice // m) + index * (twice % m)) * (pi / m)
    return (spectrum * torch.polar(torch.ones_like(turns), turns)).real.float()


def uncoupled_sets(coefficients: torch.Tensor) -> int:
    """How many sets of beams there are that no coefficient joins: 1, or 2 or 4 in centred cells."""
    size = coefficients.detach().abs()
    h, k = torch.nonzero(size > _COUPLED * size.max()).T % 2
    return 1 if (h ^ k).any() else 2 if (h | k).any() else 4
