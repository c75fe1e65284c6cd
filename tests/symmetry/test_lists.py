"""Flat lists of any length."""

import numpy as np
import pytest

from py4dstem_ml.symmetry.lists import BraggLists, normalised


@pytest.fixture
def three():
    return BraggLists.pack(
        [[[0.1, 0, 1], [0.2, 0, 3]], [], [[0.3, 0, 2], [0.4, 0, 5], [0.5, 0, 1]]]
    )


def test_take_and_join(three):
    some = three.take([2, 0, 0])
    assert [len(some[i]) for i in range(3)] == [3, 2, 2]
    np.testing.assert_array_equal(some[0], three[2])
    joined = BraggLists.joined([three, some])
    assert len(joined) == 6
    np.testing.assert_array_equal(joined[3], three[2])
    assert len(three.take([])) == 0


def test_padded_takes_the_first(three):
    padded = three.by_intensity().padded(2)
    assert padded.shape == (3, 2, 3)
    np.testing.assert_allclose(padded[..., 2], [[3, 1], [0, 0], [5, 2]])
    np.testing.assert_allclose(padded[2, 0, 0], 0.4)


def test_blocks_are_the_whole(three):
    parts = list(three.blocks(2))
    assert [len(part) for part in parts] == [2, 1]
    np.testing.assert_array_equal(BraggLists.joined(parts).peaks, three.peaks)


def test_normalised_sums_are_one(three):
    one = normalised(three)
    np.testing.assert_allclose([one[i][:, 2].sum() for i in (0, 2)], 1.0)
    assert len(one[1]) == 0


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="list 1 has shape"):
        BraggLists.pack([[[0, 0, 1]], [[0, 1]]])
