"""Natural variables: what a LACBED pattern of a projected potential truly depends on.

With lengths in units of a and angles in units of a*, the wave equation of a beam along [001] has
two numbers left: the depth tau = lambda t / a^2, and the potential u = 2 m e gamma V a^2 / h^2
(V the mean along the beam). A phase grating of that potential and depth turns the wave by
pi tau u. What was learned at one voltage thus holds at others.
"""

from __future__ import annotations

from math import pi
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ..physics.crystal import Crystal
from ..physics.electrons import POTENTIAL_VOLT_ANGSTROM2, lorentz_factor, wavelength
from ..physics.projection import projected_potential, zone_reflections

Number = TypeVar("Number", float, npt.NDArray[np.float64])

#: What a potential of unknown atoms absorbs: u' / a^2 as a multiple of lambda (u / a^2)^2, in Å. Of
#: crystals of the library u' correlates at .98 with it, as absorption rises steeply with Z.
_ABSORBED = 2.28
#: Middle and span of log(tau) and log(std u) in the training library. Weights depend on them: they
#: never change.
_CENTRE = (-0.65, 2.6)
_SPAN = (0.9, 0.6)


def depth(a: Number, thickness: Number, energy_ev: float) -> Number:
    """Return tau = lambda t / a^2 of thicknesses and lattice constants in Å."""
    return wavelength(energy_ev) * thickness / a**2


def strength_per_volt(a: Number, energy_ev: float) -> Number:
    """Return what turns a projected potential in V·Å of one cell into u."""
    return lorentz_factor(energy_ev) * a / (pi * POTENTIAL_VOLT_ANGSTROM2)


def natural_potential(crystal: Crystal, pixels: int, energy_ev: float) -> torch.Tensor:
    """Return the projected potential u (pixels, pixels) of a cubic crystal, float64."""
    a = float(torch.linalg.norm(crystal.lattice[0]))
    potential = projected_potential(crystal, pixels).potential
    return torch.from_numpy(potential) * strength_per_volt(a, energy_ev)


def optical_potential(crystal: Crystal, pixels: int, energy_ev: float) -> torch.Tensor:
    """Return u + i u' (pixels, pixels) of a cubic crystal, complex128.

    u is its `natural_potential`, and u' absorbs what thermal diffuse scattering takes away, see
    `scattering_factors`. The mean of u' counts, that of u is left out.
    """
    a = float(torch.linalg.norm(crystal.lattice[0]))
    hkl = np.concatenate([[[0, 0, 0]], zone_reflections(pixels)])
    origin = projected_potential(crystal, pixels).origin
    coupling = crystal.coupling_coefficients(hkl, energy_ev).detach().numpy()
    coupling[0] = 1j * coupling[0].imag
    spectrum = np.zeros((pixels, pixels), dtype=complex)
    spectrum[hkl[:, 0], hkl[:, 1]] = coupling * np.exp(2j * pi * (hkl[:, :2] @ origin))
    return torch.from_numpy(np.fft.ifft2(spectrum, norm="forward")) * a**2


def absorbing(u: torch.Tensor, a: float, energy_ev: float) -> torch.Tensor:
    """Return u + i u' of a potential (n, n) whose atoms are not known."""
    share = _ABSORBED * wavelength(energy_ev) / a**2
    return torch.complex(u, share * (u - u.min()).square())


def conditions(tau: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """Return what networks are told of depth and potential, each about -2 to 2, shape (b, 2).

    Parameters
    ----------
    tau, spread : torch.Tensor, shape (b,)
        The depth, and the standard deviation of u.
    """
    # Numbers, not tensors made of them, which would have to be copied to a GPU.
    values = [
        (value.float().clamp(min=1e-6).log() - centre) / span
        for value, centre, span in zip((tau, spread), _CENTRE, _SPAN, strict=True)
    ]
    return torch.stack(values, dim=-1)
