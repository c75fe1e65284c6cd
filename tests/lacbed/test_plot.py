"""Plots draw into given axes and into new ones."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from py4dstem_ml.lacbed.plot import plot_by_group, plot_comparison


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture
def picture():
    return np.random.default_rng(0).random((12, 12))


def test_a_comparison_into_axes_and_new(picture):
    given = plt.figure().subplots(1, 4)
    fig, axes = plot_comparison(picture, picture, picture, ax=given)
    assert fig is given[0].figure and axes is given
    fig, axes = plot_comparison(picture, picture, picture)
    assert len(axes) == 4 and fig is not given[0].figure


def test_a_comparison_stretches_and_scores(picture):
    _, axes = plot_comparison(picture[:8, :8], 5 * picture - 2, picture.T, half_width=3.0)
    shown = [ax.images[0].get_array() for ax in axes]
    np.testing.assert_array_equal(shown[0], picture[:8, :8])
    stretched = (picture - picture.min()) / np.ptp(picture)
    np.testing.assert_allclose(shown[1], stretched)
    np.testing.assert_allclose(shown[2], stretched.T)
    np.testing.assert_allclose(shown[3], (stretched - stretched.T) ** 2, atol=1e-12)
    r = 0.5 + 0.5 * np.corrcoef(picture.ravel(), picture.T.ravel())[0, 1]
    assert f"R = {r:.3f}" in axes[1].get_title()
    assert axes[1].images[0].get_extent() == [-3.0, 3.0, 3.0, -3.0]


def test_groups_are_dots_about_their_means():
    given = plt.figure().subplots()
    fig, ax = plot_by_group([0.9, 0.8, 0.4], [225, 225, 221], ax=given)
    assert (fig, ax) == (given.figure, given)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["221\n1", "225\n2"]
    means = [segment[0][1] for segment in ax.collections[0].get_segments()]
    np.testing.assert_allclose(means, [0.4, 0.85])
    assert ax.get_ylim() == (0.4, 1.0)
    assert len(ax.lines[0].get_xdata()) == 3
    assert plot_by_group([0.9], [225])[1] is not ax
