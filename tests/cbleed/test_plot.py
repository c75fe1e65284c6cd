"""Figures show what they are given."""

import numpy as np
import pytest
from matplotlib import pyplot

from py4dstem_ml.cbleed import (
    plot_latent,
    plot_latent_sizes,
    plot_predictions,
    plot_reconstructions,
)
from py4dstem_ml.cbleed.plot import embedded


@pytest.fixture(autouse=True)
def _close():
    yield
    pyplot.close("all")


def test_a_rolled_sheet_is_unrolled():
    rng = np.random.default_rng(0)
    place = rng.uniform(0, 1, (400, 2))
    angle = 4.4 * place[:, 0]
    sheet = np.column_stack([np.cos(angle), np.sin(angle), place[:, 1]])
    found, chosen = embedded(sheet, neighbours=14)
    assert found.shape == (400, 2) and (chosen == np.arange(400)).all()
    # Flat: either coordinate is a linear function of the two found.
    design = np.column_stack([found, np.ones(400)])
    left = place - design @ np.linalg.lstsq(design, place, rcond=None)[0]
    assert left.std() < 0.1 * place.std()


def test_each_parameter_colours_the_latent_space():
    rng = np.random.default_rng(0)
    labels = rng.random((90, 4))
    fig, axes = plot_latent(np.column_stack([labels[:, :2], labels[:, 0] ** 2]), labels)
    symmetric = labels[:, 3] <= 0.5
    said = np.concatenate([labels[symmetric], labels[~symmetric]])
    for n, ax in enumerate(axes):
        np.testing.assert_array_equal(ax.collections[0].get_array(), said[:, n])
    left, right = np.split(axes[0].collections[0].get_offsets()[:, 0], [symmetric.sum()])
    assert left.max() < right.min()  # kinds stand side by side


def test_reconstructions_stand_beside_images():
    images = np.random.default_rng(0).random((2, 8, 8))
    fig, axes = plot_reconstructions(images, {"step 100": 0.5 * images, "step 300": images})
    assert axes.shape == (2, 3) and axes[0, 1].get_title() == "step 100"
    np.testing.assert_array_equal(axes[1, 1].images[0].get_array(), 0.5 * images[1])
    assert plot_reconstructions(images, {"a": images, "b": images}, axes)[0] is fig


def test_losses_by_size_and_predictions():
    fig, ax = plot_latent_sizes({8: 0.1, 2: 0.4})
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[2, 0.4], [8, 0.1]])
    fig, ax = plot_predictions([1, 2, 3], [1, 2, 4], [0.1, 0.1, 0.2], name="height (Å)")
    assert ax.get_legend().get_texts()[0].get_text() == "mean absolute error 0.333"
    assert ax.get_xlabel() == "true height (Å)"
    again, same = plot_predictions([1, 2], [1, 2], ax=ax)
    assert same is ax
