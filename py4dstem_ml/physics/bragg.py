"""Bragg lists: the dynamical intensities of one crystal in many orientations, quickly.

What all orientations share is computed once: the couplings U_g on the whole box of reflections,
where flat indices of differences are differences of flat indices, so that the matrix of any set
of beams is one look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi

import numpy as np
import numpy.typing as npt
import torch

from .bloch import Beams, excitation_errors, propagate, reflections, strongest_beams
from .crystal import Crystal
from .electrons import lorentz_factor, wavelength
from .scattering_factors import absorptive_factor, thermal_factor

#: Scattering factors are tabled at so many |g| and interpolated.
_FACTOR_NODES = 4096


class BraggSimulator:
    """Bragg intensities of a crystal.

    Parameters
    ----------
    crystal : Crystal
    energy_ev : float
    q_max : float
        1/Å; beams with |g| up to here.
    s_max : float
        1/Å; beams whose excitation error stays within this for one of the incident waves.
    max_beams : int
        The strongest are kept where there are more, as by `bloch.select_beams`.
    absorption : bool
        Thermal diffuse absorption.
    device : torch.device or str

    Examples
    --------
    >>> from py4dstem_ml.physics.orientations import zone_axis
    >>> gold = Crystal.cubic(4.08, [79] * 4, [[0, 0, 0], [0, .5, .5], [.5, 0, .5], [.5, .5, 0]])
    >>> beams, intensities = BraggSimulator(gold, 300e3)(zone_axis(gold, (0, 0, 1)), [200.0])
    >>> intensities.shape == (1, len(beams), 1)
    True
    """

    def __init__(
        self,
        crystal: Crystal,
        energy_ev: float,
        *,
        q_max: float = 2.0,
        s_max: float = 0.06,
        max_beams: int = 300,
        absorption: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        self.energy_ev, self.s_max, self.max_beams = energy_ev, s_max, max_beams
        self.hkl = reflections(crystal, q_max)
        g = torch.as_tensor(self.hkl, dtype=torch.float64) @ crystal.reciprocal.detach()
        self.g = g.to(device)
        # Differences of two beams reach twice as far.
        limit = 2 * np.abs(self.hkl).max(axis=0)
        box = torch.from_numpy(coupling_box(crystal, limit, energy_ev, absorption))
        strides = np.array(box.stride())
        self.couplings = box.reshape(-1).to(device)
        self.index = torch.from_numpy(self.hkl @ strides).to(device)
        self.origin = int(limit @ strides)
        mean = self.couplings[self.origin].real.item()
        self.couplings[self.origin] -= mean  # a phase common to all beams
        self.half_gap = (0.5 * wavelength(energy_ev)) * self.couplings[
            self.origin + self.index
        ].abs()

    def __call__(
        self,
        orientation: npt.ArrayLike,
        thicknesses: Sequence[float],
        incidence: torch.Tensor | None = None,
    ) -> tuple[Beams, torch.Tensor]:
        """Return the beams and their intensities, float32, shape (thicknesses, beams, incidence).

        Parameters
        ----------
        orientation : array_like, shape (3, 3)
            See `orientations`.
        thicknesses : sequence of float
            Å.
        incidence : torch.Tensor, shape (b, 2), optional
            Transverse wave vectors in 1/Å; default one wave along -z.
        """
        g = self.g @ torch.as_tensor(np.asarray(orientation)).to(self.g)
        waves = (torch.zeros(1, 2) if incidence is None else incidence).to(self.g)
        s = excitation_errors(g, self.energy_ev, waves)
        chosen = self._choose(s.abs().amin(dim=1))
        index = self.index[chosen]
        matrix = self.couplings[self.origin + index[:, None] - index[None, :]]
        k_normal = torch.sqrt(wavelength(self.energy_ev) ** -2 - (waves**2).sum(1))
        amplitudes = propagate(matrix, s[chosen].float(), k_normal.float(), thicknesses)
        beams = Beams(self.hkl[chosen.cpu().numpy()], g[chosen])
        return beams, amplitudes.abs().square()

    def _choose(self, s: torch.Tensor) -> torch.Tensor:
        """Indices of the beams for the smallest |s_g| of each, in order of |g|."""
        near = s <= self.s_max
        near[0] = True
        chosen = torch.nonzero(near)[:, 0]
        if len(chosen) <= self.max_beams:
            return chosen
        return chosen[strongest_beams(self.half_gap[chosen], s[chosen], self.max_beams)]


def coupling_box(
    crystal: Crystal, limit: npt.NDArray[np.int64], energy_ev: float, absorption: bool = True
) -> npt.NDArray[np.complex64]:
    """Return U_g + i U'_g in 1/Å^2 for all |h|, |k|, |l| up to the limits.

    The values of `Crystal.coupling_coefficients`, by separable lattice sums and tabled scattering
    factors: some hundred times as fast for a box of 10^5 reflections.

    Parameters
    ----------
    crystal : Crystal
    limit : ndarray of int, shape (3,)
    energy_ev : float
    absorption : bool

    Returns
    -------
    ndarray, shape (2 limit + 1)
        complex64; element ``limit`` is g = 0.
    """
    axes = [np.arange(-n, n + 1) for n in limit]
    metric = (crystal.reciprocal @ crystal.reciprocal.T).detach().numpy()
    h, k, l = np.ix_(*axes)  # noqa: E741
    squared = (
        metric[0, 0] * h**2 + metric[1, 1] * k**2 + metric[2, 2] * l**2
        + 2 * (metric[0, 1] * h * k + metric[0, 2] * h * l + metric[1, 2] * k * l)
    )  # fmt: skip
    length = np.sqrt(squared)
    nodes = np.linspace(0.0, max(length.max(), 1e-9), _FACTOR_NODES)
    where = length * ((_FACTOR_NODES - 1) / nodes[-1])
    below = np.minimum(where.astype(np.int32), _FACTOR_NODES - 2)
    share = (where - below).astype(np.float32)
    numbers, b_iso = crystal.numbers.numpy(), crystal.b_iso.detach().numpy()
    positions, shares = crystal.positions.detach().numpy(), crystal.occupancies.detach().numpy()
    total = np.zeros(length.shape, dtype=np.complex64)
    for number, b in sorted(set(zip(numbers.tolist(), b_iso.tolist(), strict=True))):
        atoms = (numbers == number) & (b_iso == b)
        waves = [
            np.exp(-2j * pi * np.outer(axis, positions[atoms, i])).astype(np.complex64)
            for i, axis in enumerate(axes)
        ]
        planes = waves[0][:, None] * (waves[1] * shares[atoms].astype(np.float32))
        lattice_sum = (planes.reshape(-1, atoms.sum()) @ waves[2].T).reshape(length.shape)
        factor = _factor(number, b, nodes, energy_ev, absorption).astype(np.complex64)
        total += lattice_sum * (factor[below] + share * np.diff(factor)[below])
    scale = lorentz_factor(energy_ev) / (pi * crystal.volume)
    return (scale * total).astype(np.complex64)


def _factor(
    number: int, b_iso: float, g: npt.NDArray, energy_ev: float, absorption: bool
) -> npt.NDArray[np.complex128]:
    lengths = torch.from_numpy(g)
    factor = thermal_factor(number, b_iso, lengths).numpy().astype(complex)
    if absorption:
        factor += 1j * absorptive_factor(number, lengths, b_iso, energy_ev).numpy()
    return factor
