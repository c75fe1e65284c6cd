"""Electron scattering factors of free atoms: elastic (Lobato) and absorptive (thermal diffuse).

Elastic: Lobato & Van Dyck, Acta Cryst. A70 (2014) 636, eq. 16. Absorptive: the Einstein-model
integral of Hall & Hirsch, Proc. R. Soc. A 286 (1965) 158, and Bird & King, Acta Cryst. A46
(1990) 202, taken numerically over the Lobato factors, so that both belong to one atom model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt
import torch
from scipy.interpolate import CubicSpline

from .electrons import lorentz_factor, wavelength

#: |g| in 1/Å at which the absorptive factor is integrated; between them a cubic spline.
_ABSORPTIVE_GRID = np.concatenate([np.arange(0.0, 4.0, 0.1), np.arange(4.0, 12.01, 0.5)])


@lru_cache(maxsize=1)
def _lobato_table() -> npt.NDArray[np.float64]:
    with files(__package__).joinpath("lobato_2014.txt").open() as handle:
        return np.loadtxt(handle)


def elastic_factor(atomic_number: int, g_squared: torch.Tensor) -> torch.Tensor:
    """Return the elastic factor f_e in Å of one element at rest (no relativistic factor).

    Parameters
    ----------
    atomic_number : int
        1 to 103.
    g_squared : torch.Tensor
        |g|^2 in 1/Å^2, any shape; g is 1/d, not sin(theta)/lambda.
    """
    table = _lobato_table()
    if not 1 <= atomic_number <= len(table):
        raise ValueError(f"no scattering factor for atomic number {atomic_number} (1 to 103)")
    f = torch.zeros_like(g_squared)
    for a, b in table[atomic_number - 1].reshape(5, 2):
        f = f + a * (2.0 + b * g_squared) / (1.0 + b * g_squared) ** 2
    return f


def thermal_factor(
    atomic_number: int, b_iso: torch.Tensor | float, g: torch.Tensor
) -> torch.Tensor:
    """Return the elastic factor in Å at |g| in 1/Å with its Debye-Waller damping."""
    return elastic_factor(atomic_number, g * g) * torch.exp(-0.25 * b_iso * g * g)


def _elastic_numpy(atomic_number: int) -> Callable[[npt.NDArray], npt.NDArray]:
    a, b = _lobato_table()[atomic_number - 1].reshape(5, 2).T

    def factor(g: npt.NDArray) -> npt.NDArray:
        bg = b * (g * g)[..., None]
        return (a * (2.0 + bg) / (1.0 + bg) ** 2).sum(-1)

    return factor


def thermal_diffuse_integral(
    elastic: Callable[[npt.NDArray], npt.NDArray], g: npt.NDArray, b_iso: float
) -> npt.NDArray[np.float64]:
    """Integrate f(q) f(g-q) [M(g) - M(q) M(g-q)] over the plane, M(q) = exp(-B q^2 / 4).

    Parameters
    ----------
    elastic : callable
        |q| in 1/Å -> f in Å.
    g : ndarray, shape (n,)
        1/Å.
    b_iso : float
        Debye-Waller B in Å^2.

    Returns
    -------
    ndarray, shape (n,)
        In 1 (Å^2 times 1/Å^2). Bird & King 1990, eq. 6, written in g = 2 s.
    """
    # Polar coordinates about g/2, where the integrand is symmetric in both axes; the radius is
    # mapped from (0, 1) so that the slow 1/q^4 tail is inside the quadrature.
    nodes, weights = np.polynomial.legendre.leggauss(96)
    t, wt = 0.5 * (nodes + 1.0), 0.5 * weights
    radius, w_radius = 1.5 * t / (1.0 - t), 1.5 * wt / (1.0 - t) ** 2
    angles, w_angle = np.polynomial.legendre.leggauss(32)
    phi, w_phi = 0.25 * np.pi * (angles + 1.0), np.pi * w_angle  # four quadrants
    result = np.empty(len(g))
    for i, g_i in enumerate(g):
        along = radius[:, None] * np.cos(phi)
        across = radius[:, None] * np.sin(phi)
        q1 = np.hypot(along + 0.5 * g_i, across)
        q2 = np.hypot(along - 0.5 * g_i, across)
        thermal = np.exp(-0.25 * b_iso * g_i**2) - np.exp(-0.25 * b_iso * (q1**2 + q2**2))
        plane = elastic(q1) * elastic(q2) * thermal * radius[:, None]
        result[i] = w_radius @ plane @ w_phi
    return result


@lru_cache(maxsize=4096)
def _absorptive_spline(atomic_number: int, b_iso: float) -> CubicSpline:
    values = thermal_diffuse_integral(_elastic_numpy(atomic_number), _ABSORPTIVE_GRID, b_iso)
    return CubicSpline(_ABSORPTIVE_GRID, values)


def absorptive_factor(
    atomic_number: int, g: torch.Tensor, b_iso: float, energy_ev: float
) -> torch.Tensor:
    """Return the absorptive factor f' in Å that thermal diffuse scattering removes.

    It already holds its Debye-Waller damping, and enters the potential as ``f exp(-B g^2/4) +
    i f'``. Constant under differentiation. Beyond 12 1/Å it is zero.

    Parameters
    ----------
    atomic_number : int
        1 to 103.
    g : torch.Tensor
        1/Å, any shape.
    b_iso : float
        Debye-Waller B in Å^2; rounded to 0.001.
    energy_ev : float
        Beam energy in eV; f' is proportional to 1/v.
    """
    spline = _absorptive_spline(int(atomic_number), round(float(b_iso), 3))
    g_np = g.detach().cpu().numpy()
    values = np.where(g_np < _ABSORPTIVE_GRID[-1], spline(g_np), 0.0)
    prefactor = 0.5 * lorentz_factor(energy_ev) * wavelength(energy_ev)
    return torch.as_tensor(prefactor * values, dtype=g.dtype, device=g.device)
