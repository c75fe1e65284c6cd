"""Distortions of lists: of the size that was asked for, and none where none is wanted."""

from dataclasses import replace

import pytest
import torch
from bragg_lists import random_lists

from py4dstem_ml.symmetry.augment import Augmentation, AugmentConfig

NOTHING = AugmentConfig(
    scale=0, strain=0, q_limit_share=0, direct_beam=(0, 0), jitter=(1e-12, 2e-12), origin=0,
    power=(1, 1), noise=(0, 0), floor=(1e-12, 2e-12), missing=0, spurious=0, grain_share=0,
)  # fmt: skip


@pytest.fixture
def bags():
    return torch.from_numpy(random_lists(40, fewest=15).padded(50)).unflatten(0, (10, 4))


def test_no_distortion_leaves_lists_as_they_are(bags):
    out, mixed = Augmentation(NOTHING, 0)(bags)
    torch.testing.assert_close(out[..., :2] * (out[..., 2:] > 0), bags[..., :2], atol=1e-6, rtol=0)
    torch.testing.assert_close(out[..., 2], bags[..., 2] / bags[..., 2].sum(-1, keepdim=True))
    assert not mixed.any()


def test_the_same_seed_gives_the_same(bags):
    one, other = (Augmentation(AugmentConfig(), 3)(bags) for _ in range(2))
    torch.testing.assert_close(one[0], other[0])
    assert not torch.equal(one[0], Augmentation(AugmentConfig(), 4)(bags)[0])


def test_strongest_first_and_five_left(bags):
    out, _ = Augmentation(AugmentConfig(missing=1.0), 0)(bags)
    assert (out[..., 2].diff(dim=-1) <= 0).all()
    assert ((out[..., 2] > 0).sum(-1) >= 5).all()
    assert torch.isfinite(out).all()


def test_calibration_is_one_for_a_bag(bags):
    out, _ = Augmentation(replace(NOTHING, scale=0.02), 0)(bags)
    ratio = out[..., 0, :2].norm(dim=-1) / bags[..., 0, :2].norm(dim=-1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    assert 0.005 < ratio[:, 0].std() < 0.04


def test_a_share_of_lists_has_a_second_grain(bags):
    many = bags.repeat(50, 1, 1, 1)
    out, mixed = Augmentation(replace(NOTHING, grain_share=0.3), 0)(many)
    assert mixed.float().mean() == pytest.approx(0.3, abs=0.05)
    more = (out[..., 2] > 0).sum(-1) > (many[..., 2] > 0).sum(-1)
    assert (more == mixed).float().mean() > 0.95  # a list may meet itself, or be full


def test_spurious_spots_are_added(bags):
    out, _ = Augmentation(replace(NOTHING, spurious=0.5), 0)(bags.repeat(20, 1, 1, 1))
    added = (out[..., 2] > 0).sum(-1) - (bags[..., 2] > 0).sum(-1).repeat(20, 1)
    assert (added >= 0).all() and (added > 0).float().mean() == pytest.approx(0.5, abs=0.1)


def test_nothing_beyond_the_limit(bags):
    config = replace(NOTHING, q_limit=(1.0, 1.0), q_limit_share=1.0)
    out, _ = Augmentation(config, 0)(bags)
    beyond = (out[..., :2].norm(dim=-1) > 1.0) & (out[..., 2] > 0)
    enough = ((out[..., :2].norm(dim=-1) <= 1.0) & (out[..., 2] > 0)).sum(-1) >= 5
    assert not beyond[enough].any()
