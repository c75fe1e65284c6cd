"""The lattice fit by hand-made lattices, the stack by its own geometry."""

from dataclasses import replace

import numpy as np
import pytest

from py4dstem_ml.disks import strain
from py4dstem_ml.disks.strain import StackConfig, fit_lattice, strain_map

CENTRE = (64.0, 64.0)
REFERENCE = StackConfig().reference
SMALL = StackConfig(
    layers=((25.0, 0.01, 0.5),), positions=5, rows=1, margin=25.0, size=64, thicknesses=(20.0, 40.0)
)


def lattice_peaks(deformation=None, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    hk = np.mgrid[-3:4, -3:4].reshape(2, -1).T
    vectors = REFERENCE @ np.linalg.inv(np.eye(2) if deformation is None else deformation)
    points = hk @ vectors + [64.3, 63.8]
    intensity = np.exp(-np.hypot(*hk.T) / 2)
    peaks = np.column_stack([points + noise * rng.normal(size=points.shape), intensity])
    return peaks[((peaks[:, :2] > 1) & (peaks[:, :2] < 126)).all(axis=1)]


def test_a_lattice_is_found_among_false_peaks():
    rng = np.random.default_rng(2)
    true = lattice_peaks(noise=0.05)
    false = np.column_stack([rng.uniform(0, 127, (15, 2)), rng.uniform(0, 0.2, 15)])
    fit = fit_lattice(np.vstack([true, false]), REFERENCE, CENTRE)
    assert fit is not None
    assert np.allclose(fit[0], [64.3, 63.8], atol=0.05)
    assert np.allclose(fit[1:], REFERENCE, atol=0.03)


@pytest.mark.parametrize("keep", [0, 3, 5])
def test_too_few_peaks_make_no_lattice(keep):
    assert fit_lattice(lattice_peaks()[:keep], REFERENCE, CENTRE) is None


def test_a_row_of_peaks_makes_no_lattice():
    row = np.array([[64 + 5 * REFERENCE[0, 0] * 0, 64.0, 1]] * 1)
    steps = np.arange(-4, 5)[:, None] * REFERENCE[0] + CENTRE
    peaks = np.column_stack([steps, np.ones(9)])
    assert fit_lattice(np.vstack([peaks, row]), REFERENCE, CENTRE) is None


def test_strain_is_that_of_real_space_and_the_axes_are_right():
    deformation = np.array([[1.012, 0.003], [0.003, 0.995]])
    lists = [lattice_peaks(), lattice_peaks(deformation), np.empty((0, 3))]
    measured = strain_map(lists, REFERENCE, CENTRE, np.array([True, False, False]))
    assert np.allclose(measured[0], 0, atol=1e-12)
    assert np.allclose(measured[1], [0.012, -0.005, 0.003], atol=1e-9)
    assert np.isnan(measured[2]).all()


def test_no_reference_no_strain():
    measured = strain_map([lattice_peaks()], REFERENCE, CENTRE, np.array([False]))
    assert np.isnan(measured).all()


@pytest.fixture(scope="module")
def scans():
    return strain.simulate_stacks(SMALL)


def test_the_stack_is_scanned_from_substrate_over_the_layer_to_substrate(scans):
    assert [scan.name for scan in scans] == [
        "aligned 20 Å", "aligned 40 Å", "helical 20 Å", "helical 40 Å",
    ]  # fmt: skip
    for scan in scans:
        assert scan.patterns.shape == (5, 64, 64)
        assert scan.patterns.sum(axis=(1, 2)) == pytest.approx(np.ones(5), abs=1e-5)
    truth = scans[0].truth
    assert truth.argmax() == 2 and 0.007 < truth[2] < 0.01
    assert np.abs(truth[[0, -1]]).max() < 1e-3
    assert np.allclose(truth, truth[::-1], atol=3e-4)


def test_disks_stand_where_the_strain_puts_them():
    config = replace(SMALL, layers=((100.0, 0.05, 0.25),), positions=3, thicknesses=(20.0,))
    aligned, _ = strain.simulate_stacks(config)
    assert np.allclose(aligned.truth, [0, 0.05, 0], atol=2e-3)
    row, col = np.mgrid[:64, :64]
    for pattern, e in zip(aligned.patterns, aligned.truth, strict=True):
        heights = []
        for side in (-1, 1):  # the disks (1,-1,1) and (1,-1,-1)
            place = side * config.reference[0, 0], config.reference[0, 1]
            disk = np.hypot(row - 32 - place[0], col - 32 - place[1]) < 4.5
            heights.append((pattern * row)[disk].sum() / pattern[disk].sum())
        expected = 2 * config.reference[0, 0] / (1 + e)
        assert heights[1] - heights[0] == pytest.approx(expected, abs=0.15)


def test_evaluation_of_a_finder_that_knows(scans):
    def finder(patterns, probe):
        truth = next(truths)
        lists = []
        for e in truth:
            hk = np.mgrid[-1:2, -1:2].reshape(2, -1).T
            points = hk @ (SMALL.reference @ np.diag([1 / (1 + e), 1.0])) + 32
            lists.append(np.column_stack([points, np.ones(9)]))
        lists[1] = lists[1][:2]  # lost
        return lists

    truths = iter([scan.truth for scan in scans])
    rows = strain.evaluate_strain(finder, scans)
    assert [row["lost"] for row in rows] == [1] * 4
    assert max(row["e_xx %"] for row in rows) < 0.05
    assert max(row["e_yy %"] for row in rows) < 0.01
    assert "| helical 40 Å | stub |" in strain.strain_table({"stub": rows})


def test_scans_survive_their_file(scans, tmp_path):
    path = tmp_path / "scans.npz"
    strain.save_scans(path, scans)
    read = strain.load_scans(path, SMALL)
    assert [scan.name for scan in read] == [scan.name for scan in scans]
    assert (read[1].patterns == scans[1].patterns).all()
    with pytest.raises(ValueError, match="another positions"):
        strain.load_scans(path, replace(SMALL, positions=6))
