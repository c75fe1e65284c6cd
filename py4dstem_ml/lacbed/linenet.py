"""LineNet: potential to pattern and back by way of the Bragg lines.

What couples a unit cell and its bright field is geometry: every reflection darkens a line of
directions of its own. Both networks carry it built in. Forward, a few beams make a first picture,
exact but for what they leave out (`bright_field`); features of the potential on the torus of the
unit cell become features of reflections that no shift of the origin changes (cross spectra: of a
field and its square, the structure invariants), are drawn along their lines, and mend that
picture. Inverse, features of the pattern are read along the lines, and reflections find their
signs among themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from .bragg_lines import BraggLines, quadrant, unfolded
from .bright_field import BrightField, coefficients_of, computing_device
from .layers import Attention, Block, Told, convolution
from .natural import conditions

#: Reflections and directions that are zero stay finite under roots.
_LEAST = 1e-6
#: Features that the conditions are told by.
_TOLD = 64


@dataclass(frozen=True)
class LineSpec:
    """What a LineNet is built from.

    Attributes
    ----------
    pixels : int
        Rows and columns of potentials and patterns.
    half_width : float
        Of the square of directions, in reciprocal lattice vectors.
    highest : int
        Longest (h, k) that has a line.
    cell, reflections, lines : int
        Channels on the unit cell, of the reflections, and drawn or read along the lines.
    widths : tuple of int
        Channels on the quadrant of directions, by level.
    depth : int
        Transformer layers over reflections.
    dropout : float
    """

    pixels: int = 64
    half_width: float = 8.0
    highest: int = 15
    cell: int = 24
    reflections: int = 96
    lines: int = 16
    widths: tuple[int, ...] = (32, 64, 96)
    depth: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if self.pixels % 2 ** len(self.widths) or self.pixels < 16:
            raise ValueError(f"pixels must be a multiple of {2 ** len(self.widths)}, 16 or more")
        if not 1 <= self.highest < self.pixels // 2:
            raise ValueError("highest must be 1 or more, and below half the pixels")

    def bragg_lines(self) -> BraggLines:
        """Return the lines of these directions."""
        return BraggLines(self.pixels // 2, self.half_width, self.highest)


def signed_root(x: torch.Tensor) -> torch.Tensor:
    """Return sign(x) sqrt|x|, smooth at zero."""
    return x * (x.square() + _LEAST).pow(-0.25)


class QuadrantNet(nn.Module):
    """A U-Net over the quadrant of directions, whose inner edges are mirrors."""

    def __init__(self, n_in: int, widths: tuple[int, ...], n_out: int) -> None:
        super().__init__()
        self.enter = convolution(n_in, widths[0], "replicate")
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for here, below in zip(widths, widths[1:] + widths[-1:], strict=True):
            self.down.append(Block(here, below, "replicate", _TOLD))
            self.up.insert(0, Block(2 * below, here, "replicate", _TOLD))
        self.attend = Attention(widths[-1], _TOLD)
        self.leave = nn.Sequential(nn.ReLU(), convolution(widths[0], n_out, "replicate"))

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        passed = []
        for level, block in enumerate(self.down):
            x = block(x, told)
            passed.append(x)
            if level < len(self.down) - 1:
                x = functional.avg_pool2d(x, 2)
        x = self.attend(x.flatten(2).mT, told).mT.reshape(x.shape)
        for level, block in enumerate(self.up):
            if level:
                x = functional.interpolate(x, scale_factor=2, mode="bilinear")
            x = block(torch.cat([x, passed.pop()], dim=1), told)
        return self.leave(x)


class LineGenerator(nn.Module):
    """Bright fields of potentials: those of few beams, mended by a network.

    Parameters
    ----------
    spec : LineSpec

    Examples
    --------
    >>> network = LineGenerator(LineSpec(pixels=16, half_width=2, highest=3, widths=(8, 8)))
    >>> network(torch.rand(2, 16, 16), torch.tensor([0.1, 0.2])).shape
    torch.Size([2, 16, 16])
    """

    def __init__(self, spec: LineSpec) -> None:
        super().__init__()
        self.spec = spec
        width = spec.reflections
        self.few_beams = BrightField(spec.pixels, spec.half_width, cell_pixels=spec.pixels)
        self.lines = spec.bragg_lines()
        self.told = Told(2, _TOLD)
        self.enter = convolution(2, spec.cell, "circular")
        self.cell = nn.ModuleList(Block(spec.cell, spec.cell, "circular", _TOLD) for _ in range(2))
        self.mix = nn.Linear(spec.cell + 2, 2 * width, bias=False)
        self.join = nn.Linear(2 * width + 3, width)
        self.reflections = nn.ModuleList(Attention(width, _TOLD) for _ in range(spec.depth))
        self.weigh = nn.Linear(width, spec.lines * self.lines.kinds)
        self.draw_norm = nn.GroupNorm(1, spec.lines)
        self.directions = QuadrantNet(spec.lines + 2, spec.widths, 1)
        # Untrained it leaves the picture of few beams as it is.
        nn.init.zeros_(self.directions.leave[-1].weight)
        nn.init.zeros_(self.directions.leave[-1].bias)

    def forward(
        self, u: torch.Tensor, tau: torch.Tensor, few: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the bright fields (b, n, n), the incident intensity being 1.

        Parameters
        ----------
        u : torch.Tensor, shape (b, n, n)
            Potentials of one cell in natural units, see `natural`.
        tau : torch.Tensor, shape (b,)
        few : torch.Tensor, shape (b, n / 2, n / 2), optional
            Their bright fields with few beams, see `few_beam_patterns`, where these are known.
        """
        few = self.few_beam_patterns(u, tau) if few is None else few
        spread = u.std((1, 2)).clamp(min=_LEAST)
        told = self.told(conditions(tau, spread))
        with torch.no_grad():
            coupling = self.lines.coefficients(u)
        found = self._of_reflections(u / spread[:, None, None], coupling, spread, tau, told)
        drawn = self.lines.draw(self.weigh(found).mT.unflatten(1, (self.lines.kinds, -1)))
        contrast = few.std((1, 2), keepdim=True).clamp(min=1e-4)
        seen = [few, (few - few.mean((1, 2), keepdim=True)) / contrast]
        x = torch.cat([self.draw_norm(drawn), torch.stack(seen, dim=1)], dim=1)
        change = self.directions(x, told)[:, 0].float()
        return unfolded(few + contrast * change)

    def few_beam_patterns(self, u: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """Return quadrants (b, n / 2, n / 2) of the bright fields of few beams.

        The origin of the potentials is brought to a centre of inversion.
        """
        with torch.no_grad(), torch.autocast(u.device.type, enabled=False):
            at = computing_device(u.device)
            found = self.few_beams(coefficients_of(u.float().to(at)), tau.float()[:, None])
            return found[:, 0].to(u.device)

    def _of_reflections(
        self, v: torch.Tensor, coupling: torch.Tensor, spread: torch.Tensor, tau: torch.Tensor,
        told: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """Features (b, g, width) of reflections, whatever the origin."""
        x = self.enter(torch.stack([v, v.square().clamp(max=25.0) / 5.0], dim=1))
        for block in self.cell:
            x = block(x, told)
        fields = torch.cat([x.float(), v[:, None], v.square()[:, None]], dim=1)
        spectra = torch.view_as_real(self.lines.spectra(fields)).movedim(1, -1)
        one, two = self.mix(spectra).float().chunk(2, dim=-1)
        # conj(one) times two; the four signs of h and k are one reflection.
        real = (one * two).sum(3)
        imaginary = one[..., 0, :] * two[..., 1, :] - one[..., 1, :] * two[..., 0, :]
        cross = torch.cat([real, imaginary.abs()], dim=-1).mean(1)
        length = self.lines.pairs.float().square().sum(1).sqrt() / self.spec.highest
        size = signed_root(coupling / spread[:, None])
        known = [size, size * (tau * spread)[:, None].clamp(max=20.0).sqrt(),
                 length.expand_as(size)]  # fmt: skip
        found = self.join(torch.cat([signed_root(cross), torch.stack(known, dim=-1)], dim=-1))
        for layer in self.reflections:
            found = layer(found, told)
        return found


class LineInverse(nn.Module):
    """Potentials of bright fields.

    Parameters
    ----------
    spec : LineSpec

    Examples
    --------
    >>> network = LineInverse(LineSpec(pixels=16, half_width=2, highest=3, widths=(8, 8)))
    >>> network(torch.rand(2, 16, 16), torch.tensor([0.1, 0.2])).shape
    torch.Size([2, 16, 16])
    """

    def __init__(self, spec: LineSpec) -> None:
        super().__init__()
        self.spec = spec
        width = spec.reflections
        self.lines = spec.bragg_lines()
        self.told = Told(1, _TOLD)
        self.directions = QuadrantNet(1, spec.widths, spec.lines)
        self.join = nn.Linear(spec.lines * self.lines.kinds, width)
        self.place = nn.Parameter(0.02 * torch.randn(len(self.lines.pairs), width))
        self.patches = nn.Conv2d(spec.lines, width, 4, 4)
        patches = (spec.pixels // 8) ** 2
        self.patch_place = nn.Parameter(0.02 * torch.randn(patches, width))
        self.reflections = nn.ModuleList(
            Attention(width, _TOLD, dropout=spec.dropout) for _ in range(2 * spec.depth)
        )
        self.forget = nn.Dropout(spec.dropout)
        self.weigh = nn.Linear(width, 2 * spec.cell)
        self.enter = convolution(spec.cell, spec.cell, "circular")
        self.cell = nn.ModuleList(Block(spec.cell, spec.cell, "circular", _TOLD) for _ in range(3))
        self.leave = nn.Conv2d(spec.cell, 1, 1)
        self.strength = nn.Linear(width, 1)

    def forward(self, patterns: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """Return potentials (b, n, n) of one cell in natural units, see `natural`.

        Parameters
        ----------
        patterns : torch.Tensor, shape (b, n, n)
            Bright fields of any scale.
        tau : torch.Tensor, shape (b,)
        """
        told = self.told(conditions(tau, torch.ones_like(tau))[:, :1])
        quarter = quadrant(patterns.float())
        middle = quarter.mean((1, 2), keepdim=True)
        scale = quarter.std((1, 2), keepdim=True).clamp(min=1e-12)
        maps = self.directions(((quarter - middle) / scale)[:, None], told)
        along = self.join(signed_root(self.lines.read(maps.float())).mT) + self.place
        patches = self.patches(maps).flatten(2).mT + self.patch_place
        tokens = self.forget(torch.cat([along, patches], dim=1))
        for layer in self.reflections:
            tokens = layer(tokens, told)
        found = tokens[:, : along.shape[1]].float()
        v = self._on_cell(found, told)
        # In half precision its logarithm would be a hundredth off.
        with torch.autocast(found.device.type, enabled=False):
            return v * self.strength(found.mean(1)).exp()[..., None]

    def _on_cell(self, found: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """Fields of real coefficients, alike or opposite in the signs of h, made a potential."""
        alike, opposite = self.weigh(found).float().mT.chunk(2, dim=1)
        n, (h, k) = self.spec.pixels, self.lines.pairs.T
        spectrum = alike.new_zeros(*alike.shape[:2], n, n)
        both = (h > 0) & (k > 0)
        opposite = opposite * both
        for sign, value in ((1, alike + opposite), (-1, alike - opposite)):
            spectrum[..., sign * h, k] = value
            spectrum[..., -sign * h, -k] = value
        x = torch.fft.fft2(spectrum, norm="forward").real * n
        x = self.enter(x)
        for block in self.cell:
            x = block(x, told)
        v = self.leave(x)[:, 0].float()
        return v - v.mean((1, 2), keepdim=True)
