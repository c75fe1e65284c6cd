"""Bragg lists: the same numbers as the engine's own path, for less work."""

import numpy as np
import pytest
import torch
from materials import MATERIALS

from py4dstem_ml.physics.bloch import diffract, select_beams
from py4dstem_ml.physics.bragg import BraggSimulator, coupling_box
from py4dstem_ml.physics.orientations import random_orientation, zone_axis

ENERGY = 300e3


@pytest.mark.parametrize("name", MATERIALS)
@pytest.mark.parametrize("absorption", [True, False])
def test_the_box_holds_the_crystals_couplings(name, absorption):
    crystal = MATERIALS[name]()
    limit = 2 * np.ceil(2.0 * np.linalg.norm(crystal.lattice.numpy(), axis=1)).astype(int)
    box = coupling_box(crystal, limit, ENERGY, absorption)
    hkl = np.random.default_rng(0).integers(-limit, limit + 1, (400, 3))
    hkl[:27] = np.indices((3, 3, 3)).reshape(3, -1).T - 1  # the strongest
    expected = crystal.coupling_coefficients(hkl, ENERGY, absorption=absorption).numpy()
    found = box[tuple((hkl + limit).T)]
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", MATERIALS)
def test_intensities_are_those_of_diffract(name):
    crystal = MATERIALS[name]()
    for orientation in (
        zone_axis(crystal, (1, 1, 0), 0.4),
        random_orientation(np.random.default_rng(3)),
    ):
        waves = torch.tensor([[0.0, 0.0], [0.1, -0.05]], dtype=torch.float64)
        simulator = BraggSimulator(crystal, ENERGY, q_max=1.5, s_max=0.03)
        beams, intensities = simulator(orientation, [100.0, 700.0], waves)
        expected = diffract(crystal, beams, ENERGY, [100.0, 700.0], incidence=waves)
        np.testing.assert_allclose(intensities, expected.abs().square(), atol=2e-5)


def test_beams_are_those_of_select_beams():
    crystal = MATERIALS["Li2MnO3"]()
    orientation = random_orientation(np.random.default_rng(5))
    limits = {"s_max": 0.05, "max_beams": 60}
    beams, _ = BraggSimulator(crystal, ENERGY, q_max=1.8, **limits)(orientation, [10.0])
    expected = select_beams(crystal, orientation, ENERGY, g_max=1.8, **limits)
    np.testing.assert_array_equal(beams.hkl, expected.hkl)
    np.testing.assert_allclose(beams.g, expected.g, atol=1e-12)


def test_nothing_is_lost_without_absorption():
    crystal = MATERIALS["SrTiO3"]()
    simulator = BraggSimulator(crystal, ENERGY, absorption=False)
    _, intensities = simulator(zone_axis(crystal, (0, 0, 1)), [0.0, 50.0, 2000.0])
    np.testing.assert_allclose(intensities.sum(1), 1.0, atol=1e-4)
    assert intensities[0, 0] == pytest.approx(1.0)
