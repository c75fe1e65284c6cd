"""Tables of phase shifts, and atoms in thermal motion."""

import numpy as np
import pytest
from leed.solids import HEAVY
from scipy.integrate import quad
from scipy.special import eval_legendre

from py4dstem_ml.physics.leed.phase_shifts import HBAR2_OVER_2M, PhaseShifts, Scatterer


def test_jumps_by_pi_are_smoothed_away():
    energies = np.linspace(10, 100, 10)
    smooth = np.linspace(1.0, 4.0, 10)[:, None]
    table = PhaseShifts(energies, np.arctan(np.tan(smooth)))
    np.testing.assert_allclose(np.tan(table.at(55.0)), np.tan(2.5), rtol=1e-9)


def test_an_atom_at_rest_obeys_the_optical_theorem():
    t = HEAVY.phase_shifts.at(60.0)
    found = Scatterer(HEAVY.phase_shifts).t_matrix(60.0, 5)
    np.testing.assert_allclose(found[:4], np.exp(1j * t) * np.sin(t), atol=1e-12)
    np.testing.assert_allclose(found[4:], 0, atol=1e-12)
    np.testing.assert_allclose(found.imag, np.abs(found) ** 2, atol=1e-12)


def test_thermal_motion_damps_the_scattered_amplitude():
    energy, u = 80.0, 0.11
    still, moving = (Scatterer(HEAVY.phase_shifts, x).t_matrix(energy, 14) for x in (0.0, u))
    for cos in (-1.0, 0.2, 1.0):
        amplitude = [
            sum((2 * n + 1) * t[n] * eval_legendre(n, cos) for n in range(15))
            for t in (still, moving)
        ]
        transfer = 2 * (energy / HBAR2_OVER_2M) * (1 - cos)
        factor = np.exp(-(u**2) * transfer / 2)
        np.testing.assert_allclose(amplitude[1], factor * amplitude[0], rtol=1e-6)
    first = quad(lambda x: x * np.exp(-(u**2) * (energy / HBAR2_OVER_2M) * (1 - x)), -1, 1)[0]
    s_only = Scatterer(PhaseShifts([10.0, 100.0], [[0.4], [0.4]]), u).t_matrix(energy, 1)
    assert s_only[1] == pytest.approx(0.5 * first * np.exp(0.4j) * np.sin(0.4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PhaseShifts([10.0], [[0.1]]), "two energies"),
        (lambda: PhaseShifts([20.0, 10.0], [[0.1], [0.2]]), "rising"),
        (lambda: PhaseShifts([10.0, 20.0], [0.1, 0.2]), "as many rows"),
        (lambda: HEAVY.phase_shifts.at(300.0), "lies outside"),
        (lambda: Scatterer(HEAVY.phase_shifts, -0.1), "not negative"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
