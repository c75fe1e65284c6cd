"""The vacuum probe: checks, background, centre and radius; and its estimate from a scan."""

import numpy as np
import pytest
from correlation import disk

from py4dstem_ml.disks import estimate_probe, prepare_probe, sample_patterns
from py4dstem_ml.disks.probe import fourier_shift


@pytest.mark.parametrize("radius", [2.0, 3.3, 7.0, 15.0])
def test_a_noisy_probe_is_centred_measured_and_freed_of_background(radius):
    rng = np.random.default_rng(0)
    image = rng.poisson(1000 * disk((128, 126), 55.3, 70.8, radius) + 5)
    probe = prepare_probe(image)
    assert probe.image.shape == (128, 126)
    assert probe.image.dtype == np.float32
    assert probe.image.max() == 1
    assert probe.radius == pytest.approx(radius, rel=0.04, abs=0.05)
    row, col = np.indices(probe.image.shape)
    total = probe.image.sum()
    assert (row * probe.image).sum() / total == pytest.approx(64, abs=0.06)
    assert (col * probe.image).sum() / total == pytest.approx(63, abs=0.06)
    assert (probe.image[:20] == 0).all()


def test_a_hot_pixel_does_not_take_the_probes_place():
    image = 100 * disk((96, 96), 50, 40, 6.0)
    image[10, 80] = 1e5
    assert prepare_probe(image).radius == pytest.approx(6, rel=0.03)


def test_a_stack_is_aligned_before_it_is_averaged():
    stack = np.stack([disk((64, 64), 32 + s, 30 - s, 5) for s in (-3.3, 0.0, 2.6)])
    single = prepare_probe(stack[1])
    np.testing.assert_allclose(prepare_probe(stack).image, single.image, atol=0.12)


def test_a_centred_probe_is_not_resampled():
    image = disk((64, 64), 32, 32, 5)
    np.testing.assert_allclose(prepare_probe(image).image, image / image.max(), atol=2e-3)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (np.zeros(64), "2-D image or a 3-D stack"),
        (np.zeros((2, 2, 8, 8)), "2-D image or a 3-D stack"),
        (np.zeros((8, 8), complex), "2-D image or a 3-D stack"),
        (np.full((32, 32), np.nan), "NaN"),
        (np.ones((32, 32)), "no disk"),
        (disk((32, 32), 16, 16, 4) - disk((32, 32), 16, 16, 6), "negative"),
        (disk((64, 64), 2, 30, 6), "cut by the edge"),
        (disk((64, 64), 32, 32, 4) + 0.4 * disk((64, 64), 50, 20, 4), "more than one disk"),
        (np.random.default_rng(2).random((64, 64)), "disk"),
    ],
)
def test_a_probe_that_cannot_be_used_is_refused_with_one_sentence(bad, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        prepare_probe(bad)
    assert "\n" not in str(caught.value)


def test_noise_about_a_subtracted_background_is_no_kernel():
    clean = disk((96, 96), 48, 48, 6.0)
    noisy = clean + 0.01 * np.random.default_rng(1).normal(size=clean.shape)
    for image in (noisy, clean - 0.001):
        assert prepare_probe(image).radius == pytest.approx(6, rel=0.03)


def test_a_faint_halo_is_no_second_disk():
    image = disk((96, 96), 48, 48, 6.0) + 0.03 * disk((96, 96), 48, 48, 30.0)
    assert prepare_probe(image).radius == pytest.approx(6, rel=0.05)


def test_fourier_shift_moves_by_fractions_and_leaves_whole_pixels_alone():
    image = np.random.default_rng(0).random((9, 12))
    np.testing.assert_array_equal(fourier_shift(image, (2, -3)), np.roll(image, (2, -3), (0, 1)))
    spot = np.exp(-0.5 * (np.hypot(*np.ogrid[-16:16, -16:16]) / 2) ** 2)
    moved = np.exp(-0.5 * (np.hypot(*np.ogrid[-16.3:15.6, -15.6:16.3]) / 2) ** 2)
    np.testing.assert_allclose(fourier_shift(spot, (0.3, -0.4)), moved, atol=1e-6)


def scan_of_disks(radius, dose, count=6, shape=(128, 128)):
    """Patterns whose disks are drawn over by dynamical-like contrast, with a shifting centre."""
    rng = np.random.default_rng(7)
    spacing = max(2.6 * radius, 8)
    texture = 1 + 0.4 * np.sin(np.arange(shape[1]) * 2 / radius)
    patterns = []
    for _ in range(count):
        centre = np.array(shape) / 2 + rng.uniform(-3, 3, 2)
        image = np.full(shape, 0.005)
        for h in range(-3, 4):
            for k in range(-3, 4):
                row, col = centre + spacing * np.array([h + 0.3 * k, k - 0.2 * h])
                height = np.exp(-np.hypot(h, k) / 1.5) * (rng.uniform(0.1, 1) if h or k else 1)
                if -radius < row < shape[0] + radius and -radius < col < shape[1] + radius:
                    image += height * texture * disk(shape, row, col, radius)
        patterns.append(rng.poisson(image / image.sum() * dose))
    return np.array(patterns)


@pytest.mark.parametrize("dose", [1e4, 1e6])
@pytest.mark.parametrize("radius", [2.0, 5.0, 11.0])
def test_the_probe_is_estimated_from_a_scan(radius, dose):
    probe = prepare_probe(estimate_probe(scan_of_disks(radius, dose)))
    assert probe.radius == pytest.approx(radius, rel=0.08)
    truth = disk((128, 128), 64, 64, radius)
    assert np.corrcoef(probe.image.ravel(), truth.ravel())[0, 1] > 0.96


def test_a_saturated_central_disk_is_left_out():
    patterns = np.minimum(scan_of_disks(4.0, 1e6), 255).astype(np.uint8)
    assert prepare_probe(estimate_probe(patterns)).radius == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize(
    ("patterns", "sentence"),
    [
        (np.ones((3, 64, 64)), "no disks"),
        (np.random.default_rng(0).poisson(3, (3, 64, 64)), "no disks"),
        (disk((64, 64), 3, 30, 8) + disk((64, 64), 61, 8, 8), "cut by the edge"),
        (np.minimum(400 * disk((64, 64), 32, 32, 6), 255).astype(np.uint8), "saturated"),
    ],
)
def test_an_estimate_that_fails_says_why_and_what_to_do(patterns, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        estimate_probe(patterns)
    assert "probe=" in str(caught.value)


def test_overlapping_disks_are_no_source_for_an_estimate():
    rows, cols = np.arange(-8, 72, 9), np.arange(-8, 72, 9)
    image = sum(disk((64, 64), r, c, 7.0) for r in rows for c in cols)
    with pytest.raises(ValueError, match="cannot be estimated"):
        estimate_probe(image + np.random.default_rng(0).normal(0, 0.01, image.shape))


def test_samples_are_spread_over_the_scan():
    scan = np.arange(5 * 7)[:, None, None].repeat(4, 1).repeat(4, 2).reshape(5, 7, 4, 4)
    chosen = sample_patterns(scan, 5)[:, 0, 0]
    np.testing.assert_array_equal(chosen, [0, 8, 17, 26, 34])
    assert sample_patterns(scan, 99).shape == (35, 4, 4)
    assert sample_patterns(scan[0, 0]).shape == (1, 4, 4)
