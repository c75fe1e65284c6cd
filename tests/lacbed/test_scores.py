"""Scores at their edges, and potentials moved to their best origin."""

import numpy as np
import pytest
import torch

from py4dstem_ml.lacbed.scores import (
    at_best_origin,
    likeness,
    pearson,
    squared_error,
    stretched,
)


@pytest.fixture
def pictures():
    return torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_likeness_is_of_the_correlation(pictures):
    one, other = pictures[:2], pictures[1:]
    for number in range(2):
        expected = np.corrcoef(one[number].ravel(), other[number].ravel())[0, 1]
        assert float(pearson(one, other)[number]) == pytest.approx(expected, abs=1e-6)
        assert float(likeness(one, other)[number]) == pytest.approx(0.5 + expected / 2, abs=1e-6)


def test_the_best_the_worst_and_nothing_in_common(pictures):
    torch.testing.assert_close(likeness(pictures, 5e3 * pictures - 2), torch.ones(3))
    torch.testing.assert_close(likeness(pictures, -1e-3 * pictures + 9), torch.zeros(3))
    x = torch.arange(12.0) * (2 * torch.pi / 12)
    rows, cols = x.sin()[:, None].expand(12, 12), x.sin().expand(12, 12)
    assert float(likeness(rows, cols)) == pytest.approx(0.5)


def test_a_constant_picture_has_nothing_in_common(pictures):
    constant = torch.full_like(pictures, 0.25)
    torch.testing.assert_close(likeness(pictures, constant), torch.full((3,), 0.5))
    torch.testing.assert_close(likeness(constant, constant), torch.full((3,), 0.5))


def test_gradients_of_likeness_are_finite_where_nothing_is_seen(pictures):
    blank = torch.zeros(3, 12, 12, requires_grad=True)
    likeness(blank, pictures).sum().backward()
    assert torch.isfinite(blank.grad).all()


def test_errors_are_of_stretched_pictures(pictures):
    found = stretched(pictures)
    assert found.amin((1, 2)).tolist() == [0.0] * 3 and found.amax((1, 2)).tolist() == [1.0] * 3
    torch.testing.assert_close(squared_error(pictures, 3 * pictures + 1), torch.zeros(3))
    one, other = torch.tensor([[0.0, 2.0], [2.0, 2.0]]), torch.tensor([[0.0, 4.0], [2.0, 4.0]])
    assert float(squared_error(one, other)) == pytest.approx(0.25 / 4)
    assert torch.isfinite(stretched(torch.ones(2, 2))).all()


def test_the_best_origin_undoes_a_roll(pictures):
    shifts = [(3, 11), (0, 5), (7, 0)]
    rolled = torch.stack([p.roll(s, (0, 1)) for p, s in zip(pictures, shifts, strict=True)])
    torch.testing.assert_close(at_best_origin(rolled, pictures), pictures)
    noisy = -2.0 + 3.0 * pictures + 0.5 * torch.rand_like(pictures)
    torch.testing.assert_close(at_best_origin(rolled, noisy), pictures)
    torch.testing.assert_close(at_best_origin(pictures, pictures), pictures)


def test_no_other_origin_is_better(pictures):
    wanted, found = pictures[:1], pictures[1:2]
    best = float(likeness(at_best_origin(wanted, found), found))
    every = [
        float(likeness(wanted.roll((i, j), (1, 2)), found)) for i in range(12) for j in range(12)
    ]
    assert best == pytest.approx(max(every), abs=1e-6) and best > float(likeness(wanted, found))
