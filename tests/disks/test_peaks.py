"""Peak finding on maps: accuracy, thresholds, suppression, speed."""

import numpy as np
import pytest
import torch
from correlation import gaussian

from py4dstem_ml.disks import find_peaks, peak_spread


def spots(shape, peaks):
    """A map whose squares are the intensities of Gaussian spots of sigma 1 px."""
    row, col = torch.arange(shape[0]).double(), torch.arange(shape[1]).double()
    found = torch.zeros(shape, dtype=torch.float64)
    for r, c, intensity in peaks:
        rows, cols = torch.exp(-((row - r) ** 2) / 2), torch.exp(-((col - c) ** 2) / 2)
        found += intensity**0.5 * rows[:, None] * cols
    return found.float()


def test_sub_pixel_positions_and_intensities_are_exact_for_isolated_spots():
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(np.arange(8, 60, 9), np.arange(8, 90, 9), indexing="ij"), -1)
    truth = grid.reshape(-1, 2) + rng.uniform(-0.5, 0.5, (grid.size // 2, 2))
    truth = np.column_stack([truth, np.linspace(1, 0.01, len(truth))])
    (found,) = find_peaks(spots((66, 96), truth)[None])
    np.testing.assert_allclose(found[:, :2], truth[:, :2], atol=0.002)
    np.testing.assert_allclose(found[:, 2], truth[:, 2], rtol=0.005)


def test_noise_of_two_percent_costs_less_than_a_twentieth_of_a_pixel():
    rng = np.random.default_rng(2)
    truth = [[20.3 + 12 * i, 20.4 + 12 * j, 1.0] for i in range(4) for j in range(4)]
    noisy = spots((80, 80), truth).numpy() + 0.02 * rng.standard_normal((50, 80, 80))
    found = find_peaks(torch.as_tensor(noisy), min_relative_intensity=0.3)
    errors = [np.sort(f[:, 0]) - np.sort(np.array(truth)[:, 0]) for f in found]
    assert np.sqrt(np.mean(np.square(errors))) < 0.05


def test_threshold_number_and_edge():
    truth = [[10.5, 10.5, 1.0], [10, 25, 0.2], [25, 10, 0.05], [2, 30, 0.6]]
    maps = spots((40, 40), truth)[None]
    assert len(find_peaks(maps)[0]) == 4
    assert len(find_peaks(maps, min_relative_intensity=0.1)[0]) == 3
    assert len(find_peaks(maps, edge_boundary=4)[0]) == 3
    found = find_peaks(maps, max_num_peaks=2)[0]
    np.testing.assert_allclose(found[:, 2], [1, 0.6], atol=0.01)
    inside = find_peaks(maps, limits=((5, 15), (20, 30)))[0]
    np.testing.assert_allclose(inside, [[10, 25, 1]], atol=0.01)


def test_a_peak_between_pixels_is_judged_by_its_refined_height():
    maps = spots((32, 32), [[10, 10, 1.0], [20.5, 20.5, 0.101]])[None]
    assert len(find_peaks(maps, min_relative_intensity=0.1)[0]) == 2


def test_suppression_is_greedy_by_intensity():
    # The middle peak goes because of the left one, so that the right one may stay.
    truth = [[10, 10, 1.0], [10, 14, 0.5], [10, 18, 0.3]]
    (found,) = find_peaks(spots((24, 30), truth)[None], min_spacing=5)
    np.testing.assert_allclose(found[:, 1], [10, 18], atol=0.1)


def test_equal_neighbours_give_one_peak():
    maps = torch.zeros(1, 16, 16)
    maps[0, 7:9, 7:9] = 1
    (found,) = find_peaks(maps)
    assert len(found) == 1


def test_suppression_agrees_with_the_plain_loop():
    rng = np.random.default_rng(3)
    maps = torch.as_tensor(rng.random((5, 40, 40)))
    everything = find_peaks(maps, min_spacing=0)
    for candidates, found in zip(everything, find_peaks(maps, min_spacing=4), strict=True):
        kept = []
        for peak in candidates:
            if all(np.hypot(*(peak - other)[:2]) >= 4 for other in kept):
                kept.append(peak)
        np.testing.assert_array_equal(found, kept)


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, float("nan")])
def test_flat_maps_have_no_peaks(value):
    found = find_peaks(torch.full((2, 16, 16), value))
    assert [f.shape for f in found] == [(0, 3), (0, 3)]


def test_maps_of_a_batch_do_not_touch_each_other():
    maps = torch.stack([spots((32, 32), [[10, 10, 1.0]]), torch.zeros(32, 32)])
    maps = torch.cat([maps, spots((32, 32), [[11, 10, 0.01]])[None]])
    first, second, third = find_peaks(maps)
    assert (len(first), len(second), len(third)) == (1, 0, 1)
    assert third[0, 2] == 1


def test_no_maps_have_no_lists():
    assert find_peaks(torch.zeros(0, 8, 8)) == []


def test_maps_must_be_a_stack():
    with pytest.raises(ValueError, match="2-D"):
        find_peaks(torch.zeros(8, 8))


def test_spread_is_that_of_the_samples():
    rng = np.random.default_rng(4)
    moves, heights = rng.normal(0, 0.1, (200, 2)), rng.normal(1, 0.05, 200)
    samples = np.stack(
        [
            h * gaussian((24, 24), 10 + r, 12 + c, 1)
            for (r, c), h in zip(moves, heights, strict=True)
        ]
    )
    spread = peak_spread(torch.as_tensor(samples), np.array([[10.0, 12.0]]))
    expected = [moves[:, 0].std(), moves[:, 1].std(), (heights**2).std()]
    np.testing.assert_allclose(spread[0], expected, rtol=0.1)
    assert peak_spread(torch.as_tensor(samples), np.empty((0, 2))).shape == (0, 3)


def test_hundreds_of_peaks_are_found_in_every_map_of_a_batch():
    rng = np.random.default_rng(5)
    grid = np.stack(np.meshgrid(np.arange(5, 125, 7), np.arange(5, 125, 7)), -1).reshape(-1, 2)
    drawn = spots((128, 128), np.c_[grid, rng.uniform(0.1, 1, len(grid))])
    for found in find_peaks(torch.stack([drawn] * 8)):
        assert len(found) == len(grid)
