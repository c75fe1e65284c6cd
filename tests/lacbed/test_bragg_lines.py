"""Bragg lines: where the geometry says, and Fourier coefficients as they are defined."""

import numpy as np
import pytest
import torch

from py4dstem_ml.lacbed.bragg_lines import BraggLines, quadrant, unfolded

LINES = BraggLines(8, 2.0, 4)
NUMBER = {tuple(pair): i for i, pair in enumerate(LINES.pairs.tolist())}


def test_a_quadrant_is_the_mean_of_the_four():
    picture = torch.arange(16.0).reshape(4, 4)
    expected = (picture + picture.flip(0) + picture.flip(1) + picture.flip(0, 1))[2:, 2:] / 4
    torch.testing.assert_close(quadrant(picture), expected)


def test_unfolding_is_undone_by_the_quadrant():
    quadrants = torch.rand(2, 3, 5, 5)
    pictures = unfolded(quadrants)
    assert pictures.shape == (2, 3, 10, 10)
    torch.testing.assert_close(quadrant(pictures), quadrants)
    for axis in (-1, -2):
        torch.testing.assert_close(pictures.flip(axis), pictures)


def test_every_reflection_up_to_the_highest_has_a_line():
    wanted = {(h, k) for h in range(5) for k in range(5) if 0 < h * h + k * k <= 16}
    assert set(NUMBER) == wanted


def test_lines_lie_where_the_bragg_condition_holds():
    even = LINES.lines[0].unflatten(0, (8, 8))
    # Of (2, 2) with the signs -, -: k . (1, 1) = 2.
    line = even[..., NUMBER[2, 2]]
    row, col = (line == line.max()).nonzero()[0].tolist()
    assert (row + 0.5) / 4 + (col + 0.5) / 4 == pytest.approx(2.0, abs=0.25)
    # Of (2, 0): k_x = 1, whatever k_y.
    assert set(even[..., NUMBER[2, 0]].argmax(0).tolist()) <= {3, 4}
    torch.testing.assert_close(even[..., NUMBER[2, 0]], even[..., NUMBER[0, 2]].T)


def test_reading_is_the_adjoint_of_drawing():
    weights = torch.rand(2, LINES.kinds, 3, len(NUMBER))
    maps = torch.rand(2, 3, 8, 8)
    one = (LINES.draw(weights) * maps).sum()
    read = LINES.read(maps).unflatten(1, (LINES.kinds, 3))
    torch.testing.assert_close(one, 64 * (read * weights).sum())


def test_grids_and_reflections():
    values = torch.rand(2, 3, len(NUMBER))
    grid = LINES.scatter(values)
    assert grid.shape == (2, 3, 5, 5) and grid[..., 0, 0].abs().max() == 0
    torch.testing.assert_close(grid[1, 2, 3, 1], values[1, 2, NUMBER[3, 1]])
    torch.testing.assert_close(LINES.gather(grid), values)


def test_spectra_are_fourier_coefficients():
    fields = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    expected = np.fft.fft2(fields.numpy(), norm="forward")
    found = LINES.spectra(fields)
    for pair, number in NUMBER.items():
        h, k = pair
        np.testing.assert_allclose(found[..., 0, number], expected[..., h, k], atol=1e-12)
        np.testing.assert_allclose(found[..., 1, number], expected[..., -h, k], atol=1e-12)


def test_coefficients_are_mean_sizes_over_the_signs():
    x = np.arange(16) / 16
    potential = 0.3 * np.cos(2 * np.pi * (x[:, None] + 2 * x)) + 0.5 * np.sin(4 * np.pi * x)
    found = LINES.coefficients(torch.from_numpy(potential)[None])[0]
    # 0.15 at (1, 2), nothing at (-1, 2); 0.25 at (0, 2).
    assert found[NUMBER[1, 2]] == pytest.approx(0.15 / 2**0.5, rel=1e-5)
    assert found[NUMBER[0, 2]] == pytest.approx(0.25, rel=1e-5)
    assert found.sum() == pytest.approx(0.25 + 0.15 / 2**0.5, rel=1e-4)
