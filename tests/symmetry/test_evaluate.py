"""The table: disturbances of the size they claim, accuracies as they are defined."""

import numpy as np
import pytest
from bragg_lists import random_lists

from py4dstem_ml.symmetry import evaluate
from py4dstem_ml.symmetry.dataset import HeldOutLists
from py4dstem_ml.symmetry.prediction import CrystalPrediction


@pytest.fixture
def many():
    return random_lists(300, fewest=20, most=60)


@pytest.fixture
def bag():
    return np.arange(300) // 10


def test_spots_are_lost(many, bag):
    fewer = evaluate.without_spots(0.3)(many, bag)
    assert len(fewer.peaks) / len(many.peaks) == pytest.approx(0.7, abs=0.02)
    assert len(fewer) == 300 and np.diff(fewer.offsets).min() >= 5


def test_spurious_spots_are_added(many, bag):
    more = evaluate.with_spurious(0.2)(many, bag)
    assert len(more.peaks) / len(many.peaks) == pytest.approx(1.2, abs=0.02)
    np.testing.assert_array_equal(more[7][: len(many[7])], many[7])
    assert np.hypot(*more.peaks[:, :2].T).max() < 2.0


def test_calibration_errs_by_crystal(many, bag):
    other = evaluate.miscalibrated(0.02)(many, bag)
    ratio = other.peaks[:, 0] / many.peaks[:, 0]
    assert set(np.round(ratio, 6)) == {0.98, 1.02}
    for number in range(30):
        assert len(set(np.round(ratio[bag[many.owner] == number], 6))) == 1


def test_a_second_grain_has_its_share(many, bag):
    two = evaluate.with_second_grain(0.3)(many, bag)
    assert len(two) == 300 and len(two.peaks) == 2 * len(many.peaks)
    own = two[7][: len(many[7])]
    np.testing.assert_allclose(own[:, :2], many[7][:, :2], rtol=1e-6)
    assert own[:, 2].sum() == pytest.approx(0.7, rel=1e-4)
    assert two[7][:, 2].sum() == pytest.approx(1.0, rel=1e-4)


def test_second_grains_are_counted():
    one, two = _called(0, 0, 0, 0), _called(0, 0)
    one.mixed[:], two.mixed[:] = [0.1, 0.2, 0.3, 0.7], [0.25, 0.9]
    row = evaluate.second_grain_row("a", evaluate.Scores(None, one, one), two)
    assert (row["flagged, two grains"], row["flagged, one grain"]) == (0.5, 0.25)
    assert row["two above one"] == pytest.approx(6 / 8)
    one.mixed[:], two.mixed[:] = 0.5, 0.5
    row = evaluate.second_grain_row("a", evaluate.Scores(None, one, one), two)
    assert row["two above one"] == pytest.approx(0.5)


def _called(*systems):
    found = CrystalPrediction.nothing(len(systems))
    found.probabilities = np.full((len(systems), 7), 0.05, np.float32)
    found.probabilities[np.arange(len(systems)), systems] = 0.7
    found.valid[:] = True
    return found


def test_accuracies():
    truth = np.array([0, 0, 0, 1, 6])
    plain, balanced = evaluate.accuracy(_called(0, 0, 1, 1, 6), truth, triclinic=True)
    assert (plain, balanced) == (pytest.approx(0.8), pytest.approx((2 / 3 + 1 + 1) / 3))
    plain, balanced = evaluate.accuracy(_called(0, 0, 1, 1, 0), truth, triclinic=False)
    assert (plain, balanced) == (pytest.approx(0.75), pytest.approx((2 / 3 + 1) / 2))


def test_triclinic_calls_go_to_the_next_best():
    found = _called(6)
    found.probabilities[0, 3] = 0.2
    assert evaluate.accuracy(found, np.array([3]), triclinic=False)[0] == 1.0


def test_confusion_is_by_what_is_true():
    shares = evaluate.confusion(_called(0, 1, 1, 3), np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(shares[0, :2], [0.5, 0.5])
    np.testing.assert_allclose(shares[1, [1, 3]], [0.5, 0.5])
    assert shares[2:].sum() == 0


def test_rows_by_system_are_over_what_is_called_so():
    found = _called(0, 0, 1)
    found.space_group[:] = [225, 225, 194]
    found.lattice[:] = [[4, 4, 4], [5, 5, 5], [3, 3, 5]]
    test = HeldOutLists(
        random_lists(3), np.arange(3), np.array([0, 1, 1]), np.array([225, 194, 194]),
        np.array([[4.1, 4.1, 4.1], [3, 3, 5], [3, 3, 5.5]]),
    )  # fmt: skip
    rows = evaluate.system_rows("x", evaluate.Scores(test, found, found))
    cubic, hexagonal = rows[0], rows[1]
    assert cubic["precision, single"] == 0.5 and cubic["group if right, zones"] == 1.0
    assert cubic["|da| Å, single"] == pytest.approx((0.1 + 2.0) / 2)
    assert hexagonal["|dc| Å, zones"] == pytest.approx(0.5)
    assert np.isnan(rows[4]["group, single"])
