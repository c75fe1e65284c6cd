"""Phase shifts of an atom in a solid, and its t-matrix with thermal motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline

Floats = npt.NDArray[np.float64]

#: hbar^2 / 2m in eV Å^2.
HBAR2_OVER_2M = 3.809_982_1
#: Gauss-Legendre nodes of the thermal average.
_NODES = 64


@dataclass(frozen=True, eq=False, init=False)
class PhaseShifts:
    """delta_l over the energy, between the table's energies by cubic splines.

    Parameters
    ----------
    energies_ev : array_like, shape (n,)
        Above the muffin-tin zero, rising.
    delta : array_like, shape (n, l)
        rad; l from 0. Jumps by pi are smoothed away.

    Raises
    ------
    ValueError
        If shapes disagree or energies do not rise.

    Examples
    --------
    >>> flat = PhaseShifts([10.0, 55.0, 100.0], [[0.5], [0.7], [0.9]])
    >>> flat.at(77.5).round(2).tolist()
    [0.8]
    """

    energies_ev: Floats
    delta: Floats

    def __init__(self, energies_ev: npt.ArrayLike, delta: npt.ArrayLike) -> None:
        energies, table = np.array(energies_ev, dtype=float), np.array(delta, dtype=float)
        if energies.ndim != 1 or len(energies) < 2 or not (np.diff(energies) > 0).all():
            raise ValueError("phase shifts need two energies at least, in rising order")
        if table.ndim != 2 or len(table) != len(energies) or not np.isfinite(table).all():
            raise ValueError(
                f"phase shifts of {len(energies)} energies have as many rows, one column for each "
                f"l; not shape {table.shape}"
            )
        object.__setattr__(self, "energies_ev", energies)
        object.__setattr__(self, "delta", np.unwrap(table, axis=0, period=np.pi))

    def at(self, energy_ev: float) -> Floats:
        """Return delta_l at an energy above the muffin-tin zero.

        Raises
        ------
        ValueError
            If the table does not reach this energy.
        """
        low, high = self.energies_ev[0], self.energies_ev[-1]
        if not low - 1e-6 <= energy_ev <= high + 1e-6:
            raise ValueError(
                f"{energy_ev:.2f} eV above the muffin-tin zero lies outside the phase shifts' "
                f"table, {low:.2f} to {high:.2f} eV: make one that reaches farther"
            )
        return CubicSpline(self.energies_ev, self.delta)(energy_ev)


@dataclass(frozen=True, eq=False)
class Scatterer:
    """An atom as electrons see it: phase shifts and thermal motion.

    Attributes
    ----------
    phase_shifts : PhaseShifts
    u_rms : float
        Root mean square displacement along each axis in Å, the same in all directions.
    """

    phase_shifts: PhaseShifts
    u_rms: float = 0.0

    def __post_init__(self) -> None:
        if not self.u_rms >= 0:
            raise ValueError(f"u_rms is a displacement in Å, not negative; not {self.u_rms!r}")

    def t_matrix(self, energy_ev: float, lmax: int) -> npt.NDArray[np.complex128]:
        """Return t_l = exp(i delta_l) sin(delta_l), damped by thermal motion, shape (lmax + 1,).

        The scattering amplitude is multiplied by exp(-u^2 |dk|^2 / 2) and expanded again
        (Pendry 1974).

        Parameters
        ----------
        energy_ev : float
            Above the muffin-tin zero.
        lmax : int
        """
        delta = self.phase_shifts.at(energy_ev)
        t = np.exp(1j * delta) * np.sin(delta)
        given = np.arange(len(t))
        x, weights = np.polynomial.legendre.leggauss(_NODES)
        k_squared = energy_ev / HBAR2_OVER_2M
        amplitude = np.polynomial.legendre.legval(x, (2 * given + 1) * t)
        damped = weights * amplitude * np.exp(-(self.u_rms**2) * k_squared * (1 - x))
        return 0.5 * np.polynomial.legendre.legvander(x, lmax).T @ damped
