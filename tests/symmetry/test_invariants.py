"""What the network sees does not change with the frame of the pattern, and says what it should."""

import math

import numpy as np
import pytest
import torch
from bragg_lists import random_lists

from py4dstem_ml.symmetry.invariants import SPECTRUM_BINS, SPECTRUM_STEP, Invariants

INVARIANTS = Invariants()


@pytest.fixture
def peaks():
    return torch.from_numpy(random_lists().padded(64)).double()


def _moved(peaks, matrix):
    moved = peaks.clone()
    moved[..., :2] = peaks[..., :2] @ torch.tensor(matrix, dtype=torch.float64).T
    return moved


def _turn(angle):
    return [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]


@pytest.mark.parametrize("matrix", [_turn(0.3), _turn(2.0), [[-1, 0], [0, 1]]])
def test_a_turn_or_mirror_changes_nothing(peaks, matrix):
    # The mirror images are tried in steps of 1 degree, and histograms have edges.
    turned = INVARIANTS(_moved(peaks, matrix))
    difference = (turned - INVARIANTS(peaks)).abs()
    assert difference.max() < 0.05 and difference.mean() < 2e-4


def test_scale_of_intensity_and_padding_change_nothing(peaks):
    brighter = peaks.clone()
    brighter[..., 2] *= 1e4
    torch.testing.assert_close(INVARIANTS(brighter), INVARIANTS(peaks), atol=1e-4, rtol=1e-3)
    shorter = torch.from_numpy(random_lists(most=30).padded(40))
    longer = torch.cat([shorter, torch.zeros(len(shorter), 24, 3)], dim=1)
    torch.testing.assert_close(INVARIANTS(longer), INVARIANTS(shorter), atol=1e-5, rtol=1e-4)


def test_blocks_do_not_matter(peaks):
    many = peaks.repeat(11, 1, 1)
    torch.testing.assert_close(INVARIANTS(many)[:12], INVARIANTS(peaks))


def test_nothing_gives_finite_numbers():
    assert torch.isfinite(INVARIANTS(torch.zeros(2, 64, 3))).all()
    assert torch.isfinite(INVARIANTS(torch.tensor([[[0.5, 0.0, 1.0]]]))).all()
    assert len(INVARIANTS(torch.zeros(0, 64, 3))) == 0


def test_ratios_are_those_of_the_list():
    peaks = torch.tensor([[[0.5, 0, 1.0], [0, 0.5 * math.sqrt(2), 1.0]]])
    start = INVARIANTS.bins * INVARIANTS.orders + 12 + 7 + 2 * INVARIANTS.orders
    ratios = INVARIANTS(peaks)[0, start : start + 200].square()
    assert ratios.sum() == pytest.approx(1.0, abs=1e-5)
    mean = float((ratios * torch.arange(200)).sum()) * INVARIANTS.ratio_step
    assert mean == pytest.approx(math.log(2) / 2, abs=1e-4)


def test_a_square_net_repeats_after_a_quarter_turn():
    net = [(h, k) for h in range(-3, 4) for k in range(-3, 4) if (h, k) != (0, 0)]
    square = torch.tensor([[[0.3 * h, 0.3 * k, 1.0] for h, k in net]])
    oblong = torch.tensor([[[0.3 * h, 0.4 * k, 1.0] for h, k in net]])
    quarter = INVARIANTS.bins * INVARIANTS.orders + 12 + 2
    assert INVARIANTS(square)[0, quarter] == pytest.approx(1.0, abs=1e-4)
    assert INVARIANTS(oblong)[0, quarter] < 0.8


def test_the_spectrum_says_where_spots_are():
    spectrum = INVARIANTS.spectrum(torch.tensor([[[0.6, 0, 1.0], [0, 1.2, 1.0]]]))[0]
    assert spectrum.shape == (SPECTRUM_BINS,) and spectrum.sum() == pytest.approx(1.0, abs=1e-5)
    where = np.flatnonzero(spectrum.numpy() > 0.05)
    expected = np.log(np.array([0.6, 1.2]) / 0.06) / SPECTRUM_STEP
    assert all(np.abs(where - x).min() < 1 for x in expected)
    assert all(np.abs(expected - x).min() < 1 for x in where)
