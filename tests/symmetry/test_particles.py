"""Particles in a dark field."""

import numpy as np
import pytest

from py4dstem_ml.symmetry import BraggLists, dark_field, find_particles


@pytest.fixture
def three():
    row, col = np.ogrid[:40, :50]
    places, widths = [(10, 10), (12, 30), (30, 22)], [2, 3, 4]
    return sum(
        np.exp(-((row - r) ** 2 + (col - c) ** 2) / (2 * w**2))
        for (r, c), w in zip(places, widths, strict=True)
    )


def test_particles_are_found_and_apart(three):
    labels = find_particles(three)
    assert sorted(set(labels.ravel())) == [0, 1, 2, 3]
    assert len({labels[10, 10], labels[12, 30], labels[30, 22]}) == 3
    assert labels[0, 0] == 0
    assert (labels == labels[30, 22]).sum() > (labels == labels[10, 10]).sum()


def test_maxima_alone(three):
    assert (find_particles(three, relative_height=1.0) > 0).sum() == 3


def test_a_threshold_and_the_border(three):
    assert find_particles(three, min_intensity=2.0).max() == 0
    edge = np.zeros((9, 9))
    edge[0, 4] = 1.0
    assert find_particles(edge).max() == 0
    assert find_particles(np.zeros((5, 5))).max() == 0


def test_other_images_are_refused():
    for image in (np.zeros(4), np.full((3, 3), np.nan)):
        with pytest.raises(ValueError, match="two-dimensional"):
            find_particles(image)


def test_a_dark_field_sums_the_annulus():
    lists = BraggLists.pack([[[0, 0, 9], [0.5, 0, 2], [0, 1.5, 3]], [], [[0.7, 0, 1]], []])
    np.testing.assert_allclose(dark_field(lists, (2, 2)), [[5, 0], [1, 0]])
    np.testing.assert_allclose(dark_field(lists, (2, 2), (1.0, 2.0)), [[3, 0], [0, 0]])
    with pytest.raises(ValueError, match="do not fill"):
        dark_field(lists, (3, 2))
