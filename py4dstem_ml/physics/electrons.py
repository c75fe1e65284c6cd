"""Relativistic electrons: wavelength and interaction constants."""

from __future__ import annotations

import math

ELECTRON_REST_ENERGY_EV = 510_998.95
PLANCK_TIMES_C_EV_ANGSTROM = 12_398.419_843
#: h^2 / (2 pi m e) in V Å^2: turns a scattering factor in Å into a potential integral in V Å^3.
POTENTIAL_VOLT_ANGSTROM2 = 47.877_645


def lorentz_factor(energy_ev: float) -> float:
    """Return gamma = m / m0 of an electron accelerated through ``energy_ev`` volts."""
    if not energy_ev > 0:
        raise ValueError(f"energy_ev must be positive (electron volts), got {energy_ev!r}")
    return 1.0 + energy_ev / ELECTRON_REST_ENERGY_EV


def wavelength(energy_ev: float) -> float:
    """Return the relativistic electron wavelength in Å.

    Parameters
    ----------
    energy_ev : float
        Beam energy in eV, e.g. ``300e3``.

    Examples
    --------
    >>> round(wavelength(300e3), 6)
    0.019687
    """
    if not energy_ev > 0:
        raise ValueError(f"energy_ev must be positive (electron volts), got {energy_ev!r}")
    momentum = math.sqrt(energy_ev * (energy_ev + 2.0 * ELECTRON_REST_ENERGY_EV))
    return PLANCK_TIMES_C_EV_ANGSTROM / momentum


def interaction_constant(energy_ev: float) -> float:
    """Return sigma in rad / (V Å): phase of the transmitted wave per projected potential."""
    return (
        2.0 * math.pi * lorentz_factor(energy_ev) * ELECTRON_REST_ENERGY_EV
        * wavelength(energy_ev) / PLANCK_TIMES_C_EV_ANGSTROM**2
    )  # fmt: skip
