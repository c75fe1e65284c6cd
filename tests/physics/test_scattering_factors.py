"""Free-atom factors and thermal diffuse absorption, against independent parametrisations."""

import numpy as np
import pytest
import torch

from py4dstem_ml.physics.electrons import lorentz_factor, wavelength
from py4dstem_ml.physics.scattering_factors import (
    absorptive_factor,
    elastic_factor,
    thermal_diffuse_integral,
)

ENERGY = 200e3
BOHR_RADIUS = 0.529177


def b_iso(rms_displacement: float) -> float:
    return 8.0 * np.pi**2 * rms_displacement**2


# Doyle & Turner, Acta Cryst. A24 (1968) 390, table 2: f_e(0) in Å.
@pytest.mark.parametrize(
    ("number", "forward"), [(6, 2.509), (8, 1.983), (14, 5.828), (38, 13.109), (79, 10.573)]
)
def test_forward_factor(number: int, forward: float) -> None:
    found = float(elastic_factor(number, torch.zeros(1, dtype=torch.float64)))
    assert found == pytest.approx(forward, rel=0.03)


@pytest.mark.parametrize("number", [1, 6, 14, 38, 79, 103])
def test_factors_fall_to_the_tail_of_the_bare_nucleus(number: int) -> None:
    g = torch.linspace(0.0, 20.0, 400, dtype=torch.float64)
    factor = elastic_factor(number, g**2)
    assert bool((factor > 0).all()) and bool((factor.diff() < 0).all())
    # Mott-Bethe without the electrons: f = Z / (2 pi^2 a0 g^2).
    far = torch.tensor([400.0], dtype=torch.float64)
    nucleus = number / (2 * np.pi**2 * BOHR_RADIUS * far**2)
    assert float(elastic_factor(number, far**2) / nucleus) == pytest.approx(1.0, abs=0.02)


def test_mott_bethe_counts_the_electrons_of_a_neutral_atom() -> None:
    # f_x(g) = Z - 2 pi^2 a0 g^2 f_e(g): all electrons at g = 0, if f_e stays finite there, and
    # none far out.
    g = torch.linspace(0.01, 20.0, 200, dtype=torch.float64)
    bound = 14 - 2 * np.pi**2 * BOHR_RADIUS * g**2 * elastic_factor(14, g**2)
    assert float(bound[0]) == pytest.approx(14.0, abs=0.02)
    assert float(bound[-1]) == pytest.approx(0.0, abs=0.2)


@pytest.mark.parametrize("number", [0, 104, -1])
def test_unknown_elements_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match="no scattering factor"):
        elastic_factor(number, torch.zeros(1))


@pytest.mark.parametrize("number", [6, 14, 38, 79])
def test_thermal_diffuse_integral_is_that_of_weickenmeier_and_kohl(number: int) -> None:
    wk = pytest.importorskip("py4DSTEM.process.diffraction.WK_scattering_factors")
    gamma, displacement = lorentz_factor(ENERGY), 0.08

    def elastic(q: np.ndarray) -> np.ndarray:
        options = {"include_core": False, "include_phonon": False}
        factor = wk.compute_WK_factor(q.ravel(), number, ENERGY, 0.0, **options)
        return factor.real.reshape(q.shape) * np.pi / gamma

    g = np.array([0.01, 0.25, 0.5, 1.0, 2.0])
    expected = wk.compute_WK_factor(g, number, ENERGY, displacement, include_core=False).imag
    integral = thermal_diffuse_integral(elastic, g, b_iso(displacement))
    found = gamma / np.pi * 0.5 * gamma * wavelength(ENERGY) * integral
    assert found == pytest.approx(expected, rel=0.03, abs=0.01 * expected[0])


def test_absorption_vanishes_without_motion_and_grows_with_it() -> None:
    g = torch.tensor([0.0, 0.5], dtype=torch.float64)
    still, slow, fast = (absorptive_factor(14, g, b_iso(u), ENERGY) for u in (0.0, 0.05, 0.1))
    assert float(still.abs().max()) < 1e-9
    assert bool((slow > 0).all()) and bool((slow < fast).all())


def test_absorption_falls_as_one_over_the_velocity() -> None:
    g = torch.zeros(1, dtype=torch.float64)
    ratio = absorptive_factor(14, g, 0.5, 100e3) / absorptive_factor(14, g, 0.5, 300e3)
    velocity = [np.sqrt(1 - lorentz_factor(e) ** -2) for e in (100e3, 300e3)]
    assert float(ratio) == pytest.approx(velocity[1] / velocity[0], rel=1e-6)


def test_the_spline_follows_the_integral() -> None:
    from py4dstem_ml.physics.scattering_factors import _elastic_numpy

    g = np.array([0.05, 0.33, 1.27, 3.71, 6.2])
    integral = thermal_diffuse_integral(_elastic_numpy(79), g, 0.5)
    expected = 0.5 * lorentz_factor(ENERGY) * wavelength(ENERGY) * integral
    found = absorptive_factor(79, torch.as_tensor(g), 0.5, ENERGY).numpy()
    assert found == pytest.approx(expected, rel=2e-3, abs=1e-5 * abs(expected).max())
