"""The network: what it returns, and what it must not depend on."""

import numpy as np
import pytest
import torch
from bragg_lists import random_lists

from py4dstem_ml import weights
from py4dstem_ml.symmetry.crystal_classes import EQUAL_AXES, SYSTEM_OF_GROUP, space_groups
from py4dstem_ml.symmetry.network import build_network, load_network, save_network


@pytest.fixture
def network(network_file):
    return load_network(network_file)


@pytest.fixture
def bags():
    return torch.from_numpy(random_lists(15).padded(32)).unflatten(0, (3, 5))


def _read(network, bags):
    return network.read(network.embed(network.features(bags)))


def test_probabilities_sum_to_one(network, bags):
    reading = _read(network, bags)
    torch.testing.assert_close(reading.system.exp().sum(-1), torch.ones(3, 5))
    for system in range(7):
        of_system = reading.group[..., torch.from_numpy(space_groups(system) - 1)]
        torch.testing.assert_close(of_system.exp().sum(-1), torch.ones(3, 5))


def test_equal_axes_are_equal(network, bags):
    lattice = _read(network, bags).lattice
    for system, axes in enumerate(EQUAL_AXES):
        torch.testing.assert_close(lattice[..., system, :], lattice[..., system, list(axes)])
    assert (lattice[..., 6, 0] != lattice[..., 6, 1]).all()


def test_a_bag_has_no_order_and_no_absent_lists(network, bags):
    features = network.features(bags)
    present = torch.tensor([[1, 1, 1, 0, 0]] * 3)
    whole = network.pool(network.embed(features), features, present)
    order = torch.tensor([2, 0, 1, 4, 3])
    other_bags = bags[:, order].clone()
    other_bags[:, 3:] = torch.rand_like(other_bags[:, 3:])
    features = network.features(other_bags)
    other = network.pool(network.embed(features), features, present)
    for one, two in zip(whole, other, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_saved_and_read(network, bags, tmp_path):
    path = tmp_path / "a.safetensors"
    save_network(network, path, {"seed": 5})
    again = load_network(path)
    assert again.spec == network.spec and again.metadata["seed"] == 5 and not again.training
    for one, two in zip(_read(again, bags), _read(network, bags), strict=True):
        torch.testing.assert_close(one, two)


def test_other_weights_are_refused(network, tmp_path):
    path = tmp_path / "a.safetensors"
    weights.save(path, {"x": torch.zeros(1)}, {})
    with pytest.raises(weights.WeightsError, match="does not hold a network"):
        load_network(path)
    tensors, metadata = weights.load(save_and_path(network, path))
    metadata["peakset"]["invariants"]["pair_angles"] = 3
    weights.save(path, tensors, {"peakset": metadata["peakset"]})
    with pytest.raises(weights.WeightsError, match="another version"):
        load_network(path)


def save_and_path(network, path):
    save_network(network, path, {})
    return path


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no network 'peakste'"):
        build_network("peakste")


def test_space_groups_belong_to_one_system():
    assert np.bincount(SYSTEM_OF_GROUP).tolist() == [36, 27, 25, 68, 59, 13, 2]
