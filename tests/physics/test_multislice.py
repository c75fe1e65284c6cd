"""Nanobeam patterns equal to those of multislice: frozen patterns of abTEM, and one live run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.make_abtem_cbed import CASES, DATA, ENERGY_EV, SHAPE, Case, simulate

from py4dstem_ml.physics.bloch import select_beams
from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.orientations import from_direction
from py4dstem_ml.physics.patterns import Detector, aperture_radius, cbed, disk_amplitudes


def bloch_waves(case: Case) -> np.ndarray:
    """Return our pattern of one case."""
    a, c = case.cell
    # abTEM's z runs with the beam, ours against it: the mirror image, seen from the other side.
    mirrored = np.array(case.positions) * [1, 1, -1]
    crystal = Crystal(np.diag([a, a, c]), case.numbers, mirrored, b_iso=case.b_iso)
    # A beam tilted towards (row, col) on a fixed foil is a crystal and a foil tilted back.
    rows, cols = np.tan(1e-3 * np.array(case.tilt_mrad))
    x, y = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    z = np.array([-rows, -cols, 1.0]) / np.sqrt(1.0 + rows**2 + cols**2)
    orientation = from_direction(z)
    # Rotate about z so that the rows run along x as nearly as they can.
    turn = np.arctan2(x @ orientation[:, 1], x @ orientation[:, 0])
    orientation = from_direction(z, turn)
    assert orientation[:, 1] @ y > 0.999
    beams = select_beams(crystal, orientation, ENERGY_EV, g_max=2.5, s_max=0.1)
    amplitudes = disk_amplitudes(
        crystal,
        beams,
        ENERGY_EV,
        [case.thickness],
        case.semiangle_mrad,
        case.pixel_size,
        defocus=-case.thickness if case.focus_at_exit else 0.0,
        foil_normal=torch.as_tensor(orientation.T @ [0.0, 0.0, 1.0]),
        absorption=False,
    )
    detector = Detector(SHAPE, case.pixel_size)
    return cbed(
        amplitudes,
        beams,
        detector,
        case.semiangle_mrad,
        ENERGY_EV,
        probe_position=case.probe_position,
    )[0].numpy()


def on_disks(case: Case) -> np.ndarray:
    """Return which pixels lie on the disks of the zone's reflections."""
    radius = aperture_radius(case.semiangle_mrad, ENERGY_EV) / case.pixel_size
    spacing = case.repeats[0]
    rows, cols = ((np.arange(n) - n // 2 + spacing / 2) % spacing - spacing / 2 for n in SHAPE)
    return np.hypot(rows[:, None], cols[None, :]) <= radius + 1.0


def assert_alike(case: Case, reference: np.ndarray) -> None:
    # What remains is the choice of beams: some percent of the strongest pixel hang on those of
    # |g| > 2 1/Å and of higher Laue zones, all of which multislice holds.
    ours = bloch_waves(case)
    disks = on_disks(case)
    assert np.corrcoef(ours[disks], reference[disks])[0, 1] >= 0.99
    assert np.abs(ours - reference).max() < 0.05 * reference.max()
    assert ours.sum() == pytest.approx(reference.sum(), abs=0.02)
    assert reference[~disks].sum() < 0.01


def frozen() -> tuple[np.ndarray, dict]:
    with np.load(Path(DATA), allow_pickle=False) as file:
        return file["patterns"].astype(np.float64) / 1e3, json.loads(str(file["provenance"]))


@pytest.mark.parametrize("index", range(len(CASES)), ids=[case.name for case in CASES])
def test_cbed_is_that_of_multislice(index: int) -> None:
    patterns, provenance = frozen()
    recipe = provenance["cases"][index]
    assert recipe["name"] == CASES[index].name, "make the frozen patterns anew"
    assert_alike(Case(**recipe), patterns[index])


def test_frozen_patterns_hold_dynamics_that_a_kinematical_pattern_lacks() -> None:
    # Otherwise the comparison would prove little: the direct beam has lost most of itself.
    patterns, _ = frozen()
    for case, pattern in zip(CASES, patterns, strict=True):
        radius = aperture_radius(case.semiangle_mrad, ENERGY_EV) / case.pixel_size
        rows, cols = np.indices(SHAPE) - np.array(SHAPE)[:, None, None] // 2
        assert pattern[np.hypot(rows, cols) < radius + 1].sum() < 0.9


@pytest.mark.slow
def test_a_live_run_of_abtem() -> None:
    pytest.importorskip("abtem")
    case = Case(
        "rock salt",
        (5.64, 5.64),
        [11] * 4 + [17] * 4,
        CASES[0].positions[:4] + [[0.5, 0.5, 0.5], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]],
        (10, 30),
        64,
        8,
    )
    assert_alike(case, simulate(case))
