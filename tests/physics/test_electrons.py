"""Wavelength and interaction constant against tabulated values."""

import pytest

from py4dstem_ml.physics.electrons import interaction_constant, lorentz_factor, wavelength

# Kirkland, Advanced Computing in Electron Microscopy, table 2.2 and eq. 5.6.
KNOWN = {100e3: (0.03701, 0.924e-3), 200e3: (0.02508, 0.729e-3), 300e3: (0.01969, 0.653e-3)}


@pytest.mark.parametrize("energy_ev", KNOWN)
def test_known_values(energy_ev: float) -> None:
    expected_wavelength, expected_sigma = KNOWN[energy_ev]
    assert wavelength(energy_ev) == pytest.approx(expected_wavelength, abs=1e-5)
    assert interaction_constant(energy_ev) == pytest.approx(expected_sigma, abs=1e-6)


def test_slow_electrons_are_not_relativistic() -> None:
    assert lorentz_factor(1.0) == pytest.approx(1.0, abs=1e-5)
    assert wavelength(150.412) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("energy_ev", [0.0, -200e3, float("nan")])
@pytest.mark.parametrize("function", [wavelength, lorentz_factor, interaction_constant])
def test_impossible_energies_are_refused(function, energy_ev: float) -> None:
    with pytest.raises(ValueError, match="energy_ev must be positive"):
        function(energy_ev)
