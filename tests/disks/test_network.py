"""Every network of the list: shapes, sizes, scale, gradients, complex arithmetic, saved weights."""

import hashlib
from dataclasses import asdict

import numpy as np
import pytest
import torch

from py4dstem_ml import weights
from py4dstem_ml.disks import layers
from py4dstem_ml.disks.network import (
    SPECS,
    DiskNetSpec,
    build_network,
    load_network,
    save_network,
)

COMPACT = sorted(name for name in SPECS if name.endswith(".compact"))


def _lively(name):
    """A network whose output is not zero, as it is before training."""
    torch.manual_seed(0)
    network = build_network(name).eval()
    torch.nn.init.normal_(network.head.weight)
    return network


@pytest.mark.parametrize("name", COMPACT)
@pytest.mark.parametrize("shape", [(64, 64), (50, 66)])
def test_any_even_size_keeps_its_shape(name, shape):
    network = _lively(name)
    maps = network(torch.rand(2, *shape), torch.rand(shape))
    assert maps.shape == (2, *shape)
    assert torch.isfinite(maps).all()


@pytest.mark.parametrize("name", COMPACT)
def test_the_scale_of_pattern_and_probe_does_not_matter(name):
    network = _lively(name)
    pattern, probe = torch.rand(1, 64, 64), torch.rand(64, 64)
    with torch.inference_mode():
        one, other = network(pattern, probe), network(3e5 * pattern, 1e-3 * probe)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


@pytest.mark.parametrize("name", COMPACT)
def test_every_parameter_learns(name):
    network = _lively(name).train()
    # The last layer of a Fourier unit starts at zero and would hide what lies before it.
    for unit in network.modules():
        if isinstance(unit, layers.FourierUnit):
            torch.nn.init.normal_(unit.expand.weight)
    network(torch.rand(2, 64, 64), torch.rand(64, 64)).square().sum().backward()
    for parameter in network.parameters():
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("name", COMPACT)
def test_weights_survive_a_file(name, tmp_path):
    network = _lively(name)
    save_network(network, tmp_path / "net.safetensors", {"seed": 3})
    again = load_network(tmp_path / "net.safetensors")
    assert again.spec == network.spec
    assert again.metadata["seed"] == 3
    content = (tmp_path / "net.safetensors").read_bytes()
    assert again.metadata["sha256"] == hashlib.sha256(content).hexdigest()
    assert not again.training
    pattern, probe = torch.rand(1, 64, 64), torch.rand(64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(again(pattern, probe), network(pattern, probe))


def test_the_paper_size_can_be_built_and_run():
    network = build_network("fcunet.full").eval()
    assert sum(p.numel() for p in network.parameters()) > 20e6
    with torch.inference_mode():
        assert network(torch.rand(1, 256, 256), torch.rand(256, 256)).shape == (1, 256, 256)


@pytest.mark.parametrize("name", [n for n in COMPACT if not n.startswith("fcunet")])
def test_a_shifted_pattern_gives_a_shifted_map(name):
    """With whole periods of all poolings; the pattern is dark at its edges.

    Only where convolutions act in pattern space: in Fourier space a shift is a phase.
    """
    network = _lively(name)
    pattern = torch.zeros(1, 128, 128)
    pattern[0, 40:88, 40:88] = torch.rand(48, 48)
    probe = torch.zeros(128, 128)
    probe[61:68, 61:68] = 1
    with torch.inference_mode():
        here = network(pattern, probe)
        there = network(torch.roll(pattern, (16, 16), (1, 2)), probe)
    same = torch.corrcoef(
        torch.stack([torch.roll(here, (16, 16), (1, 2)).flatten(), there.flatten()])
    )
    assert same[0, 1] > 0.7


def test_monte_carlo_dropout_is_on_only_where_asked():
    network = _lively("unet.compact")
    pattern, probe = torch.rand(1, 64, 64), torch.rand(64, 64)
    with torch.inference_mode():
        fixed = network(pattern, probe)
        assert torch.equal(network(pattern, probe), fixed)
        torch.manual_seed(0)
        one, two = (network(pattern, probe, mc_dropout=True) for _ in range(2))
        assert not torch.equal(one, two)
        assert torch.equal(network(pattern, probe), fixed)
    assert not network.training


def test_each_pattern_has_masks_of_its_own_generator():
    dropout = layers.MonteCarloDropout(0.3).eval()

    def drop(seeds):
        draws = [torch.Generator().manual_seed(s) for s in seeds]
        with layers.monte_carlo_dropout(draws):
            return dropout(torch.ones(len(seeds), 400, 2, 2))

    both = drop([1, 2])
    torch.testing.assert_close(both[1:], drop([2]))
    assert not torch.equal(both[0], both[1])
    assert both.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert both.mean() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("sizes", [((63, 64), (63, 64)), ((64, 64), (32, 64))])
def test_sizes_that_do_not_fit_are_refused(sizes):
    pattern, probe = sizes
    with pytest.raises(ValueError, match="even"):
        build_network("unet.compact")(torch.rand(1, *pattern), torch.rand(probe))


def test_margins_continue_the_pattern_and_leave_the_probe_in_the_centre():
    network = _lively("unet.compact")
    seen = []
    network.features.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    probe = torch.zeros(50, 66)
    probe[25, 33] = 1
    pattern = torch.rand(1, 50, 66)
    network(pattern, probe)
    padded, padded_probe = seen
    assert padded.shape[1:] == padded_probe.shape[1:] == (56, 72)
    torch.testing.assert_close(padded[:, 3:-3, 3:-3], pattern)
    torch.testing.assert_close(padded[:, 0, 3:-3], pattern[:, 0])
    torch.testing.assert_close(padded[:, 3:-3, -1], pattern[:, :, -1])
    assert padded_probe.nonzero().tolist() == [[0, 28, 36]]


def test_a_complex_convolution_is_one():
    convolution = layers.ComplexConv2d(3, 2)
    x = torch.randn(1, 3, 8, 8, dtype=torch.complex64)
    kernel = torch.complex(convolution.real, convolution.imag)
    expected = torch.nn.functional.conv2d(x, kernel, padding=1)
    found = convolution(torch.cat([x.real, x.imag], dim=1))
    torch.testing.assert_close(torch.complex(*found.chunk(2, dim=1)), expected)


def test_complex_skips_keep_real_and_imaginary_parts_apart():
    skip = torch.cat([torch.full((1, 2, 4, 4), 1.0), torch.full((1, 2, 4, 4), 2.0)], dim=1)
    below = torch.cat([torch.full((1, 3, 4, 4), 3.0), torch.full((1, 3, 4, 4), 4.0)], dim=1)
    joined = layers.concatenate(skip, below, complex_=True)
    assert joined[0, :, 0, 0].tolist() == [1, 1, 3, 3, 3, 2, 2, 4, 4, 4]


@pytest.mark.parametrize("complex_", [False, True])
def test_spectral_pooling_keeps_what_is_slow(complex_):
    row, col = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    wave = torch.cos(2 * torch.pi * (2 * row + 3 * col) / 32)[None, None]
    x = torch.cat([wave, 2 * wave], dim=1) if complex_ else wave
    pooled = layers.SpectralPool2d(complex_)(x)
    torch.testing.assert_close(pooled, x[..., ::2, ::2], rtol=1e-4, atol=1e-4)
    fast = torch.cos(2 * torch.pi * 14 * row / 32)[None, None].expand_as(x)
    torch.testing.assert_close(layers.SpectralPool2d(complex_)(fast), torch.zeros_like(pooled))


@pytest.mark.parametrize(
    "values",
    [
        {"arch": "resnet", "widths": (8,)},
        {"arch": "unet", "widths": ()},
        {"arch": "unet", "widths": (8,), "dropout": 1.0},
        {"arch": "dualnet", "widths": (8, 16)},
        {"arch": "unet", "widths": (8,), "colour": 1},
        {"arch": "unet", "widths": (8,), "fields": 4},
        {"arch": "fcunet", "widths": (8,), "fields": 0},
        {"arch": "fcunet", "widths": (8,), "fourier_widths": (8,)},
        {"arch": "unet", "widths": (8,), "fourier_levels": (0,)},
        {"arch": "dualnet", "widths": (8, 16), "fourier_widths": (8,), "fourier_levels": (2,)},
        {"arch": "dualnet", "widths": (8, 16), "fourier_widths": (8,), "fourier_levels": (-1,)},
    ],
)
def test_a_bad_spec_is_refused(values):
    with pytest.raises(ValueError):
        DiskNetSpec.from_dict(values)


@pytest.mark.parametrize("name", SPECS)
def test_a_saved_spec_is_taken_back(name):
    saved = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(SPECS[name]).items()}
    assert DiskNetSpec.from_dict(saved) == SPECS[name]


@pytest.mark.parametrize(
    "spec", ["unet.huge", 5, {"arch": "resnet", "widths": [8]}, {"arch": "unet"}], ids=str
)
def test_weights_with_a_spec_of_another_kind_are_refused(tmp_path, spec):
    weights.save(tmp_path / "other.safetensors", {"x": torch.ones(1)}, {"spec": spec})
    with pytest.raises(weights.WeightsError, match="spec that is not valid"):
        load_network(tmp_path / "other.safetensors")


def test_weights_that_are_no_network_are_refused(tmp_path):
    weights.save(tmp_path / "other.safetensors", {"x": torch.ones(1)}, {})
    with pytest.raises(weights.WeightsError, match="spec"):
        load_network(tmp_path / "other.safetensors")
    metadata = {"spec": {"arch": "unet", "widths": [8, 8]}}
    weights.save(tmp_path / "torn.safetensors", {"x": torch.ones(1)}, metadata)
    with pytest.raises(weights.WeightsError, match="spec"):
        load_network(tmp_path / "torn.safetensors")
    with pytest.raises(ValueError, match="unknown network"):
        build_network("unet.huge")


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "name", [e.name for e in weights.read_registry().entries.values() if e.system == "disks"]
)
def test_shipped_weights_find_disks_that_anyone_sees(name, half):
    """Every registered network, on a lattice of clear disks it was not trained on."""
    network = load_network(name)
    rows, cols = np.indices((128, 128))
    probe = np.clip(5.5 - np.hypot(rows - 64, cols - 64), 0, 1).astype(np.float32)
    pattern = np.full((128, 128), 1e-4)
    places = [
        (64 + 20 * i + 3 * j, 64 - 3 * i + 20 * j) for i in range(-2, 3) for j in range(-2, 3)
    ]
    for row, col in places:
        falls = np.exp(-np.hypot(row - 64, col - 64) / 25)
        pattern += falls * np.clip(5.5 - np.hypot(rows - row, cols - col), 0, 1)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        found = network(torch.tensor(pattern[None], dtype=torch.float32), torch.tensor(probe))[0]
    for row, col in places:
        around = found[row - 2 : row + 3, col - 2 : col + 3]
        beside = (
            found[row + 9 : row + 12, col + 9 : col + 12] if max(row, col) < 110 else around * 0
        )
        assert around.max() > 3 * beside.clamp(min=0).max()
