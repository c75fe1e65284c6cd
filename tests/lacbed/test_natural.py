"""Natural variables: the exact engine agrees that nothing else counts."""

import numpy as np
import pytest
import torch
from tiny_lacbed import FCC

from py4dstem_ml.lacbed.natural import (
    absorbing,
    conditions,
    depth,
    natural_potential,
    optical_potential,
    strength_per_volt,
)
from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.electrons import interaction_constant, lorentz_factor, wavelength
from py4dstem_ml.physics.lacbed import lacbed
from py4dstem_ml.physics.projection import projected_potential

A = 4.05


def _bright_field(energy_ev, thickness, share=1.0):
    crystal = Crystal.cubic(A, [13] * 4, FCC, occupancies=[share] * 4)
    disks = lacbed(
        crystal, (0, 0, 1), energy_ev, [thickness], half_width=2 / A, pixels=16, absorption=False
    )
    return disks.images[0, 0]


def test_equal_depth_and_strength_are_equal_patterns_at_other_voltages():
    thickness = 600.0 * wavelength(100e3) / wavelength(300e3)
    share = lorentz_factor(100e3) / lorentz_factor(300e3)
    assert depth(A, 600.0, 100e3) == pytest.approx(depth(A, thickness, 300e3))
    assert strength_per_volt(A, 100e3) == pytest.approx(share * strength_per_volt(A, 300e3))
    one, other = _bright_field(100e3, 600.0), _bright_field(300e3, thickness, share)
    assert one.std() > 0.1
    torch.testing.assert_close(one, other, atol=0.01, rtol=0.0)
    assert (one - _bright_field(300e3, thickness)).abs().max() > 0.1
    assert (one - _bright_field(300e3, 600.0, share)).abs().max() > 0.1


def test_strength_is_the_coupling_of_the_engine():
    crystal = Crystal.cubic(A, [13] * 4, FCC)
    potential = projected_potential(crystal, 32).potential * strength_per_volt(A, 120e3)
    coefficients = np.fft.fft2(potential, norm="forward")
    for h, k in ((2, 0), (2, 2), (4, 0), (0, 6)):
        coupling = crystal.coupling_coefficients([[h, k, 0]], 120e3, absorption=False)
        assert coefficients[h, k] == pytest.approx(complex(coupling) * A**2, rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.25])
def test_the_optical_potential_is_the_coupling_with_absorption(shift):
    """About the same origin as the potential, wherever the crystal's own is."""
    crystal = Crystal.cubic(A, [13] * 4, np.array(FCC) + [shift, 0, 0])
    found = optical_potential(crystal, 32, 120e3)
    torch.testing.assert_close(found.real, natural_potential(crystal, 32, 120e3))
    coefficients = np.fft.fft2(found.imag.numpy(), norm="forward")
    at_origin = Crystal.cubic(A, [13] * 4, FCC)
    for h, k in ((0, 0), (2, 0), (2, 2), (4, 0), (0, 6)):
        coupling = complex(at_origin.coupling_coefficients([[h, k, 0]], 120e3))
        assert coefficients[h, k] == pytest.approx(coupling.imag * A**2, rel=1e-6)
    assert found.imag.min() > -0.05 * found.imag.max()


@pytest.mark.parametrize("energy_ev", [80e3, 300e3])
@pytest.mark.parametrize("z", [14, 29, 47, 79])
def test_a_potential_of_unknown_atoms_absorbs_about_what_crystals_do(z, energy_ev):
    crystal = Crystal.cubic(A, [z] * 4, FCC)
    u = natural_potential(crystal, 32, energy_ev)
    true, found = optical_potential(crystal, 32, energy_ev).imag, absorbing(u, A, energy_ev).imag
    assert np.corrcoef(true.ravel(), found.ravel())[0, 1] > 0.9
    assert 0.4 < found.std() / true.std() < 2.5
    torch.testing.assert_close(absorbing(u, A, energy_ev).real, u)


def test_a_phase_grating_turns_the_wave_by_pi_tau_u():
    phase = np.pi * depth(A, 50.0, 200e3) * strength_per_volt(A, 200e3)  # of 1 V·Å a cell
    assert phase == pytest.approx(interaction_constant(200e3) * 50.0 / A, rel=1e-5)


def test_conditions_of_nothing_are_finite_and_they_rise():
    told = conditions(torch.tensor([0.0, 0.1, 0.4]), torch.tensor([0.0, 2.0, 9.0]))
    assert torch.isfinite(told).all() and (told.diff(dim=0) > 0).all()
