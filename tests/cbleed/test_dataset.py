"""Libraries in memory: labels, splits, both tilts, and what lies between grid points."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_cbleed import SCREEN, TINY

from py4dstem_ml.cbleed import library
from py4dstem_ml.cbleed.dataset import Between, CbleedData, split


def test_images_and_labels_belong_together(data, tiny_library):
    assert data.images.shape == (108, 32, 32) and data.labels.shape == (108, 4)
    torch.testing.assert_close(data.images.sum((1, 2)), torch.ones(108))
    disks, structures = library.read_shard(tiny_library / "cbleed-000001.h5")
    chosen = np.flatnonzero(data.labels[:, 0] == 45)
    np.testing.assert_array_equal(data.labels[chosen, 1:], structures[:, [1, 2, 0]])
    np.testing.assert_array_equal(data.images[chosen].numpy(), SCREEN.drawn(disks))


def test_both_tilts_are_symmetric(tiny_library, data):
    both = CbleedData.read(tiny_library, SCREEN, averaged=True, progress=False)
    buckled = torch.from_numpy(data.labels[:, 3] == 1)
    flipped = both.images.flip(2)
    torch.testing.assert_close(both.images, flipped, atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(both.images[~buckled], data.images[~buckled])
    apart = (both.images - data.images)[buckled].abs().sum((1, 2))
    assert apart.min() > 0.1


def grid_labels():
    axes = np.arange(30, 101.0), [-0.1, 0.0, 0.1], [-0.2, 0.0, 0.2], [0, 1]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 4)


def test_splits_hold_out_what_they_say():
    labels = grid_labels()
    for rule in ("paper", "energies", "all"):
        parts = split(labels, rule)
        together = np.concatenate(list(parts.values()))
        assert sorted(together) == list(range(len(labels)))
        energies = {name: set(labels[chosen, 0]) for name, chosen in parts.items()}
        if rule == "paper":
            assert len(parts["test"]) == pytest.approx(0.2 * len(labels), rel=0.15)
            assert len(energies["test"]) > 60
        else:
            assert energies["validation"] == {34, 48, 62, 76, 90}
            assert not energies["train"] & (energies["test"] | energies["validation"])
            wanted = set(range(31, 101, 7)) if rule == "energies" else set()
            assert energies["test"] == wanted


def test_an_image_stays_where_it_is_split_to():
    labels = grid_labels()
    few = labels[labels[:, 1] != 0.1]
    tested = {tuple(row) for row in labels[split(labels, "paper")["test"]]}
    again = {tuple(row) for row in few[split(few, "paper")["test"]]}
    assert again == {row for row in tested if row[1] != 0.1}


def test_energies_near_held_out_ones_are_held_out_too():
    labels = np.array([[44.4, 0, 0, 0], [44.6, 0, 0, 0], [45.4, 0, 0, 0], [45.6, 0, 0, 0]])
    assert split(labels, "energies")["test"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="a split is one of"):
        split(labels, "none")


def smooth(labels):
    energy, height, length, kind = np.asarray(labels, dtype=float).T
    value = 2 + np.sin(energy / 6) + (1 + kind) * np.cos(8 * height) * (1 + length)
    return torch.from_numpy(np.stack([value, value**2], axis=1)[:, None]).float()


def test_between_grid_points_a_smooth_function_is_found():
    labels = grid_labels()
    kept = ~np.isin(labels[:, 0], (45, 48))  # as the split leaves them
    drawn = np.array([[50.3, 0.013, 0.04, 0], [50.3, 0.07, 0.1, 1]])  # of a random library
    all_labels = np.concatenate([drawn, labels[kept]])
    order = np.random.default_rng(0).permutation(len(all_labels))
    between = Between(smooth(all_labels[order]), all_labels[order])
    assert len(between.energies) == 69 and len(between.heights) == 3
    images, where = between.draw(200, np.random.default_rng(1))
    assert (images - smooth(where)).abs().max() < 0.01 * smooth(where).max()
    assert len(np.unique(where[:, 0])) == 8 and set(where[:, 3]) == {0, 1}
    exact = between.at(47.0, 1, [[0.1, -0.2]])
    torch.testing.assert_close(exact, smooth([[47, 0.1, -0.2, 1]]))


def test_between_needs_a_grid():
    labels = np.random.default_rng(0).random((50, 4))
    with pytest.raises(ValueError, match="need a grid"):
        Between(smooth(labels), labels)


def test_folders_of_one_physics_go_together(tiny_library, random_library, tmp_path):
    both = CbleedData.read([tiny_library, random_library], SCREEN, progress=False)
    assert len(both) == 108 + 20 and len(set(both.origins)) == 2
    with pytest.raises(FileNotFoundError, match="simulate cbleed"):
        CbleedData.read(tmp_path, SCREEN)
    other = replace(TINY, physics=replace(TINY.physics, absorption_ev=5.0))
    library.simulate(tmp_path, config=other, shards=1, progress=False)
    with pytest.raises(ValueError, match="different physics"):
        CbleedData.read([tiny_library, tmp_path], SCREEN, progress=False)
