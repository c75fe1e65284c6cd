"""Against measured curves: Ag(100), by the developers of ViPErLEED (CC BY 4.0)."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.leed.layer import Layer
from py4dstem_ml.physics.leed.muffin_tin import phase_shifts
from py4dstem_ml.physics.leed.phase_shifts import Scatterer
from py4dstem_ml.physics.leed.rfactor import pendry_r, pendry_y
from py4dstem_ml.physics.leed.stack import Bulk, Surface, amplitudes
from py4dstem_ml.physics.leed.waves import Settings, flux_ratio

A = 2.88
ABSORPTION_EV = 4.5
FCC = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])


def debye_displacement(debye_k, temperature_k, mass_u):
    """Root mean square displacement along an axis in Å."""
    mean = quad(lambda x: x / np.expm1(x), 0, debye_k / temperature_k)[0]
    thermal = 0.25 + mean * (temperature_k / debye_k) ** 2
    return np.sqrt(3 * 4.18016e-3 / (mass_u * 8.617e-5 * debye_k) * thermal)


def measured(data_folder):
    """Beams, and of each the energies up to 345 eV and smoothed intensities."""
    path = data_folder / "leed" / "ag100_experiment" / "EXPBEAMS.csv"
    names = path.read_text().splitlines()[0].split(";")[1:]
    beams = np.array([[int(x) for x in name.strip(" ()").split("|")] for name in names])
    table = np.genfromtxt(path, delimiter=";", skip_header=1)
    table = table[table[:, 0] <= 345]
    given = np.isfinite(table[:, 1:])
    curves = [
        (table[on, 0], gaussian_filter1d(column[on], 2))  # 1 eV
        for column, on in zip(table[:, 1:].T, given.T, strict=True)
        if on.any()
    ]
    return beams[: len(curves)], curves


def calculated(beams, energies, outward):
    """Curves of the surface as it is in the bulk, the topmost layer moved outward by some Å."""
    silver = Crystal.cubic(A * np.sqrt(2), [47] * 4, FCC)
    shifts = phase_shifts(silver, np.geomspace(25, 400, 90), lmax=11)[47]
    u = debye_displacement(330.0, 100.0, 107.87)
    lattice, spacing = np.diag([A, A]), A / np.sqrt(2)
    bulk = Bulk(
        [Layer(lattice, [[A / 2, A / 2, 0]], Scatterer(shifts, u))], [A / 2, A / 2, -spacing]
    )
    top = Layer(lattice, [[0, 0, spacing + outward]], Scatterer(shifts, 1.3 * u))
    settings = Settings(absorption_ev=ABSORPTION_EV, lmax=10)
    found = np.zeros((len(beams), len(energies)))
    for column, energy in zip(found.T, energies, strict=True):
        every, waves = amplitudes(Surface([top], bulk), energy, (0, 0), settings)
        intensity = waves[0, 0].abs().square() * flux_ratio(lattice, energy, (0, 0), every)
        same = (beams[:, None] == every).all(2)
        column[:] = np.where(same.any(1), intensity[same.argmax(1)], 0)
    return found


def best_r_factor(curves, energies, found):
    """The smallest over the inner potential, which shifts the energies."""
    factors = []
    for shift in np.arange(3.0, 11.0, 0.25):
        ours, theirs = [], []
        for (places, intensity), curve in zip(curves, found, strict=True):
            calculated_there = CubicSpline(energies, curve)(places - shift)
            theirs.append(pendry_y(places, intensity, ABSORPTION_EV))
            ours.append(pendry_y(places, calculated_there, ABSORPTION_EV))
        factors.append(pendry_r(np.concatenate(ours), np.concatenate(theirs)))
    return min(factors)


@pytest.mark.slow
@pytest.mark.data
def test_silver_as_measured(data_folder):
    beams, curves = measured(data_folder)
    assert beams.tolist() == [[1, 0], [1, 1], [2, 0], [2, 1], [2, 2], [3, 0], [3, 1]]
    energies = np.arange(36.0, 346.0, 3.0)
    right, wrong = (
        best_r_factor(curves, energies, calculated(beams, energies, outward))
        for outward in (0.0, 0.2)
    )
    assert right < 0.2  # 0.159 here
    assert wrong > 2 * right
