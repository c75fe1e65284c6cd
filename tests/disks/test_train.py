"""From crystals to weights: shards, batches, a few steps of training, a resumed run."""

import dataclasses
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from py4dstem_ml import weights
from py4dstem_ml.disks import library, train
from py4dstem_ml.disks.augment import AugmentConfig
from py4dstem_ml.disks.network import load_network

TINY = library.LibraryConfig(
    size=64, crystals_per_shard=2, n_thickness=2, max_beams=40, thickness=(20.0, 100.0),
    pixel_size=(0.03, 0.04), radius_px=(1.2, 5.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def structures(write_crystals):
    """A table of cubic crystals, enough for both parts of the split."""
    n = 120
    return write_crystals(
        [(3.5 + 0.01 * i) * np.eye(3) for i in range(n)],
        [f"F{i // 2}" for i in range(n)],
        [f"P{i % 40}" for i in range(n)],
    )


@pytest.fixture(scope="module")
def shards(structures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    library.simulate(structures, folder, shards=2, config=TINY, progress=False)
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
    (first,) = library.simulate(structures, tmp_path, shards=1, config=TINY, progress=False)
    written = first.stat().st_mtime_ns
    paths = library.simulate(structures, tmp_path, shards=2, config=TINY, progress=False)
    assert len(paths) == 2
    assert first.stat().st_mtime_ns == written
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("differing", ["seed", "config", "table"])
def test_a_shard_of_something_else_is_not_taken_for_ours(structures, shards, tmp_path, differing):
    wanted = {"structures": str(structures), "seed": 0, "config": TINY}
    if differing == "seed":
        wanted["seed"] = 1
    elif differing == "config":
        wanted["config"] = dataclasses.replace(TINY, max_beams=41)
    else:
        with np.load(structures) as arrays:
            other = {**arrays, "lattice": 1.1 * arrays["lattice"]}
        np.savez(tmp_path / "other.npz", **other)
        wanted["structures"] = str(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=f"simulated with another {differing}: "):
        library.simulate_shard(0, output=str(shards), part="train", **wanted)


def test_a_shard_that_does_not_name_its_table_is_taken(structures, shards, tmp_path):
    old = tmp_path / "train-000000.h5"
    shutil.copy(shards / old.name, old)
    with h5py.File(old, "a") as file:
        del file.attrs["table"]
    arguments = {"structures": str(structures), "part": "train", "seed": 0, "config": TINY}
    assert library.simulate_shard(0, output=str(tmp_path), **arguments) == old


def test_threads_are_limited_in_workers_only(structures, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        library.simulate(structures, tmp_path, shards=1, config=TINY, progress=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_workers_make_the_same_shards(structures, shards, tmp_path):
    paths = library.simulate(
        structures, tmp_path, shards=2, config=TINY, processes=2, progress=False
    )
    for path in paths:
        with h5py.File(path) as one, h5py.File(shards / path.name) as other:
            np.testing.assert_array_equal(one["peaks"][:], other["peaks"][:])


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
    drawn = {part: library.draw_crystals(table, part, 200, rng) for part in library.PARTS}
    for names in (table.formula, table.prototype):
        assert not set(names[drawn["train"]]) & set(names[drawn["test"]])
    assert not set(table.formula[drawn["train"]]) & set(table.formula[drawn["validation"]])


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


@pytest.mark.parametrize(("in_memory", "batch_size"), [(1, 3), (2, 5), (1, 16)])
def test_no_pattern_is_lost_between_groups_of_shards(shards, monkeypatch, in_memory, batch_size):
    monkeypatch.setattr(train, "_SHARDS_IN_MEMORY", in_memory)
    augment = AugmentConfig(grain_share=0)
    stream = train.ShardStream(shards, _config(batch_size=batch_size), augment)
    full = 16 // batch_size
    seen = torch.cat([batch.patterns for batch, _ in zip(stream, range(full), strict=False)])
    assert len(torch.unique(seen.flatten(1), dim=0)) == full * batch_size


def test_too_few_patterns_or_shards_are_refused(shards):
    with pytest.raises(ValueError, match="a batch takes 17 patterns, but .* holds 16"):
        next(iter(train.ShardStream(shards, _config(batch_size=17), AugmentConfig())))
    for rank in range(3):
        with pytest.raises(ValueError, match="3 processes need as many shards"):
            train.ShardStream(shards, _config(), AugmentConfig(), rank=rank, processes=3)


def test_a_resumed_run_sees_another_order(shards):
    orders = []
    for step in (0, 0, 100):
        stream = train.ShardStream(shards, _config(), AugmentConfig(grain_share=0), step=step)
        orders.append(next(iter(stream)).patterns)
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


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
    longer = dataclasses.replace(config, steps=32, time_limit_s=600.0)
    train.train(shards, tmp_path, longer, augment=augment, device="cpu", resume=True)
    assert load_network(path).metadata["patterns_seen"] == 128

    other = dataclasses.replace(longer, averaging=0.99, seed=1)
    with pytest.raises(ValueError, match=r"averaging \(0\.9 in .* not 0\.99\), seed \(0 in"):
        train.train(shards, tmp_path, other, augment=augment, device="cpu", resume=True)


def test_an_interrupted_run_can_be_resumed(shards, tmp_path, monkeypatch):
    step = train.Trainer.train_step

    def until_the_third(trainer, batch):
        if trainer.step == 3:
            raise KeyboardInterrupt
        return step(trainer, batch)

    with monkeypatch.context() as patched:
        patched.setattr(train.Trainer, "train_step", until_the_third)
        with pytest.raises(KeyboardInterrupt):
            train.train(shards, tmp_path, _config(steps=5), device="cpu")
    path = train.train(shards, tmp_path, _config(steps=5), device="cpu", resume=True)
    assert load_network(path).metadata["patterns_seen"] == 20


def test_a_loss_that_is_not_finite_keeps_the_weights(shards, tmp_path, monkeypatch):
    path = train.train(shards, tmp_path, _config(steps=2), device="cpu")
    before = {file.name: file.read_bytes() for file in tmp_path.glob("*.safetensors")}
    monkeypatch.setattr(train, "relative_error", lambda maps, targets: maps.sum() * np.nan)
    with pytest.raises(RuntimeError, match="the loss is nan at step 2.*lower learning rate"):
        train.train(shards, tmp_path, _config(steps=9), device="cpu", resume=True, save_every_s=0)
    assert before == {file.name: file.read_bytes() for file in tmp_path.glob("*.safetensors")}
    assert load_network(path).metadata["patterns_seen"] == 8


_PROCESS = """
import sys, time
clock = time.monotonic
if sys.argv[1] == "1":  # by its own clock this process would go on four times as long
    start = clock()
    time.monotonic = lambda: start + 0.25 * (clock() - start)
import torch
from py4dstem_ml.disks import train
torch.set_num_threads(1)
config = train.TrainConfig("unet.compact", batch_size=2, steps=10**6, time_limit_s=3.0)
train.train(sys.argv[2], sys.argv[3], config, device="cpu")
"""


@pytest.mark.slow
def test_two_processes_stop_together_at_the_time_limit(shards, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, rank, str(shards), str(tmp_path)],
            env={**os.environ, **group, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    try:
        for process in running:
            _, said = process.communicate(timeout=120)
            assert process.returncode == 0, said
    finally:
        for process in running:
            process.kill()
    assert load_network(tmp_path / "unet.compact.safetensors").metadata["seconds"] >= 3


_BARE = """
import sys
class Only:
    allowed = set(sys.stdlib_module_names) | {
        "py4dstem_ml", "torch", "torchgen", "numpy", "scipy", "h5py", "safetensors",
        # what torch itself cannot do without
        "typing_extensions", "sympy", "mpmath", "filelock", "fsspec", "networkx", "jinja2",
        "markupsafe",
    }
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *where):
        root = name.split(".")[0]
        if root in self.allowed or root.startswith("_"):
            return self.finder.find_spec(name, *where)
sys.meta_path[:] = map(Only, sys.meta_path)
from py4dstem_ml import weights
from py4dstem_ml.disks import library, train
config = train.TrainConfig("unet.compact", batch_size=4, steps=1)
train.train(sys.argv[1], sys.argv[2], config, device="cpu")
tiny = library.LibraryConfig(**eval(sys.argv[4]))
library.simulate(sys.argv[3], sys.argv[2], shards=1, progress=True, config=tiny)
"""


def test_training_needs_few_libraries(structures, shards, tmp_path):
    arguments = [shards, tmp_path, structures, dataclasses.asdict(TINY)]
    done = subprocess.run(
        [sys.executable, "-c", _BARE, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for made in ("unet.compact.safetensors", "train-000000.h5"):
        assert (tmp_path / made).exists()


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


def test_trained_weights_are_tuned_finer(shards, tmp_path):
    first = train.train(shards, tmp_path / "first", _config(steps=1), device="cpu")
    config = _config(steps=1, seed=7, start_from=str(first), learning_rate=0.0, averaging=0.0)
    second = train.train(shards, tmp_path / "second", config, device="cpu")
    fresh = train.train(
        shards, tmp_path / "fresh", dataclasses.replace(config, start_from=None), device="cpu"
    )
    tuned, metadata = weights.load(second)
    for key, value in load_network(first).named_parameters():
        torch.testing.assert_close(tuned[key], value.detach(), rtol=0, atol=0)
    assert (weights.load(fresh)[0]["head.weight"] != tuned["head.weight"]).all()
    assert metadata["start_sha256"] == hashlib.sha256(first.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="written over"):
        train.train(shards, tmp_path / "first", config, device="cpu")
    first.unlink()  # a resumed run has its own checkpoint
    train.train(
        shards, tmp_path / "second", dataclasses.replace(config, steps=2), device="cpu", resume=True
    )
    with pytest.raises(ValueError, match=r"not weights of a specunet\.compact"):
        train.train(
            shards,
            tmp_path,
            _config(network="specunet.compact", start_from=str(second)),
            device="cpu",
        )
