"""Intervals hold the truth as often as they say."""

import numpy as np
import pytest

from py4dstem_ml.cbleed.intervals import LEVELS, Calibration


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    place = rng.uniform(-1, 1, (4000, 1))
    # Errors ten times as large on one side, and far from normal.
    errors = rng.standard_t(3, (4000, 2)) * np.where(place > 0, 1.0, 0.1)
    calibration = Calibration.of(place[:2000], errors[:2000])
    restored = Calibration.from_tensors(calibration.tensors())
    widths = restored.intervals(place[2000:])
    for level, width in zip(LEVELS, widths, strict=True):
        for side in (place[2000:, 0] > 0, place[2000:, 0] < 0):
            held = (np.abs(errors[2000:])[side] <= width[side]).mean(0)
            np.testing.assert_allclose(held, level, atol=0.05)
    right = place[2000:, 0] > 0
    assert np.median(widths[0][right]) > 5 * np.median(widths[0][~right])
    with pytest.raises(ValueError, match="20 patterns"):
        Calibration.of(place[:5], errors[:5])


@pytest.mark.parametrize("copies", [1, 4, 12])
def test_copies_of_an_image_do_not_judge_each_other(copies):
    rng = np.random.default_rng(1)

    def drawn(n, copies):
        # An error of the image's own, and a smaller one of each copy's noise.
        place, own = rng.uniform(-1, 1, (n, 1)), rng.normal(size=(n, 1))
        noise = 0.1 * rng.normal(size=(n * copies, 1))
        seen = np.tile(place, (copies, 1)) + 1e-3 * rng.normal(size=(n * copies, 1))
        return seen, np.tile(own, (copies, 1)) + noise

    groups = np.tile(np.arange(400), copies)
    calibration = Calibration.of(*drawn(400, copies), groups)
    place, errors = drawn(4000, 1)
    held = (np.abs(errors) <= calibration.intervals(place)[LEVELS.index(0.9)]).mean()
    assert held == pytest.approx(0.9, abs=0.05)
