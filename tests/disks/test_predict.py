"""BraggDiskFinder: mapping between detector and network, bad input, dropout, threads, pickling."""

import logging
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from correlation import Correlation, disk, draw, gaussian, lattice
from scipy.spatial import cKDTree

from py4dstem_ml.disks import BraggDiskFinder
from py4dstem_ml.disks.predict import clean

SHAPE = (64, 64)
PROBE = disk(SHAPE, 32, 32, 4)


def finder_for(probe=PROBE, **options):
    return BraggDiskFinder(probe, model=Correlation(), device="cpu", **options)


@pytest.fixture(scope="module")
def patterns():
    rng = np.random.default_rng(0)
    clean_patterns = [draw(SHAPE, lattice(SHAPE, 13, rng), disk, 4) for _ in range(6)]
    return rng.poisson(300 * np.stack(clean_patterns)).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "sigma", "frame"),
    [
        ((128, 128), 3.0, (128, 128)),
        ((127, 131), 3.0, (128, 132)),
        ((96, 180), 3.0, (96, 180)),
        ((256, 256), 11.0, (128, 128)),
        ((301, 290), 11.0, (152, 146)),
        ((512, 512), 20.0, (172, 172)),
        ((64, 64), 0.8, (128, 128)),
        ((65, 67), 0.8, (130, 134)),
        ((65, 67), 0.5, (198, 204)),
    ],
)
def test_peaks_come_back_in_the_pixels_of_the_pattern(shape, sigma, frame):
    truth = lattice(shape, max(8.5 * sigma, 8), np.random.default_rng(1))
    probe = gaussian(shape, shape[0] // 2 - 3.3, shape[1] // 2 + 2.2, sigma)
    finder = finder_for(probe, min_relative_intensity=0.02)
    found = finder(draw(shape, truth, gaussian, sigma))
    assert finder.network.calls == [(1, *frame)]
    assert len(found) == len(truth)
    distance, order = cKDTree(found[:, :2]).query(truth[:, :2])
    assert distance.max() < (0.06 if sigma > 0.7 else 0.2) * max(1, finder._geometry.pixel)
    np.testing.assert_allclose(found[order, 2], truth[:, 2], atol=0.02 if sigma > 0.7 else 0.2)


@pytest.mark.parametrize("radius", [1.6, 3.0, 8.0, 13.0, 30.0])
def test_defaults_scale_with_the_probe(radius):
    size = int(10 * max(radius, 6))
    truth = lattice((size, size), 2.4 * radius + 2, np.random.default_rng(2))
    probe = disk((size, size), size / 2, size / 2, radius)
    found = finder_for(probe, min_relative_intensity=0.03)(draw((size, size), truth, disk, radius))
    distance, order = cKDTree(found[:, :2]).query(truth[:, :2])
    assert distance.max() < 0.25
    # Beside the disks an ideal correlation has few maxima of its own.
    assert len(truth) <= len(found) < 1.5 * len(truth)


def test_peaks_keep_off_the_edges_in_the_pixels_of_the_pattern():
    pattern = draw((65, 67), [[4, 30, 1], [32, 30, 0.5], [32, 62, 0.4]], gaussian, 1.5)
    probe = gaussian((65, 67), 32, 33, 1.5)
    assert len(finder_for(probe, min_relative_intensity=0.05)(pattern)) == 3
    found = finder_for(probe, min_relative_intensity=0.05, edge_boundary=5)(pattern)
    np.testing.assert_allclose(found[:, :2], [[32, 30], [32, 62]][: len(found)], atol=0.05)
    assert found[0, 2] == 1


def test_batches_single_calls_and_types_agree(patterns):
    reference = finder_for().find(patterns)
    for found in (
        finder_for(batch_size=4).find(patterns),
        [finder_for()(p) for p in patterns],
        finder_for().find(patterns.astype(np.uint16)),
        finder_for().find(patterns.astype(">f8")),
        finder_for().find(patterns[:, ::-1, ::-1][:, ::-1, ::-1]),
        finder_for().find(1e30 * patterns),
        finder_for().find(1e-30 * patterns),
    ):
        for one, other in zip(reference, found, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-4)


def test_a_cpu_takes_patterns_by_what_its_caches_hold(patterns):
    big = np.pad(np.concatenate([patterns, patterns[:5]]), ((0, 0), (0, 64), (0, 64)))
    probe = np.pad(PROBE, ((0, 64), (0, 64)))
    finder = finder_for(probe)
    found = finder.find(big)
    assert finder.network.calls == [(8, 128, 128), (3, 128, 128)]
    for one, pattern in zip(found, big, strict=True):
        np.testing.assert_allclose(one, finder_for(probe)(pattern), atol=2e-4)


def test_the_input_is_left_as_it_is(patterns):
    dirty = patterns.copy()
    dirty[0, 3, 3], dirty[0, 4, 4] = np.nan, -5
    before = dirty.copy()
    with pytest.warns(UserWarning):
        finder_for().find(dirty)
    np.testing.assert_array_equal(dirty, before)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (np.zeros(64), "must be 2-D, not 1-D"),
        (np.zeros((1, 64, 64)), "must be 2-D, not 3-D"),
        (np.zeros((64, 64), complex), "real numbers"),
        (np.zeros((64, 64), object), "real numbers"),
        (np.zeros((32, 64)), "patterns are 32 x 64 pixels but the probe is 64 x 64"),
    ],
)
def test_a_pattern_of_the_wrong_kind_is_refused(bad, sentence):
    with pytest.raises(ValueError, match=sentence):
        finder_for()(bad)


def test_a_stack_of_the_wrong_kind_is_refused():
    with pytest.raises(ValueError, match="must be 3-D, not 2-D"):
        finder_for().find(np.zeros((64, 64)))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"mc_samples": 1},
        {"min_relative_intensity": 2},
        {"min_relative_intensity": np.nan},
        {"max_num_peaks": 0},
        {"min_spacing": -1},
        {"min_spacing": np.nan},
        {"edge_boundary": -0.5},
        {"edge_boundary": np.inf},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        finder_for(**options)


@pytest.mark.parametrize("value", [0, 7, -3])
@pytest.mark.filterwarnings("ignore:replaced")
def test_a_constant_pattern_gives_an_empty_list(patterns, value):
    stack = patterns.copy()
    stack[1] = value
    found = finder_for().find(stack)
    assert found[1].shape == (0, 3)
    assert finder_for(mc_samples=2).find(stack[1:2])[0].shape == (0, 6)
    np.testing.assert_array_equal(found[2], finder_for().find(patterns)[2])
    assert finder_for().find(stack[:0]) == []


def test_bad_pixels_are_replaced_with_one_warning(patterns, caplog):
    stack = patterns.copy()
    reference = finder_for(min_relative_intensity=0.05).find(stack)
    stack[0, 5, 5] = np.nan
    stack[1, 20, 30] = np.inf
    stack[2, :4, :4] = -1
    finder = finder_for(min_relative_intensity=0.05)
    with pytest.warns(UserWarning, match="replaced") as caught, caplog.at_level(logging.DEBUG):
        found = finder.find(stack)
        finder.find(stack[2:])
        pickle.loads(pickle.dumps(finder)).find(stack)
    (warning,) = caught
    assert warning.filename == __file__
    assert "2 pixels not finite, 16 negative ones" in caplog.text
    for one, other in zip(reference, found, strict=True):
        assert np.median(cKDTree(one[:, :2]).query(other[:, :2])[0]) < 0.05


def test_a_pattern_of_nothing_but_nan_is_empty():
    with pytest.warns(UserWarning, match="replaced"):
        assert finder_for()(np.full(SHAPE, np.nan)).shape == (0, 3)


def test_nan_becomes_the_median_of_its_neighbours():
    pattern = np.arange(49.0).reshape(1, 7, 7)
    pattern[0, 3, 3] = pattern[0, 0, 0] = np.nan
    cleaned = clean(pattern)
    assert cleaned.patterns[0, 3, 3] == 24
    assert cleaned.patterns[0, 0, 0] == np.median([1, 2, 7, 8, 9, 14, 15, 16])
    assert (cleaned.not_finite, cleaned.negative) == (2, 0)


def test_clean_patterns_raise_no_warning(patterns):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finder_for().find(patterns)


def test_dropout_is_the_same_in_any_batch_order_and_thread(patterns):
    options = {"mc_samples": 10, "min_relative_intensity": 0.05}
    state = torch.random.get_rng_state()
    reference = finder_for(**options).find(patterns)
    assert torch.equal(torch.random.get_rng_state(), state)
    split = finder_for(**options, batch_size=1).find(patterns[::-1])[::-1]
    shared = finder_for(**options)
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(shared, patterns))
    for one, two, three in zip(reference, split, threaded, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
    other = finder_for(**options, seed=1).find(patterns)
    assert not np.array_equal(reference[0], other[0])


def test_dropout_gives_uncertainties(patterns):
    found = finder_for(mc_samples=12, min_relative_intensity=0.05)(patterns[0])
    assert found.shape[1] == 6
    assert (found[:, 3:5] > 0).all()
    assert (found[:, 3:5] < 1).all()
    assert (found[:, 5] >= 0).all()
    assert found[:, 5].max() > 0


def test_uncertainties_are_in_pixels_of_the_pattern():
    probe = disk((64, 64), 32, 32, 2.5)
    truth = [[20.2, 30.3, 1], [40, 40, 0.5], [25, 50, 0.6]]
    small = draw((64, 64), truth, disk, 2.5)
    options = {"mc_samples": 10, "min_relative_intensity": 0.1}
    one = finder_for(probe, **options)(small)
    # The same picture at six times the size is binned back to the same network pixels, twofold.
    large = finder_for(probe.repeat(6, 0).repeat(6, 1), **options)
    two = large(small.repeat(6, 0).repeat(6, 1))
    assert large._geometry.binning == 2
    assert np.median(two[:3, 3:5]) > 1.5 * np.median(one[:3, 3:5])


def test_finder_is_thread_safe(patterns):
    finder = finder_for()
    reference = finder.find(patterns)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(finder, [p for p in patterns for _ in range(4)]))
    for i, found in enumerate(results):
        np.testing.assert_allclose(found, reference[i // 4], atol=1e-4)


def test_finder_is_picklable(patterns):
    finder = finder_for()
    before = finder(patterns[0])
    copy = pickle.loads(pickle.dumps(finder))
    np.testing.assert_array_equal(copy(patterns[0]), before)


def test_a_named_network_is_loaded_when_it_is_needed():
    finder = BraggDiskFinder(PROBE, model="no.such.network")
    content = pickle.dumps(finder)
    assert len(content) < 200_000
    assert pickle.loads(content)(np.zeros(SHAPE)).shape == (0, 3)


def test_many_threads_give_one_warning(patterns):
    finder = finder_for()
    with pytest.warns(UserWarning) as caught, ThreadPoolExecutor(8) as pool:
        list(pool.map(finder, -patterns.repeat(4, 0)))
    assert len(caught) == 1


def test_the_callers_network_is_left_as_it_is(patterns):
    network = Correlation().train()
    finder = BraggDiskFinder(PROBE, model=network, device="cpu")
    finder(patterns[0])
    assert network.training
    assert network.calls == []
    assert not finder.network.training
    network.eval()
    assert BraggDiskFinder(PROBE, model=network, device="cpu").network is network


@pytest.mark.parametrize(
    ("shape", "expected"), [((128, 128), 64), ((256, 128), 32), ((64, 64), 256)]
)
def test_large_patterns_pass_in_small_batches(shape, expected):
    probe = disk(shape, shape[0] / 2, shape[1] / 2, 5)
    assert finder_for(probe).patterns_at_once == expected
    assert finder_for(probe, batch_size=1).patterns_at_once >= 1


def test_binned_patterns_count_by_what_the_network_sees():
    probe = disk((256, 256), 128, 128, 20)
    assert finder_for(probe, batch_size=10).patterns_at_once == 10


class Cramped(Correlation):
    """Runs out of memory for more than two patterns."""

    def forward(self, patterns, probe, mc_dropout=False):
        if len(patterns) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return super().forward(patterns, probe, mc_dropout)


def test_a_batch_too_large_for_the_gpu_is_halved(patterns):
    finder = BraggDiskFinder(PROBE, model=Cramped(), device="cpu")
    for one, other in zip(finder.find(patterns), finder_for().find(patterns), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert max(n for n, *_ in finder.network.calls) == 2


def test_dropout_too_large_for_the_gpu_is_halved_by_the_same_masks(patterns):
    options = {"device": "cpu", "mc_samples": 5, "min_relative_intensity": 0.05}
    halved = BraggDiskFinder(PROBE, model=Cramped(), **options)
    whole = BraggDiskFinder(PROBE, model=Correlation(), **options)
    np.testing.assert_allclose(halved(patterns[0]), whole(patterns[0]), atol=1e-4)
    assert max(n for n, *_ in halved.network.calls) == 2


def test_dropout_of_a_real_network_does_not_touch_torchs_generator(patterns):
    from py4dstem_ml.disks.network import DiskNetSpec, build_network

    torch.manual_seed(0)
    network = build_network(DiskNetSpec("unet", (4, 8), depth=1, dropout=0.5))
    torch.nn.init.normal_(network.head.weight)
    finder = BraggDiskFinder(PROBE, model=network, device="cpu", mc_samples=3)
    state = torch.random.get_rng_state()
    first = finder(patterns[0])
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(5)
    np.testing.assert_array_equal(finder(patterns[0]), first)
    assert first[:, 3:].max() > 0
