"""From crystals to weights: shards, batches, a few steps of training, a resumed run."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from py4dstem_ml.disks import library, train
from py4dstem_ml.disks.augment import AugmentConfig
from py4dstem_ml.disks.network import load_network

TINY = library.LibraryConfig(
    size=64, crystals_per_shard=2, n_thickness=2, max_beams=40, thickness=(20.0, 100.0),
    pixel_size=(0.03, 0.04), radius_px=(1.2, 5.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def structures(tmp_path_factory):
    """A table of cubic crystals, enough for both parts of the split."""
    path = tmp_path_factory.mktemp("table") / "structures.npz"
    n = 120
    np.savez(
        path,
        lattice=np.array([(3.5 + 0.01 * i) * np.eye(3) for i in range(n)]),
        numbers=np.tile([29, 8], n),
        positions=np.tile([[0, 0, 0], [0.5, 0.5, 0.5]], (n, 1)).astype(float),
        offsets=np.arange(0, 2 * n + 1, 2),
        formula=np.array([f"F{i // 2}" for i in range(n)]),
        prototype=np.array([f"P{i % 40}" for i in range(n)]),
    )
    return path


@pytest.fixture(scope="module")
def shards(structures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    list(library.simulate(structures, folder, shards=2, config=TINY, progress=False))
    return folder


def test_a_shard_depends_on_seed_and_number_alone(structures, shards, tmp_path):
    again = library.simulate_shard(
        1, structures=str(structures), output=str(tmp_path), part="train", seed=0, config=TINY
    )
    with h5py.File(again) as one, h5py.File(shards / again.name) as other:
        np.testing.assert_array_equal(one["patterns"][:], other["patterns"][:])
        np.testing.assert_array_equal(one["peaks"][:], other["peaks"][:])
        assert json.loads(one.attrs["config"])["max_beams"] == 40


def test_a_broken_off_library_goes_on(structures, tmp_path):
    first = next(
        iter(library.simulate(structures, tmp_path, shards=1, config=TINY, progress=False))
    )
    written = first.stat().st_mtime_ns
    paths = list(library.simulate(structures, tmp_path, shards=2, config=TINY, progress=False))
    assert len(paths) == 2
    assert first.stat().st_mtime_ns == written
    assert not list(tmp_path.glob("*.part"))


def test_what_a_shard_holds(shards):
    shard = library.read_shard(shards / "train-000000.h5")
    assert shard.patterns.shape == (8, 64, 64)  # crystals x thicknesses x semi-angles
    assert shard.patterns.max() == pytest.approx(1)
    assert len(shard.peaks) == 8
    for pattern, peaks in zip(shard.patterns, shard.peaks, strict=True):
        assert peaks[0, 2] == peaks[:, 2].max()
        np.testing.assert_allclose(peaks[0, :2], 32)  # the direct beam
        assert pattern[32, 32] > 0
    assert (shard.radius_px >= 1.2).all()
    assert (shard.radius_px <= 5).all()


def test_test_crystals_are_not_trained_on(structures):
    rng = np.random.default_rng(0)
    table = library.CrystalTable(structures)
    drawn = {part: library.draw_crystals(table, part, 200, rng) for part in ("train", "test")}
    for names in (table.formula, table.prototype):
        assert not set(names[drawn["train"]]) & set(names[drawn["test"]])


def _config(**changes):
    return train.TrainConfig(**{"network": "unet.compact", "batch_size": 4, "steps": 4, **changes})


def test_batches_hold_every_pattern_once_an_epoch(shards):
    stream = train.ShardStream(shards, _config(), AugmentConfig(grain_share=0))
    batches = [batch for batch, _ in zip(stream, range(4), strict=False)]
    everything = torch.cat([batch.patterns for batch in batches])
    assert len(everything) == 16
    assert len(torch.unique(everything.flatten(1), dim=0)) == 16
    torch.testing.assert_close(everything.sum((1, 2)), torch.ones(16), rtol=1e-3, atol=0)
    target = train.target_map(batches[0].peaks, (64, 64))
    assert target.amax((1, 2)) == pytest.approx(1, abs=0.01)


def test_training_learns_and_resumes(shards, tmp_path):
    config = _config(steps=30, averaging=0.9)
    augment = AugmentConfig(clean_share=1, background_share=0, warp_share=0, fault_share=0)
    path = train.train(shards, tmp_path, config, augment=augment, device="cpu")
    network = load_network(path)
    assert network.metadata["training"]["steps"] == 30
    assert network.metadata["patterns_seen"] == 120

    batch = next(iter(train.ShardStream(shards, config, augment)))
    with torch.inference_mode():
        maps = network(batch.patterns, batch.probes)
    error = train.relative_error(maps, train.target_map(batch.peaks, (64, 64)))
    assert float(error) < 0.95  # an untrained network says 1

    before = {key: value.clone() for key, value in network.state_dict().items()}
    resumed = train.Trainer(_config(steps=32, averaging=0.9), Path(tmp_path), torch.device("cpu"))
    resumed.resume()
    assert resumed.step == 30
    for key, value in resumed.average.module.state_dict().items():
        torch.testing.assert_close(value, before[key])
    assert resumed.optimizer.state_dict()["state"][0]["exp_avg"].abs().sum() > 0
    train.train(shards, tmp_path, _config(steps=32), augment=augment, device="cpu", resume=True)
    assert load_network(path).metadata["patterns_seen"] == 128


def test_a_time_limit_ends_the_run_with_weights(shards, tmp_path):
    config = _config(steps=10**6, time_limit_s=2.0)
    path = train.train(shards, tmp_path, config, device="cpu")
    assert 1.5 < load_network(path).metadata["seconds"] < 20


def test_the_learning_rate_rises_then_falls(tmp_path):
    trainer = train.Trainer(_config(steps=1000), tmp_path, torch.device("cpu"))
    rates = []
    for trainer.step in range(0, 1001, 10):
        rates.append(trainer.learning_rate())
    peak = int(np.argmax(rates))
    assert 0 < peak <= 3
    assert (np.diff(rates[peak:]) <= 0).all()
    assert rates[-1] < 0.02 * max(rates)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="simulate disks"):
        train.ShardStream(tmp_path, _config(), AugmentConfig())
