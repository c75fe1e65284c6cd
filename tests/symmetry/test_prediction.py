"""How votes become confidences, and several predictions one."""

import numpy as np
import pytest

from py4dstem_ml.symmetry.calibration import (
    best_sharpness,
    calibration_error,
    reliability,
    sharpened,
)
from py4dstem_ml.symmetry.prediction import CrystalPrediction, difference_weighted, top_two


@pytest.mark.parametrize(
    ("first", "second", "lead"), [(47, 20, 0.3375), (26, 19, 0.0875), (24, 21, 0.0375)]
)
def test_the_papers_examples(first, second, lead):
    rest = 80 - first - second
    votes = np.array([[second, rest // 3, first, rest // 3, rest - 2 * (rest // 3)]]) / 80
    np.testing.assert_allclose(top_two(votes), [[first / 80], [lead]], rtol=1e-5)


def test_one_class_leads_by_all_it_has():
    np.testing.assert_allclose(top_two(np.ones((2, 1))), 1.0)


def test_difference_weights_add_up():
    label, lead = np.array([0, 1, 1, 2, 0]), np.array([0.5, 0.2, 0.2, 0.0, 0.3])
    shares = difference_weighted(label, lead, np.array([0, 0, 0, 1, 2]), 3, 3)
    np.testing.assert_allclose(shares[0], np.array([0.5, 0.4, 0.0]) / 0.9, rtol=1e-6)
    np.testing.assert_allclose(shares[1], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(shares[2], [1, 0, 0])


def test_nothing_is_known_at_first():
    nothing = CrystalPrediction.nothing(3)
    assert nothing.system.tolist() == [-1, -1, -1] and nothing.system_name.tolist() == [""] * 3
    known = CrystalPrediction.nothing(1)
    known.valid[:] = True
    known.probabilities[0] = [0.1, 0.9, 0, 0, 0, 0, 0]
    nothing.put(np.array([1]), known)
    assert nothing.system_name.tolist() == ["", "hexagonal", ""]
    assert nothing.take(np.array([1, 0])).system.tolist() == [1, -1]


@pytest.fixture(scope="module")
def overconfident():
    """Probabilities, those same to the third power, and labels drawn from the former."""
    rng = np.random.default_rng(0)
    true = rng.dirichlet(np.full(7, 0.7), 20000)
    label = (true.cumsum(1) > rng.random((len(true), 1))).argmax(1)
    return true, sharpened(true, 3.0), label


def test_calibration_undoes_overconfidence(overconfident):
    true, claimed, label = overconfident
    power = best_sharpness(claimed, label)
    assert power == pytest.approx(1 / 3, rel=0.05)
    assert calibration_error(claimed, label) > 0.1
    assert calibration_error(sharpened(claimed, power), label) < 0.02
    assert calibration_error(true, label) < 0.02


def test_reliability_counts_everything(overconfident):
    true, _, label = overconfident
    mean, accuracy, share = reliability(true, label)
    assert share.sum() == pytest.approx(1.0)
    right = (true.argmax(1) == label).mean()
    assert np.nansum(accuracy * share) == pytest.approx(right)
    assert np.nansum(mean * share) == pytest.approx(true.max(1).mean())
