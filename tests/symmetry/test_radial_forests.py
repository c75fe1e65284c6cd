"""The forests of one file: single lists, bags, and other versions refused."""

import numpy as np
import pytest
import torch

from py4dstem_ml import weights
from py4dstem_ml.symmetry.lists import BraggLists
from py4dstem_ml.symmetry.radial_forests import RadialForests, radial_features


def test_a_single_list(forests, lists):
    found = forests.read(lists)
    x = radial_features(lists)
    votes = forests.system.votes(x).numpy() / 9
    np.testing.assert_array_equal(found.system, forests.system.probabilities(x).argmax(1))
    np.testing.assert_allclose(found.confidence, votes.max(1), rtol=1e-6)
    np.testing.assert_allclose(found.difference, np.abs(votes[:, 0] - votes[:, 1]), atol=1e-6)
    for system in (0, 1):
        where = found.system == system
        trees = forests.lattice[system].predictions(x).numpy()
        np.testing.assert_allclose(found.lattice[where], np.median(trees, 1)[where], rtol=1e-6)
        assert set(found.space_group[where]) <= set(forests.group[system].classes)
    assert np.isnan(found.mixed).all() and found.valid.all()


def test_counts_and_fractions_mean_the_same(forests, lists):
    counts = BraggLists(lists.peaks * [1, 1, 5e3], lists.offsets)
    np.testing.assert_array_equal(forests.read(counts).system, forests.read(lists).system)


def test_bags_are_led_by_differences(forests, lists):
    bag = np.arange(len(lists)) % 3
    found, single = forests.pool(lists, bag), forests.read(lists)
    for number in range(3):
        own = bag == number
        weight = np.bincount(single.system[own], single.difference[own], minlength=7)
        assert found.system[number] == weight.argmax()
        np.testing.assert_allclose(found.probabilities[number], weight / weight.sum(), atol=1e-4)
        assert found.confidence[number] == pytest.approx(weight.max() / weight.sum(), rel=1e-5)
        x = radial_features(lists)[own]
        trees = forests.lattice[weight.argmax()].predictions(x).numpy()
        expected = np.median(np.median(trees, 1), 0)
        np.testing.assert_allclose(found.lattice[number], expected, rtol=1e-6)


def test_forests_of_systems_alone(forests, lists):
    alone = RadialForests(forests.system, {}, {}, "radial basis")
    found, pooled = alone.read(lists), alone.pool(lists, np.arange(len(lists)) % 2)
    np.testing.assert_array_equal(found.system, forests.read(lists).system)
    assert (found.space_group == -1).all() and np.isnan(pooled.lattice).all()


def test_space_group_and_lattice_of_another_system(forests, lists):
    other = 1 - forests.read(lists).system.astype(int)
    found = forests.read(lists, other)
    for number, system in enumerate(other):
        assert found.space_group[number] in forests.group[system].classes


def test_saved_and_read(forests, forest_file, lists):
    again = RadialForests.load(forest_file)
    assert set(again.group) == set(again.lattice) == {0, 1}
    one, other = forests.read(lists), again.read(lists)
    np.testing.assert_array_equal(one.probabilities, other.probabilities)
    np.testing.assert_array_equal(one.space_group, other.space_group)
    np.testing.assert_array_equal(one.lattice, other.lattice)


def test_other_files_are_refused(forest_file, tmp_path):
    path = tmp_path / "a.safetensors"
    weights.save(path, {"x": torch.zeros(1)}, {})
    with pytest.raises(weights.WeightsError, match="does not hold forests"):
        RadialForests.load(path)
    tensors, metadata = weights.load(forest_file)
    weights.save(path, tensors, {**metadata, "features": "radial basis 21x13"})
    with pytest.raises(weights.WeightsError, match="for other features"):
        RadialForests.load(path)
