"""Plots draw into given axes, and bear empty maps."""

import numpy as np
import pytest
from bragg_lists import random_lists
from matplotlib import pyplot as plt

from py4dstem_ml.symmetry import (
    plot_basis,
    plot_lattice,
    plot_reliability,
    plot_shares,
    plot_systems,
)

CASES = {
    plot_systems: ([[0, 1], [-1, 6]], [[-1, -1], [-1, -1]]),
    plot_shares: (np.eye(7)[:3], np.full((2, 7), np.nan)),
    plot_lattice: ([[4.0, 4.0, 5.0]], np.full((2, 2, 3), np.nan)),
    plot_basis: (random_lists(1)[0], np.zeros((0, 3))),
}


@pytest.mark.parametrize(("plot", "number"), [(p, i) for p in CASES for i in (0, 1)])
def test_into_axes_and_new(plot, number):
    ax = plt.figure().subplots()
    assert plot(CASES[plot][number], ax=ax) == (ax.figure, ax)
    assert plot(CASES[plot][number])[1] is not ax
    plt.close("all")


def test_confidence_is_brightness():
    _, ax = plot_systems([[0, 0], [0, -1]], [[1.0, 0.5], [0.1, 0.0]], full_brightness=1.0)
    red = ax.images[0].get_array()[..., 0]
    assert red[0, 0] > red[0, 1] > red[1, 0] > red[1, 1] == 0
    plt.close("all")


def test_reliability_of_an_oracle_and_a_boaster():
    label = np.arange(70) % 7
    _, ax = plot_reliability(np.eye(7)[label], label, name="oracle")
    plot_reliability(np.eye(7)[(label + (label > 3)) % 7], label, ax, name="boaster")
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["oracle: error 0.000", "boaster: error 0.429"]
    plt.close("all")


def test_candidate_phases_are_lines():
    _, ax = plot_lattice([[4.0, 4.0, 5.0]], expected={"Au": (4.08,) * 3, "Ti": (2.95, 2.95, 4.68)})
    assert len(ax.lines) == 3
    plt.close("all")
