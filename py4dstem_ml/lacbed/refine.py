"""Refine a projected potential until its pattern is the measured one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..physics.threads import one_thread
from ..progress import progress_bar
from .bragg_lines import quadrant, unfolded
from .bright_field import FINE, BrightField
from .natural import absorbing, depth, strength_per_volt
from .pictures import on_directions, sound_pictures
from .scores import likeness, pearson

#: A pattern that agrees so well with its transpose has a square's diagonals.
_SQUARE = 0.995
#: Patterns computed in a step at most: torch's own limit is one, at which a step too long ends all.
_TRIALS = 25


@dataclass(frozen=True, eq=False)
class Refinement:
    """A refined potential, and how well it explains the pattern.

    Attributes
    ----------
    potential : ndarray of float32, shape (n, n)
        V·Å of one cell.
    pattern : ndarray of float32, shape (pixels, pixels)
        Its bright field (`bright_field`, many beams), the incident intensity being 1.
    likeness_before, likeness : float
        R of the bright field with the measured one, of the potential that was given and of
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
    pixel_size: float | None = None,
    absorption: bool = True,
    absorbed: npt.ArrayLike | None = None,
    steps: int = 30,
    highest: int = 12,
    progress: bool | None = None,
) -> Refinement:
    """Change a potential until its [001] bright field is most like a measured one.

    Parameters
    ----------
    potential : array_like, shape (n, n)
        V·Å of one cell, as `PotentialPredictor` reads it from the pattern.
    pattern : array_like, shape (m, m)
        Of any scale, centred on [001].
    a, thickness : float
        Å.
    energy_ev : float
    half_width : float
        How far the pattern is compared, in reciprocal lattice vectors of a whole number of pixels.
    pixel_size : float, optional
        Of the pattern in 1/Å; it is resampled to as many pixels as the potential has. None: it
        reaches just ``half_width`` a* from the axis.
    absorption : bool
        Whether thermal diffuse scattering has taken from the pattern, as from measured ones.
    absorbed : array_like, shape (n, n), optional
        What absorbs, in V·Å, which is not refined: see `Explanation`. None: guessed from the
        potential.
    steps : int
        Of the quasi-Newton descent (L-BFGS), about a second each; 0: only compare.
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
        If the pictures are not square, not finite or constant, the absorbed part has another shape
        than the potential, the pattern does not reach far enough or its pixels do not divide a
        reciprocal lattice vector; if a, the thickness or the voltage cannot be.

    Notes
    -----
    What absorbs is not refined. Higher-order Laue zones and the curvature of the Ewald sphere
    beyond the parabola are left out. A bright field has both mirrors; the potential keeps those,
    or the glide lines, that it has the more of, and a square's diagonals where the pattern has
    them.
    """
    given = sound_pictures(potential, "potential")
    seen = sound_pictures(pattern, "pattern")
    for picture, name in ((given, "potential"), (seen, "pattern")):
        if picture.ndim != 2:
            raise ValueError(f"one {name} is refined at a time, not a stack {picture.shape}")
    if not all(0.0 < x < np.inf for x in (a, thickness, energy_ev - 1e4)) or steps < 0:
        raise ValueError(
            f"a = {a:g} Å, thickness = {thickness:g} Å and steps = {steps} must be positive, the "
            f"voltage, {energy_ev:g} V, above 10 kV"
        )
    pixels = len(seen) if pixel_size is None else len(given)
    seen = on_directions(
        seen[None], a=a, pixels=pixels, half_width=half_width, pixel_size=pixel_size
    )[0]
    given, whole = torch.from_numpy(given).double(), torch.from_numpy(seen)
    engine = BrightField(pixels, half_width, FINE, len(given))
    tau = torch.tensor([depth(a, thickness, energy_ev)])
    scale = strength_per_volt(a, energy_ev)
    wanted = quadrant(whole)
    spectrum = scale * torch.fft.fft2(given, norm="forward").real
    square = float(pearson(wanted, wanted.T)) > _SQUARE
    symmetrise = _symmetry(spectrum, square)
    start = symmetrise(spectrum).float()
    if absorbed is None:
        imaginary = absorbing(scale * given, a, energy_ev).imag
    else:
        part = torch.from_numpy(sound_pictures(absorbed, "absorbed part")).double()
        if part.shape != given.shape:
            raise ValueError(
                f"the absorbed part has the shape {tuple(part.shape)}, the potential "
                f"{tuple(given.shape)}: both are of one cell, as an explanation has them"
            )
        imaginary = scale * part
    damping = symmetrise(torch.fft.fft2(imaginary, norm="forward").real).float()
    index = torch.fft.fftfreq(len(given), 1.0 / len(given))
    free = (index[:, None].square() + index.square() <= highest**2) & (start.abs() > 0)
    free[0, 0] = False
    change = torch.zeros(start.shape, requires_grad=True)
    unit = start[free].square().mean().sqrt()
    descent = torch.optim.LBFGS(
        [change], lr=1.0, max_iter=1, max_eval=_TRIALS, line_search_fn="strong_wolfe"
    )

    def coefficients() -> torch.Tensor:
        return start + symmetrise(torch.where(free, change, 0.0)) * unit

    def image_of(found: torch.Tensor) -> torch.Tensor:
        return engine(torch.complex(found, damping) if absorption else found, tau, square)[0]

    def loss() -> torch.Tensor:
        descent.zero_grad()
        missing = 1.0 - pearson(image_of(coefficients()), wanted)
        missing.backward()
        return missing

    with torch.no_grad():
        before = float(likeness(unfolded(image_of(start)), whole))
    with one_thread():
        for _ in progress_bar(range(steps), description="refining", progress=progress):
            descent.step(loss)
    with torch.no_grad():
        found = coefficients()
        image = unfolded(image_of(found))
    refined = torch.fft.ifft2(found.double(), norm="forward").real / scale
    return Refinement(
        refined.numpy().astype(np.float32), image.numpy(), before,
        float(likeness(image, whole)),
    )  # fmt: skip


def _symmetry(spectrum: torch.Tensor, square: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what gives coefficients (m, m) the symmetry that a potential must have."""
    flipped = -torch.arange(len(spectrum)) % len(spectrum)
    parity = (torch.arange(len(spectrum))[:, None] + torch.arange(len(spectrum))) % 2
    mirrored = spectrum[flipped]
    glide = 1.0 - 2.0 * parity.to(spectrum.dtype)
    kept = [float((spectrum * mirrored * sign).sum()) for sign in (torch.ones(()), glide)]
    sign = torch.ones_like(glide) if kept[0] >= kept[1] else glide

    def symmetrise(c: torch.Tensor) -> torch.Tensor:
        c = 0.5 * (c + c[flipped][:, flipped])
        c = 0.5 * (c + c[flipped] * sign.to(c.dtype))
        return 0.5 * (c + c.T) if square else c

    return symmetrise
