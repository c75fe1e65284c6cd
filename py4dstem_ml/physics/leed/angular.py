"""Partial waves: spherical harmonics of complex directions, spherical Hankel functions, Gaunt."""

from __future__ import annotations

from functools import lru_cache
from math import pi, sqrt

import numpy as np
import numpy.typing as npt
import torch


def degrees(lmax: int) -> npt.NDArray[np.int64]:
    """Return l of each L = l^2 + l + m, shape ((lmax + 1)^2,)."""
    return np.repeat(np.arange(lmax + 1), 2 * np.arange(lmax + 1) + 1)


def orders(lmax: int) -> npt.NDArray[np.int64]:
    """Return m of each L = l^2 + l + m, shape ((lmax + 1)^2,)."""
    return np.concatenate([np.arange(-degree, degree + 1) for degree in range(lmax + 1)])


def legendre(
    cos: torch.Tensor, sin: torch.Tensor, lmax: int
) -> dict[tuple[int, int], torch.Tensor]:
    """Return Y_lm at azimuth 0 for m >= 0, with the phase (-1)^m of Condon and Shortley.

    ``cos`` and ``sin`` of the polar angle may be complex. Normalised to 1 over the sphere, by the
    recursions in l that are stable upwards.
    """
    y = {(0, 0): torch.full_like(cos, sqrt(0.25 / pi))}
    for m in range(lmax + 1):
        if m:
            y[m, m] = -sqrt((2 * m + 1) / (2 * m)) * sin * y[m - 1, m - 1]
        if m < lmax:
            y[m + 1, m] = sqrt(2 * m + 3) * cos * y[m, m]
        for degree in range(m + 2, lmax + 1):
            a = sqrt((4 * degree**2 - 1) / (degree**2 - m**2))
            b = sqrt(((degree - 1) ** 2 - m**2) / (4 * (degree - 1) ** 2 - 1))
            y[degree, m] = a * (cos * y[degree - 1, m] - b * y[degree - 2, m])
    return y


def spherical_harmonics(
    cos: torch.Tensor, sin: torch.Tensor, turn: torch.Tensor, lmax: int
) -> torch.Tensor:
    """Return Y_L of directions, complex ones too.

    Parameters
    ----------
    cos, sin : torch.Tensor, any shape
        Of the polar angle; complex for evanescent or damped waves.
    turn : torch.Tensor
        exp(i phi) of the azimuth; its conjugate gives Y* continued to complex polar angles.
    lmax : int

    Returns
    -------
    torch.Tensor, shape (..., (lmax + 1)^2)
        Complex; L = l^2 + l + m.

    Examples
    --------
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> up = spherical_harmonics(one, zero, one + 0j, 1)[0]
    >>> round(float(up[2].real) ** 2 * 4 * pi, 6)
    3.0
    """
    y = legendre(cos, sin, lmax)
    powers = [torch.ones_like(turn)]
    for _ in range(lmax):
        powers.append(powers[-1] * turn)
    columns = []
    for degree, m in zip(degrees(lmax).tolist(), orders(lmax).tolist(), strict=True):
        if m >= 0:
            columns.append(y[degree, m] * powers[m])
        else:
            columns.append((-1) ** m * y[degree, -m] * powers[-m].conj())
    return torch.stack(columns, dim=-1)


def spherical_hankel(z: torch.Tensor, lmax: int) -> torch.Tensor:
    """Return h_l of the first kind at complex ``z`` not zero, shape (..., lmax + 1)."""
    outgoing = torch.exp(1j * z) / z
    h = [-1j * outgoing, -(1 + 1j / z) * outgoing]
    for degree in range(1, lmax):
        h.append((2 * degree + 1) / z * h[-1] - h[-2])
    return torch.stack(h[: lmax + 1], dim=-1)


@lru_cache(maxsize=8)
def gaunt(lmax: int) -> torch.Tensor:
    """Return 4 pi times the integrals of Y_L* Y_L''* Y_L' over the sphere, sparse.

    Shape ((lmax + 1)^4, (2 lmax + 1)^2): rows are (L, L'), columns L'' up to 2 lmax, real.
    """
    nodes, weights = np.polynomial.legendre.leggauss(2 * lmax + 1)
    cos = torch.from_numpy(nodes)
    flat = spherical_harmonics(
        cos, torch.sqrt(1 - cos**2), torch.ones(len(nodes), dtype=torch.complex128), 2 * lmax
    ).real.numpy()
    n = (lmax + 1) ** 2
    m = orders(2 * lmax)
    rows, columns, values = [], [], []
    for one in range(n):
        for other in range(n):
            third = np.flatnonzero(m == m[other] - m[one])
            integral = 2 * pi * (weights * flat[:, one] * flat[:, other]) @ flat[:, third]
            kept = np.abs(integral) > 1e-12
            rows.extend([one * n + other] * int(kept.sum()))
            columns.extend(third[kept])
            values.extend(4 * pi * integral[kept])
    index = torch.tensor(np.array([rows, columns]))
    shape = (n * n, (2 * lmax + 1) ** 2)
    return torch.sparse_coo_tensor(
        index, torch.tensor(values, dtype=torch.float64), shape, check_invariants=False
    ).coalesce()
