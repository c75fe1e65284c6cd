"""Layers upon layers: a surface over its bulk, joined by plane waves.

The bulk's reflection comes by layer doubling (Pendry 1974, chapter IV). The topmost layer is
not turned into plane waves at all: what the solid below reflects reaches its atoms as one more
term of their coupling, so that one set of linear equations gives the reflected beams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from .layer import Layer, PartialWaves, PlaneWaveScattering, identity_like, scatter
from .phase_shifts import HBAR2_OVER_2M
from .waves import Floats, Ints, Settings, Waves, reciprocal, select_beams

#: Directions carried together: their matrices take 1 MB each.
_BLOCK = 96
#: Doublings after which the bulk is taken as too transparent.
_DOUBLINGS = 16
#: Relative change of the reflection that ends the doubling; the next change would be its square.
_CONVERGED = 1e-5


@dataclass(frozen=True, eq=False, init=False)
class Bulk:
    """A half space: layers, the topmost first, repeated for ever.

    Parameters
    ----------
    layers : sequence of Layer
        One period, all of one lattice.
    repeat : array_like, shape (3,)
        From a period to the next one below, Å; z negative.

    Raises
    ------
    ValueError
        If layers do not lie below each other, or differ in their lattice.
    """

    layers: tuple[Layer, ...]
    repeat: Floats

    def __init__(self, layers: Sequence[Layer], repeat: npt.ArrayLike) -> None:
        step = np.array(repeat, dtype=float)
        if step.shape != (3,) or not step[2] < 0:
            raise ValueError("a bulk's repeat is x, y, z in Å with z below 0, into the solid")
        _check_order([*layers, layers[0].moved(step)] if layers else [])
        object.__setattr__(self, "layers", tuple(layers))
        object.__setattr__(self, "repeat", step)

    @property
    def lattice(self) -> Floats:
        """Rows a1, a2 in Å."""
        return self.layers[0].lattice


@dataclass(frozen=True, eq=False, init=False)
class Surface:
    """A surface: layers with a lattice of their own over a bulk.

    Parameters
    ----------
    layers : sequence of Layer
        The topmost first, all of one lattice, whose vectors are sums of the bulk's.
    bulk : Bulk

    Raises
    ------
    ValueError
        If layers do not lie below each other, differ in their lattice, or this lattice is no
        superlattice of the bulk's.
    """

    layers: tuple[Layer, ...]
    bulk: Bulk

    def __init__(self, layers: Sequence[Layer], bulk: Bulk) -> None:
        _check_order(layers)
        lower, upper = layers[-1].positions[:, 2].min(), bulk.layers[0].positions[:, 2].max()
        if lower <= upper:
            raise ValueError("the bulk's topmost layer must lie below those of the surface")
        matrix = layers[0].lattice @ np.linalg.inv(bulk.lattice)
        if np.abs(matrix - np.rint(matrix)).max() > 1e-4:
            raise ValueError(
                "the surface's lattice vectors must be whole-number sums of the bulk's; they are "
                f"{matrix.round(4).tolist()} of them"
            )
        object.__setattr__(self, "layers", tuple(layers))
        object.__setattr__(self, "bulk", bulk)

    @property
    def lattice(self) -> Floats:
        """Rows a1, a2 in Å."""
        return self.layers[0].lattice

    @property
    def top(self) -> float:
        """Height of the topmost atom in Å."""
        return float(max(layer.positions[:, 2].max() for layer in self.layers))


def _check_order(layers: Sequence[Layer]) -> None:
    if not layers:
        raise ValueError("give one layer at least")
    for upper, lower in zip(layers, layers[1:], strict=False):
        if np.abs(upper.lattice - lower.lattice).max() > 1e-6:
            raise ValueError("layers of one stack share one lattice; these differ")
        if upper.positions[:, 2].min() <= lower.positions[:, 2].max():
            raise ValueError("layers come from the top down and must not overlap in height")


def smallest_spacing(surface: Surface) -> float:
    """Return the smallest distance in Å of neighbouring layers in height."""
    bulk = surface.bulk
    layers = [*surface.layers, *bulk.layers, bulk.layers[0].moved(bulk.repeat)]
    heights = [(layer.positions[:, 2].min(), layer.positions[:, 2].max()) for layer in layers]
    return float(min(a[0] - b[1] for a, b in zip(heights, heights[1:], strict=False)))


def join(
    upper: PlaneWaveScattering, lower: PlaneWaveScattering, waves: Waves, step: Floats
) -> PlaneWaveScattering:
    """Return one stack over another; ``step`` leads from the lower one's top to the upper's bottom.

    The waves between them are summed to all orders (Pendry 1974, chapter IV).
    """
    up, down = waves.phases(step)
    below = up[:, :, None] * lower.reflect_up * down[:, None, :]
    above = upper.reflect_down
    one = identity_like(below)
    falling = torch.linalg.solve(one - above @ below, upper.transmit_down)
    rising = torch.linalg.solve(one - below @ above, up[:, :, None] * lower.transmit_up)
    through = lower.transmit_down * down[:, None, :]
    return PlaneWaveScattering(
        through @ falling,
        upper.reflect_up + upper.transmit_up @ below @ falling,
        upper.transmit_up @ rising,
        lower.reflect_down + through @ above @ rising,
        upper.top,
        lower.bottom,
    )


def bulk_reflection(bulk: Bulk, waves: Waves) -> torch.Tensor:
    """Return what a half space reflects, shape (k, g', g), about its topmost layer's origin.

    Parameters
    ----------
    bulk : Bulk
    waves : Waves
        Beams of the bulk's own lattice.

    Raises
    ------
    ValueError
        If the waves do not die out within the solid.
    """
    period = _one_over_another([scatter(one, waves) for one in bulk.layers], waves)
    step = period.bottom - (period.top + bulk.repeat)
    reflected = period.reflect_up
    for _ in range(_DOUBLINGS):
        period = join(period, period, waves, step)
        change = (period.reflect_up - reflected).abs().max()
        reflected = period.reflect_up
        if change <= _CONVERGED * reflected.abs().max():
            return reflected
    raise ValueError("the bulk does not absorb its waves: give a larger absorption_ev")


def _one_over_another(stacks: list[PlaneWaveScattering], waves: Waves) -> PlaneWaveScattering:
    whole = stacks[0]
    for lower in stacks[1:]:
        whole = join(whole, lower, waves, whole.bottom - lower.top)
    return whole


def _substrate(surface: Surface, waves: Waves, beams: Ints) -> torch.Tensor:
    """What all below the topmost layer reflects, about the highest origin there."""
    if len(surface.layers) == 1:
        key: tuple[object, ...] = ("bulk", surface.bulk)
        return waves.once(key, lambda: _superlattice_reflection(surface, waves, beams))
    below = Surface(surface.layers[1:], surface.bulk)
    key = ("below", surface.layers[1:], surface.bulk)
    return waves.once(key, lambda: _add_layer(below, waves, beams))


def _add_layer(surface: Surface, waves: Waves, beams: Ints) -> torch.Tensor:
    """What a surface reflects as a whole, about its topmost layer's origin."""
    plane = scatter(surface.layers[0], waves)
    up, down = waves.phases(_step(surface))
    below = up[:, :, None] * _substrate(surface, waves, beams) * down[:, None, :]
    single = identity_like(below) - plane.reflect_down @ below
    falling = torch.linalg.solve(single, plane.transmit_down)
    return plane.reflect_up + plane.transmit_up @ below @ falling


def _step(surface: Surface) -> Floats:
    """From the origin of what lies below the topmost layer to that layer's, Å."""
    upper, lower, *_ = *surface.layers, *surface.bulk.layers
    return upper.origin - lower.origin


def _superlattice_reflection(surface: Surface, waves: Waves, beams: Ints) -> torch.Tensor:
    """The bulk's reflection among the beams of a superlattice: only beams of one set mix."""
    share = beams @ reciprocal(surface.lattice) @ np.linalg.inv(reciprocal(surface.bulk.lattice))
    kinds = np.round((share + 1e-6) % 1.0, 4)
    sets = np.unique(kinds, axis=0, return_inverse=True)[1].reshape(-1)
    whole = torch.zeros(
        (len(waves), len(beams), len(beams)), dtype=waves.normal.dtype, device=waves.normal.device
    )
    for one in range(sets.max() + 1):
        index = np.flatnonzero(sets == one)
        block = torch.from_numpy(index).to(whole.device)
        whole[:, block[:, None], block] = bulk_reflection(surface.bulk, waves.subset(index))
    return whole


def reflected_waves(layer: Layer, below: torch.Tensor, waves: Waves, step: Floats) -> torch.Tensor:
    """Return the outgoing waves of a layer over a substrate, shape (k, g), about its origin.

    Parameters
    ----------
    layer : Layer
    below : torch.Tensor, shape (k, g', g)
        What the substrate reflects.
    waves : Waves
        The first of them is incident, with amplitude 1.
    step : ndarray, shape (3,)
        From the point that ``below`` refers to to the layer's origin, Å.
    """
    parts = PartialWaves.of(layer, waves)
    up, down = waves.phases(step)
    below = up[:, :, None] * below * down[:, None, :]
    returned = below @ parts.to_down
    one = identity_like(parts.coupling)
    matrix = one - parts.coupling - parts.from_up @ returned
    first = below[:, :, :1]
    reached = torch.linalg.solve(matrix, parts.from_down[:, :, :1] + parts.from_up @ first)
    return (first + (returned + parts.to_up) @ reached).squeeze(-1)


def amplitudes(
    surfaces: Surface | Sequence[Surface],
    energy_ev: float,
    k: npt.ArrayLike,
    settings: Settings | None = None,
    beams: Ints | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Ints, torch.Tensor]:
    """Return the amplitudes of all reflected beams, many directions and surfaces at once.

    What surfaces share is computed once: the bulk where it is the same object, and every pair
    of atoms at the same distance.

    Parameters
    ----------
    surfaces : Surface or sequence of Surface
        Of one lattice.
    energy_ev : float
        In the vacuum.
    k : array_like, shape (n, 2)
        Parallel wave vectors of incidence in rad/Å, `incidence` makes them of angles.
    settings : Settings, optional
    beams : ndarray of int, shape (g, 2), optional
        (h, k) of the plane waves, the specular one first; default `select_beams` about the mean
        direction.
    device : torch.device or str

    Returns
    -------
    beams : ndarray of int, shape (g, 2)
    amplitudes : torch.Tensor, shape (surfaces, n, g)
        Of the waves in the vacuum at x = y = 0 and ``settings.onset`` above the topmost atom,
        where the potential begins; the incident one has amplitude 1. The step does not reflect.

    Raises
    ------
    ValueError
        If surfaces differ in their lattice, the incident wave does not run in the vacuum, the
        specular beam is not the first, or settings or phase shifts do not reach.
    """
    settings = settings or Settings()
    stacks = [surfaces] if isinstance(surfaces, Surface) else list(surfaces)
    if not stacks or any(np.abs(s.lattice - stacks[0].lattice).max() > 1e-6 for s in stacks):
        raise ValueError("give one surface at least, and only surfaces of one lattice")
    incident = np.asarray(k, dtype=float).reshape(-1, 2)
    if not (incident**2).sum(1).max() < energy_ev / HBAR2_OVER_2M:
        raise ValueError("the incident wave must run in the vacuum: |k| < 0.5123 sqrt(energy_ev)")
    lattice = stacks[0].lattice
    if beams is None:
        spacing = min(map(smallest_spacing, stacks))
        beams = select_beams(lattice, energy_ev, spacing, settings, incident.mean(0))
    if np.any(beams[0]):
        raise ValueError("the first of the beams is the specular one, (0, 0)")
    parallel = torch.from_numpy(incident[:, None] + beams @ reciprocal(lattice)).to(device)
    blocks = [Waves(energy_ev, part, settings) for part in parallel.split(_BLOCK)]
    found = [[_reflect(one, waves, beams) for one in stacks] for waves in blocks]
    return beams, torch.cat([torch.stack(block) for block in found], dim=1)


def _reflect(surface: Surface, waves: Waves, beams: Ints) -> torch.Tensor:
    layer = surface.layers[0]
    reflected = reflected_waves(layer, _substrate(surface, waves, beams), waves, _step(surface))
    edge = np.array([0, 0, surface.top + waves.settings.onset])
    up, down = waves.phases(edge - layer.origin)
    return up * reflected * down[:, :1]
