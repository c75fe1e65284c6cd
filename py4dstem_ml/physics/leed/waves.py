"""Plane waves within the solid: the beams of one energy, incident along many directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .angular import degrees, gaunt, spherical_hankel, spherical_harmonics
from .phase_shifts import HBAR2_OVER_2M, Scatterer

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


#: Tensors that waves keep for the next surface.
_KEPT = 64


@dataclass(frozen=True)
class Settings:
    """What a calculation needs to know beside the atoms and their places.

    Attributes
    ----------
    inner_potential_ev : float
        Depth V_0r of the muffin-tin zero below the vacuum.
    absorption_ev : float
        V_0i: inelastic scattering as an imaginary part of the potential, above 0.
    lmax : int
        Highest angular momentum that scatters. For silicon 6 is within 0.5 % at 60 eV and
        within 2 % at 95 eV, where 7 is within 0.5 %.
    beam_cutoff : float
        Plane waves that decay below this from a layer to the next are left out. 1e-3 is within
        1.5 % for Si(001) with dimers, 3e-4 within 0.5 %, in a third more time.
    lattice_cutoff : float
        Lattice sums end where absorption has damped the waves to this.
    onset : float
        Å above the topmost atom at which potential and absorption begin.
    real_prefactor : bool
        Divide a layer of one atom by the real part of the wave number, as CLEED does, in place
        of the wave number: only to compare with CLEED. Intensities change by about 1 %.

    Raises
    ------
    ValueError
        If a cut-off is not between 0 and 1, or ``lmax``, ``absorption_ev`` or ``onset`` is
        negative.
    """

    inner_potential_ev: float = 10.0
    absorption_ev: float = 4.0
    lmax: int = 6
    beam_cutoff: float = 3e-4
    lattice_cutoff: float = 1e-3
    onset: float = 1.25
    real_prefactor: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.beam_cutoff < 1 and 0 < self.lattice_cutoff < 1):
            raise ValueError("cut-offs are shares of an amplitude, between 0 and 1")
        if not min(self.lmax, self.absorption_ev, self.onset) >= 0:
            raise ValueError("lmax, absorption_ev and onset are not negative")

    def wave_number(self, energy_ev: float) -> complex:
        """Return kappa within the solid in rad/Å, at an energy above the vacuum."""
        inside = complex(energy_ev + self.inner_potential_ev, self.absorption_ev)
        return complex(np.sqrt(inside / HBAR2_OVER_2M))


def reciprocal(lattice: npt.ArrayLike) -> Floats:
    """Return rows b1, b2 in rad/Å for rows a1, a2 in Å, a_i . b_j = 2 pi delta_ij."""
    return 2 * pi * np.linalg.inv(np.asarray(lattice, dtype=float)).T


def incidence(energy_ev: float, theta_deg: float, phi_deg: float) -> Floats:
    """Return the parallel wave vector (2,) in rad/Å of a direction of incidence.

    ``theta_deg`` is measured from the normal, ``phi_deg`` from x to y.
    """
    length = np.sqrt(energy_ev / HBAR2_OVER_2M) * np.sin(np.radians(theta_deg))
    return length * np.array([np.cos(np.radians(phi_deg)), np.sin(np.radians(phi_deg))])


def flux_ratio(lattice: npt.ArrayLike, energy_ev: float, k: npt.ArrayLike, beams: Ints) -> Floats:
    """Return Re k_gz / k_0z in the vacuum, which turns |amplitude|^2 into intensity.

    Parameters
    ----------
    lattice : array_like, shape (2, 2)
    energy_ev : float
    k : array_like, shape (..., 2)
        Parallel wave vectors of incidence in rad/Å.
    beams : ndarray of int, shape (g, 2)

    Returns
    -------
    ndarray, shape (..., g)
        0 for beams that do not leave the solid.
    """
    incident = np.asarray(k, dtype=float)
    leaving = incident[..., None, :] + beams @ reciprocal(lattice)
    total = energy_ev / HBAR2_OVER_2M
    normal = np.sqrt(np.clip(total - (leaving**2).sum(-1), 0, None))
    return normal / np.sqrt(total - (incident**2).sum(-1))[..., None]


def lattice_points(lattice: Floats, centre: Floats, radius: float) -> Ints:
    """Return whole numbers (n, 2) of the lattice's points P with |P - centre| <= radius."""
    inverse = np.linalg.inv(lattice)
    middle = centre @ inverse
    reach = radius * np.linalg.norm(inverse, axis=0) + 1
    low, high = np.floor(middle - reach).astype(int), np.ceil(middle + reach).astype(int)
    axes = [np.arange(a, b + 1) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return points[np.linalg.norm(points @ lattice - centre, axis=1) <= radius]


def select_beams(
    lattice: npt.ArrayLike,
    energy_ev: float,
    spacing: float,
    settings: Settings,
    centre: npt.ArrayLike = (0.0, 0.0),
) -> Ints:
    """Return the beams (h, k) that do not die out between layers ``spacing`` Å apart.

    Parameters
    ----------
    lattice : array_like, shape (2, 2)
        Rows a1, a2 of the surface's unit cell in Å.
    energy_ev : float
    spacing : float
        Smallest distance in Å of layers coupled by plane waves.
    settings : Settings
    centre : array_like, shape (2,)
        Parallel wave vector in rad/Å of the middle of the directions of incidence.

    Returns
    -------
    ndarray of int, shape (n, 2)
        The specular beam first, then by their parallel wave vector.
    """
    b = reciprocal(lattice)
    middle = np.asarray(centre, dtype=float)
    inside = (energy_ev + settings.inner_potential_ev) / HBAR2_OVER_2M
    radius = float(np.sqrt(inside + (log(settings.beam_cutoff) / spacing) ** 2))
    hk = lattice_points(b, -middle, radius)
    length = np.linalg.norm(hk @ b + middle, axis=1)
    order = np.lexsort((*hk.T, np.round(length, 6), hk.any(axis=1)))
    return hk[order]


class Waves:
    """Beams of one energy along many directions of incidence, and what they share.

    Parameters
    ----------
    energy_ev : float
    parallel : torch.Tensor, shape (k, g, 2)
        Parallel wave vectors in rad/Å; those of one row differ by reciprocal lattice vectors.
    settings : Settings

    Attributes
    ----------
    kappa : complex
        Wave number within the solid, rad/Å.
    normal : torch.Tensor, shape (k, g)
        K_z of the waves that run outwards, its imaginary part above 0.
    """

    def __init__(self, energy_ev: float, parallel: torch.Tensor, settings: Settings) -> None:
        self.energy_ev, self.parallel, self.settings = energy_ev, parallel, settings
        self.kappa = settings.wave_number(energy_ev)
        squared = self.kappa**2 - parallel.square().sum(-1)
        root = torch.sqrt(squared)
        self.normal = torch.where(root.imag < 0, -root, root)
        self._made: dict[Any, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.parallel)

    def subset(self, beams: Ints) -> Waves:
        """Return the waves of some of the beams."""
        return Waves(self.energy_ev, self.parallel[:, beams], self.settings)

    def once(self, key: Any, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return what was made under this key, or make it; what was not asked for long is lost."""
        self._made[key] = self._made.pop(key) if key in self._made else make()
        if len(self._made) > _KEPT:
            del self._made[next(iter(self._made))]
        return self._made[key]

    def phases(self, step: npt.ArrayLike) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the factors (k, g) that carry waves by ``step`` up, and by minus ``step`` down.

        Up: exp(i K+ . step) of outgoing waves; down: exp(-i K- . step) of ingoing ones.
        """
        x, y, z = (float(one) for one in np.asarray(step))
        along = 1j * (self.parallel[..., 0] * x + self.parallel[..., 1] * y)
        across = 1j * self.normal * z
        return torch.exp(across + along), torch.exp(across - along)

    def harmonics(self, outwards: bool, conjugate: bool) -> torch.Tensor:
        """Return Y_L(K), or Y*_L(K) continued analytically, shape (k, g, L)."""

        def make() -> torch.Tensor:
            kx, ky = self.parallel.unbind(-1)
            length = torch.hypot(kx, ky)
            turn = torch.where(length > 0, torch.complex(kx, ky) / length.clamp(min=1e-300), 1.0)
            return spherical_harmonics(
                self.normal / (self.kappa if outwards else -self.kappa),
                length / self.kappa,
                turn.conj() if conjugate else turn,
                self.settings.lmax,
            )

        return self.once(("Y", outwards, conjugate), make)

    def t_matrix(self, scatterer: Scatterer) -> torch.Tensor:
        """Return i t_l of an atom for each L, thermal motion included."""

        def make() -> torch.Tensor:
            inside = self.energy_ev + self.settings.inner_potential_ev
            t = 1j * scatterer.t_matrix(inside, self.settings.lmax)
            spread = torch.from_numpy(t[degrees(self.settings.lmax)])
            return spread.to(self.normal.device)

        return self.once(scatterer, make)

    def structure_constants(self, lattice: Floats, between: npt.ArrayLike) -> torch.Tensor:
        """Return G_LL', what waves from one atom of each cell bring to an atom of another kind.

        Outgoing partial waves L' about the atoms at P arrive at the atom at ``between`` as
        regular waves L; the atom itself is left out where ``between`` is a lattice vector.

        Parameters
        ----------
        lattice : ndarray, shape (2, 2)
            Å; its reciprocal vectors separate all beams.
        between : array_like, shape (3,)
            Å.

        Returns
        -------
        torch.Tensor, shape (k, L, L')
            Without the factors i^(l - l'), which cancel. Pendry 1974, chapter IV.
        """
        d = np.asarray(between, dtype=float)
        key = ("G", lattice.tobytes(), np.round(d, 9).tobytes())
        return self.once(key, lambda: self._lattice_sum(lattice, d))

    def _lattice_sum(self, lattice: Floats, d: Floats) -> torch.Tensor:
        if not self.kappa.imag > 0:
            raise ValueError("lattice sums end through absorption: absorption_ev must be above 0")
        device, lmax = self.normal.device, self.settings.lmax
        radius = -log(self.settings.lattice_cutoff) / self.kappa.imag
        cells = lattice_points(lattice, -d[:2], radius) @ lattice
        apart = np.column_stack([cells + d[:2], np.full(len(cells), d[2])])
        kept = np.linalg.norm(apart, axis=1) > 1e-6
        there = torch.from_numpy(apart[kept]).to(device)
        waves = _outgoing(there, self.kappa, 2 * lmax)
        bloch = self.parallel[:, 0] @ torch.from_numpy(cells[kept].T).to(device)
        total = torch.exp(-1j * bloch) @ waves
        share = gaunt(lmax).to(device) @ torch.view_as_real(total).permute(1, 0, 2).flatten(1)
        n = (lmax + 1) ** 2
        return torch.view_as_complex(share.view(n, n, len(self), 2)).permute(2, 0, 1)


def _outgoing(r: torch.Tensor, kappa: complex, lmax: int) -> torch.Tensor:
    """i^l h_l(kappa r) Y_L(r) of points (n, 3), shape (n, L)."""
    length = torch.linalg.norm(r, dim=-1)
    across = torch.hypot(r[:, 0], r[:, 1])
    turn = torch.where(across > 0, torch.complex(r[:, 0], r[:, 1]) / across.clamp(min=1e-300), 1.0)
    y = spherical_harmonics(r[:, 2] / length, across / length, turn, lmax)
    degree = torch.from_numpy(degrees(lmax)).to(r.device)
    h = spherical_hankel(kappa * length, lmax)[:, degree]
    return torch.pow(1j * torch.ones_like(degree), degree) * h * y
