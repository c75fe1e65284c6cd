"""From measured lists to crystals: what is read, what is masked, what is refused."""

import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from bragg_lists import random_lists

from py4dstem_ml import CrystalSystemPredictor, WeightsError, weights
from py4dstem_ml.symmetry.lists import BraggLists
from py4dstem_ml.symmetry.peakset import _parts
from py4dstem_ml.symmetry.predict import COLUMNS, usable


@pytest.fixture(params=["network_file", "forest_file"])
def predictor(request):
    return CrystalSystemPredictor(request.getfixturevalue(request.param), device="cpu")


def _with(lists, *others):
    return BraggLists.joined([lists, BraggLists.pack(others)])


def test_lists_with_too_little_are_masked(predictor, lists):
    good = lists[0].tolist()
    given = _with(lists, [], good[:4], [[0.0, 0.01, 9.0], *good[:4]], [*good, [0, 0.01, 1e3]])
    found = predictor.predict(given, progress=False)
    assert found.valid.tolist() == [True] * len(lists) + [False, False, False, True]
    assert (found.system[-4:-1] == -1).all() and np.isnan(found.lattice[-4:-1]).all()
    np.testing.assert_allclose(found.probabilities[-1], found.probabilities[0], atol=1e-6)
    alone = predictor.predict(lists, progress=False)
    np.testing.assert_allclose(found.probabilities[: len(lists)], alone.probabilities, atol=1e-6)


@pytest.mark.parametrize("bad", [[np.nan, 0.1, 1.0], [0.1, np.inf, 1.0], [0.3, 0.1, -1.0]])
def test_lists_with_impossible_peaks_are_masked_and_counted(predictor, lists, bad, caplog):
    given = _with(lists, [*lists[0].tolist(), bad])
    with caplog.at_level(logging.WARNING):
        found = predictor.predict(given, progress=False)
    assert not found.valid[-1] and found.valid[:-1].all()
    assert "1 of 13 patterns" in caplog.text


def test_peaks_in_pixels_are_refused(predictor, lists):
    pixels = BraggLists(lists.peaks * [50, 50, 1], lists.offsets)
    with pytest.raises(ValueError, match="are the peaks in pixels"):
        predictor.predict(pixels, progress=False)
    with pytest.raises(ValueError, match="are the peaks in pixels"):
        predictor.aggregate(pixels)
    assert predictor(pixels[0])[0] == -1  # mapped one by one they are masked


def test_peaks_all_near_are_warned_of(predictor, lists, caplog):
    with caplog.at_level(logging.WARNING):
        predictor.predict(BraggLists(lists.peaks * [0.12, 0.12, 1], lists.offsets), progress=False)
    assert "is the size of a pixel" in caplog.text


def test_plain_arrays_are_taken(predictor, lists):
    arrays = [lists[i] for i in range(len(lists))]
    one, other = (predictor.predict(each, progress=False) for each in (arrays, lists))
    np.testing.assert_array_equal(one.probabilities, other.probabilities)
    assert predictor.aggregate(arrays).valid.tolist() == [True]


def test_peaks_beyond_the_basis_are_no_reason_to_refuse(predictor, lists):
    far = _with(lists, *[[*lists[i].tolist(), *([[2.5, 0.1, 1.0]] * 99)] for i in range(20 % 12)])
    assert predictor.predict(far, progress=False).valid.all()


def test_the_papers_rule_takes_the_brightest(predictor, lists):
    bright = CrystalSystemPredictor(predictor.model, device="cpu", direct_beam="brightest")
    without = BraggLists.pack([lists[i][1:] for i in range(len(lists))])
    np.testing.assert_allclose(
        bright.predict(lists, progress=False).probabilities,
        predictor.predict(without, progress=False).probabilities, atol=1e-6,
    )  # fmt: skip


def test_an_empty_scan_is_all_masked(predictor):
    found = predictor.predict(BraggLists.pack([[]] * 5), progress=False)
    assert not found.valid.any() and len(found) == 5
    assert not predictor.aggregate(BraggLists.pack([[]] * 5)).valid.any()
    assert len(predictor.predict(BraggLists.pack([]), progress=False)) == 0


def test_counts_and_order_of_peaks_do_not_matter(predictor, lists):
    rng = np.random.default_rng(0)
    other = BraggLists.pack([rng.permutation(lists[i]) * [1, 1, 777.0] for i in range(len(lists))])
    one, two = (predictor.predict(each, progress=False) for each in (lists, other))
    np.testing.assert_allclose(one.probabilities, two.probabilities, atol=2e-3)


def test_a_single_list_is_called(predictor, lists):
    row = dict(zip(COLUMNS, predictor(lists[2]), strict=True))
    found = predictor.predict(lists, progress=False)
    assert row["system"] == found.system[2] and row["space_group"] == found.space_group[2]
    np.testing.assert_allclose(row["a"], found.lattice[2, 0], rtol=1e-4)
    assert row["p_cubic"] == pytest.approx(found.probabilities[2, 0], abs=1e-4)
    assert predictor(np.zeros((0, 3)))[0] == -1


def test_bags(predictor, lists):
    bag = np.array([0, 0, 0, 2, 2, 2, 2, -1, -1, 3, 3, 3])
    found = predictor.aggregate(lists, bag)
    assert found.valid.tolist() == [True, False, True, True]
    one = predictor.aggregate(lists.take([3, 4, 5, 6]))
    np.testing.assert_allclose(found.probabilities[2], one.probabilities[0], atol=1e-3)
    with pytest.raises(ValueError, match="bag has shape"):
        predictor.aggregate(lists, bag[:-1])


def test_a_large_bag_is_read_in_parts(predictor):
    many = random_lists(70)
    found = predictor.aggregate(many)
    assert found.probabilities.sum() == pytest.approx(1.0, abs=1e-4)
    assert np.isfinite(found.lattice).all()


def test_parts_are_even_and_of_one_bag():
    bag = np.array([5, 1, 5] * 20 + [2])
    part, owner = _parts(bag)
    sizes = np.bincount(part)
    assert sizes.max() <= 16 and sizes.sum() == 61
    assert all(len(set(bag[part == i])) == 1 for i in range(len(sizes)))
    assert [int(o) for o in owner] == [int(bag[part == i][0]) for i in range(len(sizes))]


def test_in_threads_and_pickled(predictor, lists):
    expected = predictor(lists[0])
    again = pickle.loads(pickle.dumps(predictor))
    np.testing.assert_allclose(again(lists[0]), expected, atol=1e-5)
    fresh = CrystalSystemPredictor(predictor.model, device="cpu")
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(fresh, [lists[0]] * 8))
    for row in rows:
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_bad_arguments_and_weights_are_refused(tmp_path, lists):
    with pytest.raises(ValueError, match="min_peaks"):
        CrystalSystemPredictor(min_peaks=0)
    path = tmp_path / "a.safetensors"
    weights.save(path, {"x": torch.zeros(1)}, {})
    with pytest.raises(WeightsError, match="does not hold a model of crystals"):
        CrystalSystemPredictor(path)(lists[0])
    with pytest.raises(ValueError, match="has shape"):
        CrystalSystemPredictor(path)(np.zeros((3, 2)))


def test_far_peaks_and_direct_beams_do_not_count():
    peaks = [[0.01, 0, 9], [0.5, 0, 1], [0, 0.5, 1], [2.5, 0, 1]]
    lists, good = usable(BraggLists.pack([peaks]), 2)
    assert good.tolist() == [True]
    np.testing.assert_allclose(lists[0][:, 0], [0.5, 0.0])
    assert usable(BraggLists.pack([peaks]), 3)[1].tolist() == [False]
