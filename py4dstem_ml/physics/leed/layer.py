"""One layer of atoms: multiple scattering within it, and how it scatters plane waves.

A layer may hold several atoms in its unit cell, at different heights: those too close for plane
waves between them belong to one composite layer (Pendry 1974, chapter IV; Van Hove, Weinberg &
Chan, Low-Energy Electron Diffraction, 1986, chapter 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi

import numpy as np
import numpy.typing as npt
import torch

from .phase_shifts import Scatterer
from .waves import Floats, Waves, lattice_points

#: Å.
_CLOSEST = 0.5


@dataclass(frozen=True, eq=False, init=False)
class Layer:
    """Atoms of a plane, or of planes too close to be coupled by plane waves.

    Parameters
    ----------
    lattice : array_like, shape (2, 2)
        Rows a1, a2 in Å.
    positions : array_like, shape (n, 3)
        Å, z towards the vacuum.
    scatterers : Scatterer or sequence of Scatterer
        One for all atoms, or one for each.

    Raises
    ------
    ValueError
        If shapes disagree, or two atoms are closer than 0.5 Å.
    """

    lattice: Floats
    positions: Floats
    scatterers: tuple[Scatterer, ...]

    def __init__(
        self,
        lattice: npt.ArrayLike,
        positions: npt.ArrayLike,
        scatterers: Scatterer | Sequence[Scatterer],
    ) -> None:
        cell, places = np.array(lattice, dtype=float), np.array(positions, dtype=float)
        if cell.shape != (2, 2) or abs(np.linalg.det(cell)) < 1e-3:
            raise ValueError("a layer's lattice is two rows a1, a2 in Å that are not parallel")
        if places.ndim != 2 or places.shape[1:] != (3,) or not len(places):
            raise ValueError("a layer's positions are rows x, y, z in Å, one at least")
        kinds = (scatterers,) * len(places) if isinstance(scatterers, Scatterer) else scatterers
        if len(kinds) != len(places):
            raise ValueError(f"{len(places)} positions need as many scatterers; not {len(kinds)}")
        if _closest(cell, places) < _CLOSEST:
            raise ValueError(f"two atoms of a layer are closer than {_CLOSEST} Å: give each once")
        object.__setattr__(self, "lattice", cell)
        object.__setattr__(self, "positions", places)
        object.__setattr__(self, "scatterers", tuple(kinds))

    @property
    def area(self) -> float:
        """Area of the unit cell in Å^2."""
        return float(abs(np.linalg.det(self.lattice)))

    @property
    def origin(self) -> Floats:
        """The point that amplitudes refer to: the first atom."""
        return self.positions[0]

    def moved(self, by: npt.ArrayLike) -> Layer:
        """Return the layer at another place."""
        return Layer(self.lattice, self.positions + np.asarray(by, dtype=float), self.scatterers)


def _closest(lattice: Floats, places: Floats) -> float:
    """The smallest distance of two atoms, if it is below `_CLOSEST`."""
    found = [np.inf]
    for i, one in enumerate(places):
        for other in places[:i]:
            d = one - other
            cells = lattice_points(lattice, -d[:2], _CLOSEST) @ lattice
            found.extend(np.hypot(np.linalg.norm(cells + d[:2], axis=1), d[2]))
    return float(min(found))


@dataclass(frozen=True, eq=False)
class PlaneWaveScattering:
    """How a layer, or a stack, turns plane waves into plane waves; each of shape (k, g', g).

    Ingoing waves are those that run down, into the solid. Amplitudes above refer to the point
    ``top``, those below to ``bottom``.
    """

    transmit_down: torch.Tensor
    reflect_up: torch.Tensor
    transmit_up: torch.Tensor
    reflect_down: torch.Tensor
    top: Floats
    bottom: Floats


@dataclass(frozen=True, eq=False)
class PartialWaves:
    """A layer in partial waves; rows and columns are atoms times L.

    Attributes
    ----------
    coupling : torch.Tensor, shape (k, L, L)
        G i t: what the waves that reach the atoms bring to the others. The waves A that reach
        the atoms obey A = A_0 + G i t A.
    from_down, from_up : torch.Tensor, shape (k, L, g)
        A_0 of plane waves that run down, and up.
    to_down, to_up : torch.Tensor, shape (k, g, L)
        Plane waves that leave, of waves A that reach the atoms.
    """

    coupling: torch.Tensor
    from_down: torch.Tensor
    from_up: torch.Tensor
    to_down: torch.Tensor
    to_up: torch.Tensor

    @classmethod
    def of(cls, layer: Layer, waves: Waves) -> PartialWaves:
        """Expand a layer at the waves' energy and directions."""
        offsets = layer.positions - layer.origin
        t = torch.cat([waves.t_matrix(one) for one in layer.scatterers])
        rows = [
            torch.cat([waves.structure_constants(layer.lattice, i - j) for j in offsets], dim=-1)
            for i in offsets
        ]
        single = len(offsets) == 1 and waves.settings.real_prefactor
        kappa = waves.kappa.real if single else waves.kappa
        flux = (2 * pi / (layer.area * kappa)) / waves.normal
        phases = [waves.phases(one) for one in offsets]
        up, down = (torch.stack(one, dim=1) for one in zip(*phases, strict=True))
        return cls(
            torch.cat(rows, dim=1) * t,
            4 * pi * _arriving(1 / down, waves.harmonics(False, True)),
            4 * pi * _arriving(up, waves.harmonics(True, True)),
            _leaving(down * flux[:, None], waves.harmonics(False, False)) * t,
            _leaving(flux[:, None] / up, waves.harmonics(True, False)) * t,
        )


def _arriving(phase: torch.Tensor, harmonics: torch.Tensor) -> torch.Tensor:
    """(k, atoms, g) and (k, g, L) -> (k, atoms L, g)."""
    return (phase[:, :, None, :] * harmonics.mT[:, None]).flatten(1, 2)


def _leaving(phase: torch.Tensor, harmonics: torch.Tensor) -> torch.Tensor:
    """(k, atoms, g) and (k, g, L) -> (k, g, atoms L)."""
    return (phase.mT[..., None] * harmonics[:, :, None]).flatten(2)


def identity_like(matrix: torch.Tensor) -> torch.Tensor:
    """Return the identity of the size, type and device of square matrices (..., n, n)."""
    return torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


def scatter(layer: Layer, waves: Waves) -> PlaneWaveScattering:
    """Return a layer's reflection and transmission, multiple scattering within it included.

    Examples
    --------
    >>> from py4dstem_ml.physics.leed.phase_shifts import PhaseShifts, Scatterer
    >>> from py4dstem_ml.physics.leed.waves import Settings
    >>> atom = Scatterer(PhaseShifts([10.0, 100.0], [[0.5, 0.1], [0.6, 0.3]]))
    >>> layer = Layer([[2.9, 0], [0, 2.9]], [[0, 0, 0]], atom)
    >>> waves = Waves(50.0, torch.zeros(1, 1, 2, dtype=torch.float64), Settings(lmax=1))
    >>> bool(scatter(layer, waves).transmit_down.abs() < 1)
    True
    """
    parts = PartialWaves.of(layer, waves)
    arriving = torch.cat([parts.from_down, parts.from_up], dim=-1)
    reached = torch.linalg.solve(identity_like(parts.coupling) - parts.coupling, arriving)
    of_down, of_up = reached.chunk(2, dim=-1)
    down, up = parts.to_down @ of_down, parts.to_up @ of_up
    return PlaneWaveScattering(
        identity_like(down) + down,
        parts.to_up @ of_down,
        identity_like(up) + up,
        parts.to_down @ of_up,
        layer.origin,
        layer.origin,
    )
