"""Pendry's R factor of curves whose R factor is known."""

import numpy as np
import pytest

from py4dstem_ml.physics.leed.rfactor import pendry_r, pendry_y

ENERGIES = np.arange(50.0, 300.0, 0.5)


def peaks(shift):
    """Lorentzian peaks of the width that absorption gives."""
    at = np.arange(40.0, 320.0, 30.0) + shift
    return (1 / ((ENERGIES[:, None] - at) ** 2 + 4.0**2)).sum(1)


def test_y_of_a_lorentzian_peak():
    energies = np.arange(-20.0, 20.0, 0.01)
    y = pendry_y(energies, 1 / (energies**2 + 16.0), 4.0)
    slope = -2 * energies / (energies**2 + 16.0)
    np.testing.assert_allclose(y, slope / (1 + 16 * slope**2), atol=1e-4)


def test_scale_does_not_matter_and_place_does():
    y = pendry_y(ENERGIES, np.array([peaks(0), 7 * peaks(0), peaks(1), peaks(15)]), 4.0)
    assert pendry_r(y[0], y[1]) < 1e-12
    assert 0.01 < pendry_r(y[0], y[2]) < 0.2
    assert pendry_r(y[0], y[3]) > 1.5  # peaks where there are valleys


def test_places_without_a_value_do_not_count():
    y = pendry_y(ENERGIES, peaks(0), 4.0)
    holes = np.where(ENERGIES > 200, np.nan, y)
    assert pendry_r(y, holes) == 0
    assert (pendry_y(ENERGIES, np.zeros_like(ENERGIES), 4.0) == 0).all()
    with pytest.raises(ValueError, match="no energy in common"):
        pendry_r(y, np.full_like(y, np.nan))
