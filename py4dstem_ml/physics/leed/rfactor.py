"""How well two sets of intensity curves agree: Pendry's R factor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def pendry_y(
    energies_ev: npt.ArrayLike, intensities: npt.ArrayLike, absorption_ev: float
) -> npt.NDArray[np.float64]:
    """Return Y = L / (1 + L^2 V_0i^2) of a curve, L being the slope of its logarithm.

    Parameters
    ----------
    energies_ev : array_like, shape (n,)
        In even steps or not, rising.
    intensities : array_like, shape (..., n)
        Not negative; Y is 0 where curve and slope vanish.
    absorption_ev : float
        V_0i.

    Returns
    -------
    ndarray, shape (..., n)
        1/eV. Written as I I' / (I^2 + I'^2 V_0i^2), which needs no logarithm.
    """
    curve = np.asarray(intensities, dtype=float)
    slope = np.gradient(curve, np.asarray(energies_ev, dtype=float), axis=-1)
    bottom = curve**2 + (slope * absorption_ev) ** 2
    return np.divide(curve * slope, bottom, out=np.zeros_like(curve), where=bottom > 0)


def pendry_r(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Return Pendry's R factor of two sets of Y functions: 0 the same, 1 unrelated.

    Pendry, J. Phys. C 13 (1980) 937. Places where one of them is not a number do not count.

    Examples
    --------
    >>> pendry_r([0.1, -0.2, 0.1], [0.1, -0.2, 0.1])
    0.0

    Raises
    ------
    ValueError
        If the sets have no place in common.
    """
    a, b = np.broadcast_arrays(np.asarray(one, dtype=float), np.asarray(other, dtype=float))
    common = np.isfinite(a) & np.isfinite(b)
    if not common.any():
        raise ValueError("the two sets of curves have no energy in common")
    a, b = a[common], b[common]
    return float(((a - b) ** 2).sum() / (a**2 + b**2).sum())
