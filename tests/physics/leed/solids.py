"""Solids for tests, with phase shifts that are invented but large."""

import numpy as np
import torch

from py4dstem_ml.physics.leed.layer import Layer
from py4dstem_ml.physics.leed.phase_shifts import PhaseShifts, Scatterer
from py4dstem_ml.physics.leed.stack import Bulk
from py4dstem_ml.physics.leed.waves import Waves, reciprocal

ENERGIES = np.array([20.0, 80.0, 140.0])
LIGHT = Scatterer(
    PhaseShifts(ENERGIES, [[0.3, 0.7, 0.3, 0.05], [-0.4, 0.55, 1.0, 0.15], [-0.9, 0.3, 1.2, 0.4]]),
    0.08,
)
HEAVY = Scatterer(
    PhaseShifts(ENERGIES, [[-1.0, 0.2, 1.4, 0.1], [-1.6, -0.5, 2.1, 0.6], [-2.0, -0.9, 2.3, 1.0]]),
    0.06,
)
SQUARE = np.diag([2.9, 2.9])
OBLIQUE = np.array([[2.9, 0.0], [0.7, 3.3]])
#: Two kinds of atoms, no symmetry at all.
SKEW = Bulk(
    [
        Layer(OBLIQUE, [[0, 0, 0]], HEAVY),
        Layer(OBLIQUE, [[0.5, 1.1, -1.9], [2.0, 0.4, -2.2]], [LIGHT, HEAVY]),
    ],
    [0.3, 0.2, -4.0],
)


def waves_of(lattice, energy_ev, k, beams, settings):
    """Waves of beams (g, 2) along directions k (n, 2)."""
    parallel = np.atleast_2d(k)[:, None] + np.asarray(beams) @ reciprocal(lattice)
    return Waves(energy_ev, torch.from_numpy(parallel), settings)
