"""The classical finder finds plain disks, and its tuning takes the best."""

import numpy as np
import pytest
from correlation import disk, draw

from py4dstem_ml.toolkits.cross_correlation import CrossCorrelationFinder, settings, tune

SHAPE, RADIUS = (96, 96), 4.0
SPOTS = np.array([[48, 48, 1.0], [24.3, 48.2, 0.5], [70.4, 30.1, 0.25], [30.2, 75.6, 0.1]])


@pytest.fixture(scope="module")
def probe():
    return disk(SHAPE, 48, 48, RADIUS)


@pytest.fixture(scope="module")
def pattern():
    return draw(SHAPE, SPOTS, disk, RADIUS)


@pytest.mark.parametrize("subpixel", ["poly", "multicorr"])
@pytest.mark.parametrize("kernel_radii", [(0.0, 4.0), (1.0, 2.0)])
def test_plain_disks_are_found(probe, pattern, subpixel, kernel_radii):
    finder = CrossCorrelationFinder(
        subpixel, kernel_radii=kernel_radii, min_relative_intensity=0.05
    )
    first, second = finder(np.stack([pattern, 3 * pattern]), probe)
    assert np.allclose(first, second, atol=1e-6)
    assert len(first) == len(SPOTS)
    assert np.allclose(first[:, :2], SPOTS[:, :2], atol=0.3)
    assert np.allclose(first[:, 2], SPOTS[:, 2], atol=0.1)


def test_the_root_is_the_root(probe, pattern):
    plain = CrossCorrelationFinder()(pattern[None], probe)[0]
    root = CrossCorrelationFinder(reading="root")(pattern[None], probe)[0]
    assert np.allclose(root[:, 2], plain[:, 2] ** 0.5)


def test_an_empty_pattern_has_no_peaks(probe):
    assert CrossCorrelationFinder()(np.zeros((1, *SHAPE)), probe)[0].shape == (0, 3)


def test_tuning_takes_the_best_for_both_refinements():
    tuned = tune(lambda finder: -abs(finder.min_spacing - 1.0) - finder.min_relative_intensity)
    assert {finder.subpixel for finder in tuned.values()} == {"poly", "multicorr"}
    for finder in tuned.values():
        assert (finder.min_spacing, finder.min_relative_intensity) == (1.0, 1e-4)
    assert len(set(settings())) == 96
