"""Single scattering: every atom sees the incident wave alone, damped on its way in and out.

No substitute for multiple scattering at these energies. It tells how a model that was trained on
multiple scattering fares where the physics is another one (compare Ruben et al. 2009).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi

import numpy as np
import numpy.typing as npt
import torch

from .layer import Layer
from .stack import Surface, smallest_spacing
from .waves import Floats, Ints, Settings, Waves, reciprocal, select_beams


def kinematic_amplitudes(
    surfaces: Surface | Sequence[Surface],
    energy_ev: float,
    k: npt.ArrayLike,
    settings: Settings | None = None,
    beams: Ints | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Ints, torch.Tensor]:
    """Return the amplitudes of all reflected beams by single scattering.

    Parameters and result are those of `stack.amplitudes`.

    Raises
    ------
    ValueError
        If no surface is given, or the specular beam is not the first.
    """
    settings = settings or Settings()
    stacks = [surfaces] if isinstance(surfaces, Surface) else list(surfaces)
    if not stacks:
        raise ValueError("give one surface at least")
    incident = np.asarray(k, dtype=float).reshape(-1, 2)
    lattice = stacks[0].lattice
    if beams is None:
        spacing = min(map(smallest_spacing, stacks))
        beams = select_beams(lattice, energy_ev, spacing, settings, incident.mean(0))
    if np.any(beams[0]):
        raise ValueError("the first of the beams is the specular one, (0, 0)")
    parallel = torch.from_numpy(incident[:, None] + beams @ reciprocal(lattice)).to(device)
    waves = Waves(energy_ev, parallel, settings)
    return beams, torch.stack([_reflect(one, waves, beams) for one in stacks])


def _reflect(surface: Surface, waves: Waves, beams: Ints) -> torch.Tensor:
    edge = np.array([0, 0, surface.top + waves.settings.onset])
    whole = sum(_scattered(layer, waves, edge) for layer in surface.layers)
    # The bulk repeats: a geometric series in what one period adds to path and damping.
    bulk = surface.bulk
    share = beams @ reciprocal(surface.lattice) @ np.linalg.inv(reciprocal(bulk.lattice))
    own = np.flatnonzero((np.abs(share - np.rint(share)) < 1e-4).all(axis=1))
    few = waves.subset(own)
    up, down = few.phases(-bulk.repeat)
    period = sum(_scattered(layer, few, edge) for layer in bulk.layers)
    whole[:, torch.from_numpy(own).to(whole.device)] += period / (1 - up * down[:, :1])
    return whole


def _scattered(layer: Layer, waves: Waves, edge: Floats) -> torch.Tensor:
    """What a layer's atoms send up, shape (k, g), the waves referring to a point above."""
    flux = (8 * pi**2 / (layer.area * waves.kappa)) / waves.normal
    falling = waves.harmonics(False, True)[:, :1]
    rising = waves.harmonics(True, False)
    total = torch.zeros_like(flux)
    for place, kind in zip(layer.positions, layer.scatterers, strict=True):
        up, down = waves.phases(edge - place)
        amplitude = (rising * (waves.t_matrix(kind) * falling)).sum(-1)
        total = total + up * down[:, :1] * amplitude
    return flux * total
