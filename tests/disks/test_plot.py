"""Figures: what they draw, and that they leave the caller's axes to the caller."""

import numpy as np
from matplotlib import pyplot

from py4dstem_ml.disks import plot_counts, plot_peaks


def test_peaks_are_drawn_at_their_places_with_intensity_as_area():
    pattern = np.random.default_rng(0).random((20, 30)) - 0.1
    pattern[3, 4] = np.nan
    fig, ax = plot_peaks(pattern, [[5, 20, 1.0], [10, 3, 0.25], [12, 3, 1e-6]])
    circles = ax.collections[0]
    np.testing.assert_array_equal(circles.get_offsets(), [[20, 5], [3, 10], [3, 12]])
    np.testing.assert_allclose(circles.get_sizes(), [300, 75, 4])
    assert ax.figure is fig
    pyplot.close(fig)


def test_figures_take_axes_and_empty_lists():
    fig, (left, right) = pyplot.subplots(1, 2)
    assert plot_peaks(np.zeros((8, 8)), np.empty((0, 3)), left) == (fig, left)
    assert plot_counts(np.arange(6).reshape(2, 3), right) == (fig, right)
    fig.canvas.draw()
    pyplot.close(fig)
