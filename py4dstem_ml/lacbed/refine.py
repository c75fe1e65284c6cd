"""Refine a projected potential until its exact pattern is the measured one.

In natural variables (`natural`) the waves of one direction of the Brillouin zone pass a foil of
depth tau by exp(i pi tau H), H = u_{h-h'} - |k + h|^2, in the approximation of small angles. Its
diagonal holds the bright field at all directions k + h. Gradients pass the diagonalisation by
divided differences (Daleckii and Krein), which degenerate levels do not disturb.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import numpy as np
import numpy.typing as npt
import torch

from ..progress import progress_bar
from .bragg_lines import quadrant, unfolded
from .natural import depth, strength_per_volt
from .scores import likeness, pearson

#: Beams that are diagonalised together, about; those nearest the axis.
_BEAMS = 600
#: Coefficients below this share of the greatest couple no beams.
_COUPLED = 1e-4
#: A pattern that agrees so well with its transpose has a square's diagonals.
_SQUARE = 0.995


class _Propagator(torch.autograd.Function):
    """Diagonal of exp(i pi tau H) of real symmetric matrices (b, n, n), as real and imaginary."""

    @staticmethod
    def forward(ctx, matrix: torch.Tensor, tau: float) -> torch.Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        phases = pi * tau * values
        ctx.save_for_backward(values, vectors)
        ctx.tau = tau
        power = vectors.square()
        return torch.stack(
            [(power @ part[..., None])[..., 0] for part in (phases.cos(), phases.sin())], dim=-1
        )

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        values, vectors = ctx.saved_tensors
        # exp(ia) - exp(ib) = 2i sin((a - b) / 2) exp(i (a + b) / 2)
        half = 0.5 * pi * ctx.tau * values
        slope = pi * ctx.tau * torch.sinc((half[:, :, None] - half[:, None, :]) / pi)
        middle = half[:, :, None] + half[:, None, :]
        total = 0.0
        for part, shape in zip(gradient.unbind(-1), (-middle.sin(), middle.cos()), strict=True):
            inner = vectors.mT @ (part[..., None] * vectors)
            total = total + vectors @ (inner * slope * shape) @ vectors.mT
        return total, None


class BrightField:
    """Bright fields of cubic crystals along [001], with gradients with respect to the potential.

    Parameters
    ----------
    pixels : int
        Rows and columns of the pattern, even.
    half_width : float
        Of the square of directions, in reciprocal lattice vectors; each a whole number of pixels.
    """

    def __init__(self, pixels: int, half_width: float) -> None:
        steps = round(pixels / (2.0 * half_width))
        if pixels % 2 or abs(steps * 2.0 * half_width - pixels) > 1e-9:
            raise ValueError("a reciprocal lattice vector must be a whole number of pixels long")
        self.half, self.steps = pixels // 2, steps
        self.nearest = int(np.ceil(half_width)) + 1
        # Directions of the Brillouin zone that no mirror joins.
        one = torch.unique(
            torch.minimum(torch.arange(steps) + 0.5, steps - torch.arange(steps) - 0.5)
        )
        self.directions = torch.cartesian_prod(one, one) / steps

    def __call__(self, coefficients: torch.Tensor, tau: float) -> torch.Tensor:
        """Return a quadrant of the bright field, from the centre outwards.

        Parameters
        ----------
        coefficients : torch.Tensor, shape (m, m)
            u_h in the order of a Fourier transform; real, as about a centre of inversion.
        tau : float

        Returns
        -------
        torch.Tensor, shape (pixels / 2, pixels / 2)
        """
        image = coefficients.new_zeros(self.half, self.half)
        for beams in self._uncoupled(coefficients):
            amplitudes = _Propagator.apply(self._matrices(coefficients, beams), tau)
            intensity = amplitudes.square().sum(-1)
            place = ((self.directions[:, None] + beams).abs() * self.steps).long()
            seen = (place < self.half).all(-1)
            image = image.index_put(tuple(place[seen].T), intensity[seen])
        return image

    def _uncoupled(self, coefficients: torch.Tensor) -> list[torch.Tensor]:
        """Beams in sets that no coefficient joins: centred cells have two or four."""
        h, k = torch.nonzero(coefficients.abs() > _COUPLED * coefficients.abs().max()).T % 2
        sets = 1 if (h ^ k).any() else 2 if (h | k).any() else 4
        reach = max(self.nearest, round((sets * _BEAMS) ** 0.5 / 2.0))
        side = torch.arange(-reach, reach + 1)
        beams = torch.cartesian_prod(side, side)
        kind = (beams % 2) @ torch.tensor([2, 1]) if sets == 4 else beams.sum(1) % sets
        return [beams[kind == number] for number in range(sets)]

    def _matrices(self, coefficients: torch.Tensor, beams: torch.Tensor) -> torch.Tensor:
        """H of all directions, (directions, n, n)."""
        side = len(coefficients)
        apart = beams[:, None] - beams
        inside = (apart.abs() < side // 2).all(-1)
        apart = apart % side
        coupling = torch.where(inside, coefficients[apart[..., 0], apart[..., 1]], 0.0)
        level = (self.directions[:, None] + beams).square().sum(-1)
        return coupling - torch.diag_embed(level.to(coefficients.dtype))


@dataclass(frozen=True, eq=False)
class Refinement:
    """A refined potential, and how well it explains the pattern.

    Attributes
    ----------
    potential : ndarray of float32, shape (n, n)
        V·Å of one cell.
    pattern : ndarray of float32, shape (pixels, pixels)
        Its exact bright field, the incident intensity being 1.
    likeness_before, likeness : float
        R of the exact bright field with the measured one, of the potential that was given and of
        the refined one.
    """

    potential: npt.NDArray[np.float32]
    pattern: npt.NDArray[np.float32]
    likeness_before: float
    likeness: float


def refine_potential(
    potential: npt.ArrayLike,
    pattern: npt.ArrayLike,
    *,
    a: float,
    thickness: float,
    energy_ev: float = 200e3,
    half_width: float = 8.0,
    steps: int = 30,
    highest: int = 12,
    progress: bool | None = None,
) -> Refinement:
    """Change a potential until its exact [001] bright field is most like a measured one.

    Parameters
    ----------
    potential : array_like, shape (n, n)
        V·Å of one cell, as `PotentialPredictor` reads it from the pattern.
    pattern : array_like, shape (pixels, pixels)
        Of any scale; reaches ``half_width`` a* from the axis.
    a, thickness : float
        Å.
    energy_ev : float
    half_width : float
        In reciprocal lattice vectors, each a whole number of pixels.
    steps : int
        Of the quasi-Newton descent (L-BFGS); 0: only compare.
    highest : int
        Longest (h, k) whose coefficient is changed.
    progress : bool, optional
        None: a bar in a terminal or a notebook.

    Returns
    -------
    Refinement

    Raises
    ------
    ValueError
        If the pictures are not square, not finite, or the pattern has pixels that do not divide
        a reciprocal lattice vector.

    Notes
    -----
    Absorption, higher-order Laue zones and the curvature of the Ewald sphere beyond the parabola
    are left out. A bright field has both mirrors; the potential keeps those, or the glide lines,
    that it has the more of, and a square's diagonals where the pattern has them.
    """
    given, wanted = (torch.as_tensor(np.asarray(x, dtype=np.float64)) for x in (potential, pattern))
    for picture, name in ((given, "potential"), (wanted, "pattern")):
        if picture.ndim != 2 or picture.shape[0] != picture.shape[1]:
            raise ValueError(f"the {name} must be one square picture, not {tuple(picture.shape)}")
        if not bool(torch.isfinite(picture).all()):
            raise ValueError(f"the {name} holds NaN or infinite values")
    engine = BrightField(len(wanted), half_width)
    tau, scale = depth(a, thickness, energy_ev), strength_per_volt(a, energy_ev)
    wanted = quadrant(wanted).float()
    symmetrise = _symmetry(torch.fft.fft2(given, norm="forward").real, wanted)
    start = symmetrise(torch.fft.fft2(scale * given, norm="forward").real).float()
    index = torch.fft.fftfreq(len(given), 1.0 / len(given))
    free = (index[:, None].square() + index.square() <= highest**2) & (start.abs() > 0)
    free[0, 0] = False
    change = torch.zeros_like(start, requires_grad=True)
    unit = start[free].square().mean().sqrt()
    descent = torch.optim.LBFGS([change], lr=1.0, max_iter=1, line_search_fn="strong_wolfe")

    def coefficients() -> torch.Tensor:
        return start + symmetrise(torch.where(free, change, 0.0)) * unit

    def loss() -> torch.Tensor:
        descent.zero_grad()
        missing = 1.0 - pearson(engine(coefficients(), tau), wanted)
        missing.backward()
        return missing

    with torch.no_grad():
        before = float(likeness(engine(start, tau), wanted))
    for _ in progress_bar(range(steps), description="refining", progress=progress):
        descent.step(loss)
    with torch.no_grad():
        found = coefficients()
        image = engine(found, tau)
    refined = torch.fft.ifft2(found.double(), norm="forward").real / scale
    return Refinement(
        refined.numpy().astype(np.float32), unfolded(image).numpy(), before,
        float(likeness(image, wanted)),
    )  # fmt: skip


def _symmetry(
    spectrum: torch.Tensor, pattern: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what gives coefficients (m, m) the symmetry that a potential must have."""
    flipped = -torch.arange(len(spectrum)) % len(spectrum)
    parity = (torch.arange(len(spectrum))[:, None] + torch.arange(len(spectrum))) % 2
    mirrored = spectrum[flipped]
    glide = 1.0 - 2.0 * parity.to(spectrum.dtype)
    kept = [float((spectrum * mirrored * sign).sum()) for sign in (torch.ones(()), glide)]
    sign = torch.ones_like(glide) if kept[0] >= kept[1] else glide
    square = float(pearson(pattern, pattern.T)) > _SQUARE

    def symmetrise(c: torch.Tensor) -> torch.Tensor:
        c = 0.5 * (c + c[flipped][:, flipped])
        c = 0.5 * (c + c[flipped] * sign.to(c.dtype))
        return 0.5 * (c + c.T) if square else c

    return symmetrise
