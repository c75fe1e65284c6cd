"""Augmentation: geometry the right way round, noise as stated, nothing lost on the way."""

import dataclasses

import pytest
import torch

from py4dstem_ml.disks.augment import Augmentation, AugmentConfig, Batch, sample_affine, two_grains
from py4dstem_ml.physics.patterns import render_peaks

NOTHING = AugmentConfig(
    grain_share=0, background_share=0, ring_share=0, warp_share=0, blur_share=0, clean_share=1,
    fault_share=0, gap_share=0, stop_share=0,
)  # fmt: skip


def _batch(n=6, size=64):
    generator = torch.Generator().manual_seed(0)
    places = size // 2 + (torch.rand(n, 5, 2, generator=generator) - 0.5) * 30
    places[:, 0] = size // 2
    heights = torch.tensor([1.0, 0.5, 0.4, 0.3, 0.2]).expand(n, 5)
    peaks = torch.cat([places, heights[..., None]], dim=-1)
    patterns = render_peaks(peaks, (size, size), 1.5)
    probes = render_peaks(peaks[:, :1], (size, size), 1.5)
    return Batch(
        patterns / patterns.sum((1, 2), keepdim=True), probes / probes.sum((1, 2), keepdim=True),
        peaks, torch.full((n,), 0.02), torch.full((n,), 2.0),
    )  # fmt: skip


def _augmented(batch, seed=0, **changes):
    return Augmentation(dataclasses.replace(NOTHING, **changes), seed)(batch)


def _unit(patterns):
    return patterns / patterns.sum((1, 2), keepdim=True)


def _heights_at(peaks, patterns):
    rows, cols = peaks[..., 0].round().long(), peaks[..., 1].round().long()
    return patterns[torch.arange(len(patterns))[:, None], rows, cols]


@pytest.mark.parametrize("seed", range(8))
def test_peaks_stay_on_their_spots_when_mirrored(seed):
    done = _augmented(_batch(), seed)
    drawn = render_peaks(done.peaks, (64, 64), 1.5)
    drawn = drawn / drawn.sum((1, 2), keepdim=True)
    inner = (slice(None), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(_unit(done.patterns)[inner], drawn[inner], rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_peaks_stay_on_their_spots_when_warped(seed):
    batch = _batch()
    done = _augmented(batch, seed, warp_share=1, ellipticity=0.05)
    assert (done.peaks[..., :2] - batch.peaks[..., :2]).abs().max() > 1
    drawn = render_peaks(done.peaks, (64, 64), 1.5).flatten(1)
    for one, other in zip(drawn, done.patterns.flatten(1), strict=True):
        assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.97


def test_the_map_is_x_to_m_x():
    """The value at c + d comes from c + M d + s."""
    image = torch.zeros(1, 33, 33)
    image[0, 16 + 6, 16 - 2] = 1
    matrix = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])
    found = sample_affine(image, matrix, torch.tensor([[0.0, 1.0]]))
    assert torch.nonzero(found[0] > 0.99).tolist() == [[16 + 3, 16 - 3]]
    same = sample_affine(image, torch.eye(2)[None], torch.zeros(1, 2))
    torch.testing.assert_close(same, image, atol=1e-5, rtol=0)


def test_the_probe_is_distorted_but_not_shifted():
    done = _augmented(_batch(), warp_share=1, ellipticity=0.0, scale=(0.2, 0.2))
    rows = torch.arange(64.0)
    centre = (done.probes.sum(2) * rows).sum(1)
    torch.testing.assert_close(centre, torch.full((6,), 32.0), atol=0.05, rtol=0)
    width = (done.probes.sum(2) * (rows - 32) ** 2).sum(1).sqrt()
    torch.testing.assert_close(width, torch.full((6,), 1.5 / 1.2), atol=0.1, rtol=0)


def test_counting_follows_poisson():
    batch = _batch(n=4)
    done = _augmented(batch, clean_share=0, dose=(1e5, 1e5))
    torch.testing.assert_close(done.patterns.sum((1, 2)), torch.full((4,), 1e5), rtol=0.02, atol=0)
    assert torch.equal(done.patterns, done.patterns.round())
    flat = dataclasses.replace(_batch(n=64), patterns=torch.ones(64, 64, 64))
    counts = _augmented(flat, clean_share=0, dose=(5 * 64**2, 5 * 64**2)).patterns
    assert abs(float(counts.var()) / 5 - 1) < 0.02


def test_backgrounds_take_intensity_from_the_disks():
    batch = _batch()
    done = _augmented(batch, background_share=1, plasmon_weight=(0.3, 0.3), diffuse_weight=(0, 0))
    assert done.patterns[:, 2, 2].min() > 0
    before = _heights_at(batch.peaks, batch.patterns)[:, 1:].mean()
    assert _heights_at(done.peaks, _unit(done.patterns))[:, 1:].mean() < 0.8 * before


def test_faults_leave_no_negative_pixel_and_no_nan():
    done = _augmented(
        _batch(), fault_share=1, hot_fraction=0.01, read_noise=(1, 1), gap_share=1, stop_share=1
    )
    assert torch.isfinite(done.patterns).all()
    assert done.patterns.min() >= 0
    assert (done.patterns[:, 32, 32] == 0).all()  # behind the beam stop


def test_the_seed_decides():
    config = AugmentConfig()
    one, two, other = (Augmentation(config, seed)(_batch()) for seed in (1, 1, 2))
    assert torch.equal(one.patterns, two.patterns)
    assert not torch.equal(one.patterns, other.patterns)


def test_two_grains_share_the_intensity():
    first = torch.tensor([[1.0, 1, 1.0], [5, 5, 0.5]])
    joined = two_grains(first, first + torch.tensor([10.0, 0, 0]), 0.75)
    assert joined.shape == (4, 3)
    torch.testing.assert_close(joined[:, 2], torch.tensor([1.0, 0.5, 1 / 3, 1 / 6]))
    assert first[0, 2] == 1
