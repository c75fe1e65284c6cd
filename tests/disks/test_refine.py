"""Refined positions: uneven disks are centred, invisible and overlapping ones left alone."""

import numpy as np
import pytest

from py4dstem_ml.disks.refine import DiskRefiner

ROWS, COLS = np.indices((96, 96))


def _disk(row, col, radius):
    return np.clip(radius + 0.5 - np.hypot(ROWS - row, COLS - col), 0, 1)


def _refined(pattern, points, radius):
    peaks = np.column_stack([points, np.linspace(1, 0.5, len(points))])
    return DiskRefiner(_disk(48, 48, radius), radius)(pattern[None], [peaks])[0]


@pytest.mark.parametrize(("radius", "error"), [(2.3, 0.15), (4.0, 0.06), (8.5, 0.06)])
def test_a_disk_that_is_brighter_on_one_side_is_centred(radius, error):
    rng = np.random.default_rng(0)
    true = np.array([[24.3, 25.8], [70.6, 30.2], [50.1, 72.45]])
    pattern = np.full((96, 96), 2.0)
    for row, col in true:
        pattern += _disk(row, col, radius) * 400 * (1 + 0.8 * (ROWS - row) / radius)
    pattern = rng.poisson(pattern).astype(float)
    off = true + rng.uniform(-0.4, 0.4, true.shape)
    found = _refined(pattern, off, radius)
    assert np.abs(off - true).max() > 0.2
    np.testing.assert_allclose(found[:, :2], true, atol=error)
    np.testing.assert_array_equal(found[:, 2], np.linspace(1, 0.5, 3))


def test_a_disk_that_nobody_sees_stays_where_the_network_put_it():
    rng = np.random.default_rng(1)
    pattern = rng.poisson(3.0, (96, 96)).astype(float)
    points = np.array([[24.3, 25.8], [70.6, 30.2], [50.1, 72.45]])
    moved = _refined(pattern, points, 4.0)[:, :2] - points
    assert np.abs(moved).max() < 0.3
    flat = _refined(np.zeros((96, 96)), points, 4.0)
    np.testing.assert_allclose(flat[:, :2], points)


def test_overlapping_disks_and_disks_on_the_edge_are_left_alone():
    points = np.array([[40.2, 40.2], [40.2, 45.0], [2.0, 60.0]])
    pattern = sum(300 * _disk(r + 0.5, c + 0.5, 4.0) for r, c in points)
    np.testing.assert_array_equal(_refined(pattern, points, 4.0)[:, :2], points)


def test_every_pattern_of_a_batch_is_refined_by_itself():
    patterns = np.stack([300 * _disk(30.4, 40.0, 4.0), 300 * _disk(30.0, 40.4, 4.0)])
    peaks = [np.array([[30.0, 40.0, 1.0]]), np.empty((0, 3)), np.array([[30.0, 40.0, 1.0]])]
    refiner = DiskRefiner(_disk(48, 48, 4.0), 4.0)
    one, none, two = refiner(patterns[[0, 0, 1]], peaks)
    np.testing.assert_allclose(one[0, :2], [30.4, 40.0], atol=0.03)
    np.testing.assert_allclose(two[0, :2], [30.0, 40.4], atol=0.03)
    assert none.shape == (0, 3)
