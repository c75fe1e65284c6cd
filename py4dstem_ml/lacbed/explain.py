"""Which potential explains a bright field best: the network's reading, or a known crystal's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from ..physics.crystal import Crystal
from .atlas import Atlas
from .bragg_lines import unfolded
from .bright_field import BrightField, coefficients_of
from .natural import depth, natural_potential, strength_per_volt
from .scores import likeness

#: Known crystals that are tried.
CANDIDATES = 4


@dataclass(frozen=True, eq=False)
class Explanation:
    """A potential, and how well it explains a bright field.

    Attributes
    ----------
    potential : ndarray of float32, shape (n, n)
        V·Å of one cell, its mean left out. For its pattern, a centre of inversion is imposed on a
        reading that has none.
    pattern : ndarray of float32, shape (pixels, pixels)
        Its bright field with few beams, the incident intensity being 1.
    likeness : float
        R of that and the bright field that was given, see `scores.likeness`.
    crystal : Crystal or None
        The known crystal whose potential it is, in units of its own cell: patterns are alike at
        another lattice constant, too, and so may be those of other elements. None: the network
        read the potential.
    """

    potential: npt.NDArray[np.float32]
    pattern: npt.NDArray[np.float32]
    likeness: float
    crystal: Crystal | None


def best_explained(
    pattern: npt.NDArray[np.float32],
    reading: npt.NDArray[np.float32],
    atlas: Atlas,
    *,
    a: float,
    thickness: float,
    energy_ev: float,
    half_width: float,
    candidates: int = CANDIDATES,
) -> Explanation:
    """Compute the bright fields of a reading and of known crystals, and take the most alike.

    Parameters
    ----------
    pattern : ndarray, shape (pixels, pixels)
        The bright field, of any scale.
    reading : ndarray, shape (n, n)
        A potential in V·Å.
    atlas : Atlas
    a, thickness : float
        Å.
    energy_ev : float
    half_width : float
        Of the pattern, in reciprocal lattice vectors.
    candidates : int
        Known crystals that are tried, those with the most similar bright fields.
    """
    wanted, tau = torch.from_numpy(pattern), depth(a, thickness, energy_ev)
    unit = strength_per_volt(a, energy_ev)
    crystals = [atlas[number] for number in atlas.nearest(wanted, tau, candidates)]
    potentials = [
        torch.from_numpy(reading) * unit,
        # As patterns know them: of their own lattice constants.
        *(natural_potential(crystal, len(reading), energy_ev).float() for crystal in crystals),
    ]
    engine = _engine(len(pattern), half_width, len(reading))
    with torch.no_grad():
        images = [engine(coefficients_of(u), torch.tensor([tau])) for u in potentials]
    images = unfolded(torch.cat(images))
    likenesses = likeness(images, wanted)
    best = int(likenesses.argmax())
    return Explanation(
        (potentials[best] / unit).numpy(), images[best].numpy(), float(likenesses[best]),
        [None, *crystals][best],
    )  # fmt: skip


@cache
def _engine(pixels: int, half_width: float, cell_pixels: int) -> BrightField:
    return BrightField(pixels, half_width, cell_pixels=cell_pixels)
