"""Networks by name: built, saved, read, and refused."""

import pytest
import torch
from tiny_lacbed import FCC, TINY, saved, tiny_network

from py4dstem_ml import Crystal, WeightsError, weights
from py4dstem_ml.lacbed.bragg_lines import unfolded
from py4dstem_ml.lacbed.bright_field import BrightField, coefficients_of
from py4dstem_ml.lacbed.natural import natural_potential
from py4dstem_ml.lacbed.network import SPECS, build_network, direction_of, load_network
from py4dstem_ml.lacbed.scores import likeness


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_saved_and_read(name, tmp_path):
    network = load_network(saved(name, tmp_path, untrained=True, seed=5))
    assert network.name == name and network.spec == TINY[name] and not network.training
    assert network.metadata["seed"] == 5 and network.direction == name.split(".")[1]
    given, tau = torch.randn(2, 16, 16), torch.tensor([0.1, 0.5])
    expected = tiny_network(name).eval()(given, tau)
    torch.testing.assert_close(network(given, tau), expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("name", [name for name in SPECS if name.endswith("compact")])
def test_every_compact_network_answers(name):
    network = build_network(name).eval()
    with torch.no_grad():
        found = network(torch.randn(1, 64, 64), torch.tensor([0.2]))
    assert found.shape == (1, 64, 64) and torch.isfinite(found).all()
    assert network.direction == direction_of(name)


@pytest.mark.parametrize("architecture", ["linenet", "pix2pix"])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_full_networks_are_larger(architecture, direction):
    sizes = [
        sum(p.numel() for p in build_network(f"{architecture}.{direction}.{size}").parameters())
        for size in ("compact", "full")
    ]
    assert sizes[1] > 2 * sizes[0]


def test_pictures_of_another_size():
    assert build_network("linenet.forward.compact", 128).spec.pixels == 128


@pytest.mark.parametrize(
    "name",
    [e.name for e in weights.read_registry().entries.values()
     if e.system in ("lacbed", "lacbed-inverse")],
)  # fmt: skip
def test_shipped_networks_answer_alike_in_half_precision(name):
    network = load_network(name)
    copper = Crystal.cubic(3.61, [29] * 4, FCC)
    u, tau = natural_potential(copper, 64, 200e3)[None].float(), torch.tensor([0.4])
    engine = BrightField(64, 8.0)
    given = u if network.direction == "forward" else unfolded(engine(coefficients_of(u[0]), tau))
    found = []
    for half in (False, True):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            found.append(network(given, tau).float())
    assert likeness(*found) > 0.999
    assert float(found[1].std() / found[0].std()) == pytest.approx(1.0, abs=0.03)


def test_unknown_names_are_refused():
    for call in (build_network, direction_of):
        with pytest.raises(ValueError, match="no network 'linenet.sideways'; there are"):
            call("linenet.sideways")


def test_other_weights_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    weights.save(path, {"x": torch.zeros(1)}, {})
    with pytest.raises(WeightsError, match="does not hold a network for LACBED"):
        load_network(path)


@pytest.mark.parametrize("change", [{"cell": 8}, {"colour": 3}, {"name": "circlenet.forward.a"}])
def test_weights_of_another_version_are_refused(change, tmp_path):
    path = saved("linenet.forward.tiny", tmp_path)
    tensors, metadata = weights.load(path)
    weights.save(path, tensors, {"lacbed": {**metadata["lacbed"], **change}})
    with pytest.raises(WeightsError, match="another version of the networks"):
        load_network(path)
