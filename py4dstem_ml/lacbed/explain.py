"""Which potential explains a bright field best: the network's reading, or a known crystal's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt
import torch

from ..physics.crystal import Crystal
from ..physics.electrons import lorentz_factor, wavelength
from .atlas import Atlas
from .bragg_lines import unfolded
from .bright_field import BrightField, coefficients_of, computing_device
from .natural import absorbing, depth, natural_potential, optical_potential, strength_per_volt
from .scores import likeness

#: Known crystals that are tried.
CANDIDATES = 8
#: Of them and the reading the best are tried weaker and stronger, too: a crystal of like structure
#: has other elements.
_BEST, _STRENGTHS = 2, (0.9, 1.1)

#: At another voltage than the atlas's, potentials are stronger or weaker, which acts much as
#: another depth, by this power of the ratio: at 300 kV 11 of 16 crystals are then among the
#: candidates, without it 2; at 100 kV 8 and 1.
_DEEPER = 0.75
_CPU = torch.device("cpu")


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
        The known crystal whose potential it is, in units of its own cell and up to a factor of a
        tenth: patterns are alike at another lattice constant, too, and so may be those of other
        elements. None: the network read the potential.
    absorbed : ndarray of float32, shape (n, n), or None
        V·Å: the imaginary part of the potential, by which thermal diffuse scattering takes away;
        None without absorption. That of a reading is a guess.
    """

    potential: npt.NDArray[np.float32]
    pattern: npt.NDArray[np.float32]
    likeness: float
    crystal: Crystal | None
    absorbed: npt.NDArray[np.float32] | None


def best_explained(
    pattern: npt.NDArray[np.float32],
    reading: npt.NDArray[np.float32],
    atlas: Atlas,
    *,
    a: float,
    thickness: float,
    energy_ev: float,
    half_width: float,
    absorption: bool = True,
    candidates: int = CANDIDATES,
    device: torch.device = _CPU,
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
    absorption : bool
        Whether thermal diffuse scattering has taken from it, as from measured ones.
    candidates : int
        Known crystals that are tried, those with the most similar bright fields.
    device : torch.device
        Where bright fields are computed.
    """
    wanted, tau = torch.from_numpy(pattern), depth(a, thickness, energy_ev)
    unit = strength_per_volt(a, energy_ev)
    made_at = atlas.metadata["energy_ev"]
    stronger = lorentz_factor(energy_ev) / lorentz_factor(made_at)
    # u' goes as the wavelength and the square of the Lorentz factor.
    absorbed = tau * stronger**2 * wavelength(energy_ev) / wavelength(made_at)
    alike = atlas.nearest(
        wanted, tau * stronger**_DEEPER, candidates, absorbed if absorption else 0.0
    )
    read = torch.from_numpy(reading) * unit
    potential_of = optical_potential if absorption else natural_potential
    # Known crystals as patterns know them: of their own lattice constants.
    tried = [
        (absorbing(read, a, energy_ev) if absorption else read, None),
        *((potential_of(one, len(read), energy_ev), one) for one in map(atlas.__getitem__, alike)),
    ]
    engine = _engine(len(pattern), half_width, len(reading))

    def judged(potentials: list[torch.Tensor]) -> tuple[torch.Tensor, list[float]]:
        """Bright fields of potentials, and the R of each."""
        u = torch.stack(potentials).to(computing_device(device))
        with torch.no_grad():
            images = unfolded(engine(coefficients_of(u), torch.full((len(u), 1), tau))[:, 0]).cpu()
        return images, likeness(images, wanted).tolist()

    potentials = [u for u, _ in tried]
    images, scores = judged(potentials)
    leading = sorted(range(len(tried)), key=lambda i: scores[i], reverse=True)[:_BEST]
    tried += [(tried[i][0] * strength, tried[i][1]) for i, strength in product(leading, _STRENGTHS)]
    more, scores_more = judged([u for u, _ in tried[len(potentials) :]])
    images, scores = torch.cat([images, more]), scores + scores_more
    best = max(range(len(tried)), key=lambda i: scores[i])
    u, crystal = tried[best]
    return Explanation(
        (u.real / unit).float().numpy(), images[best].clone().numpy(), scores[best], crystal,
        (u.imag / unit).float().numpy() if absorption else None,
    )  # fmt: skip


@cache
def _engine(pixels: int, half_width: float, cell_pixels: int) -> BrightField:
    return BrightField(pixels, half_width, cell_pixels=cell_pixels)
