"""Short runs: they learn, go on where they broke off, and leave weights that predict."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from py4dstem_ml import cli, weights
from py4dstem_ml.physics.structures import CrystalTable
from py4dstem_ml.symmetry import network
from py4dstem_ml.symmetry.dataset import Labels, ListSet, split_materials
from py4dstem_ml.symmetry.invariants import Invariants
from py4dstem_ml.symmetry.network import PeakSetSpec, load_network
from py4dstem_ml.symmetry.radial_forests import RadialForests
from py4dstem_ml.symmetry.train import BagStream, TrainConfig, train
from py4dstem_ml.symmetry.train_forest import ForestConfig, train_forests

SHORT = TrainConfig(network="tiny", bags=8, lists=3, steps=120, split="paper", learning_rate=3e-3)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    spec = PeakSetSpec(
        Invariants(spots=24, pair_spots=16), width=48, depth=1, embedding=24, dropout=0.0
    )
    monkeypatch.setattr(network, "SPECS", {**network.SPECS, "tiny": spec})


def test_a_run_learns_and_calibrates(small_library, structures, tmp_path):
    path = train(small_library, structures, tmp_path, SHORT, device="cpu")
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [100]
    trained = load_network(path)
    parts = split_materials(CrystalTable(structures), "paper")
    assert trained.metadata["trained_materials"] == len(parts["train"])
    assert trained.metadata["lists_seen"] == 120 * 8 * 3
    assert set(trained.metadata["calibration"]) == {"single", "pooled"}
    lists = ListSet.read(small_library, parts["train"], progress=False)
    labels = Labels.of(CrystalTable(structures)).system[lists.material]
    peaks = torch.from_numpy(lists.lists.padded(32))
    called = trained.read(trained.embed(trained.features(peaks))).system.argmax(-1).numpy()
    # Cubic or tetragonal by 10 to 20 % is easily told.
    assert (called == labels).mean() > 0.75


def test_a_resumed_run_goes_on(small_library, structures, tmp_path):
    train(small_library, structures, tmp_path, replace(SHORT, steps=6), device="cpu")
    longer = replace(SHORT, steps=9)
    path = train(small_library, structures, tmp_path, longer, device="cpu", resume=True)
    assert load_network(path).metadata["lists_seen"] == 9 * 8 * 3
    with pytest.raises(ValueError, match="another learning_rate"):
        train(
            small_library, structures, tmp_path, replace(longer, learning_rate=1e-4),
            device="cpu", resume=True,
        )  # fmt: skip


def test_systems_are_balanced(small_library, structures):
    labels = Labels.of(CrystalTable(structures))
    lists = ListSet.read(small_library, progress=False)
    few = lists.take((lists.material % 2 == 0) | (lists.material < 6))
    stream = BagStream(few, labels, replace(SHORT, balance=0.0, bags=2000))
    share = (next(iter(stream)).system == 0).float().mean()
    assert share == pytest.approx(0.5, abs=0.05)


def test_some_bags_are_of_one_axis(small_library, structures):
    lists = ListSet.read(small_library, progress=False)
    stream = BagStream(lists, Labels.of(CrystalTable(structures)), replace(SHORT, one_axis=0.4))
    axes = [len(set(lists.axis[stream._rows(stream.of_material[3])])) for _ in range(400)]
    assert 0.3 < np.mean(np.array(axes) == 1) < 0.7


def test_resized_crystals_have_resized_lattices(small_library, structures):
    lists = ListSet.read(small_library, [0], progress=False)
    labels = Labels.of(CrystalTable(structures))
    plain, drawn = (
        next(iter(BagStream(lists, labels, replace(SHORT, resized=share)))) for share in (0.0, 0.2)
    )
    nearest = [bags.peaks[..., :2].norm(dim=-1).amax((1, 2)) for bags in (plain, drawn)]
    larger = (drawn.lattice - plain.lattice)[:, 0]
    assert larger.std() > 0.05
    torch.testing.assert_close(nearest[1] / nearest[0], (-larger).exp(), rtol=1e-4, atol=1e-4)


def test_forests_are_trained(small_library, structures, tmp_path):
    config = ForestConfig("paper", parts=2, system_leaves=20, group_leaves=10, lattice_leaves=20)
    path = train_forests(small_library, structures, tmp_path, config, jobs=1)
    forests = RadialForests.load(path)
    assert set(forests.group) == set(forests.lattice) == {0, 3} and len(forests.system) == 64
    parts = split_materials(CrystalTable(structures), "paper")
    lists = ListSet.read(small_library, parts["train"], progress=False)
    labels = Labels.of(CrystalTable(structures))
    found = forests.read(lists.lists)
    right = found.system == labels.system[lists.material]
    assert right.mean() > 0.9
    group = found.space_group == labels.group[lists.material]
    np.testing.assert_array_equal(group[right], True)
    error = np.abs(found.lattice - labels.lattice[lists.material])[right]
    assert np.median(error) < 0.2


def test_more_parts_than_trees_are_refused():
    with pytest.raises(ValueError, match="1 to 40"):
        ForestConfig(parts=64)


def test_from_the_command_line(small_library, structures, tmp_path, capsys):
    common = ["--library", str(small_library), "--structures", str(structures)]
    common += ["--output", str(tmp_path)]
    assert cli.main(["train", "symmetry", *common, "--steps", "1", "--split", "paper"]) == 0
    assert (tmp_path / "peakset.safetensors").exists()
    name = str(tmp_path / "peakset.safetensors")
    evaluated = ["evaluate", "symmetry", *common[:4], "--model", name, "--split", "paper"]
    figure = tmp_path / "reliability.png"
    assert cli.main([*evaluated, "--figure", str(figure)]) == 0
    printed = capsys.readouterr().out
    assert "| 20 % spurious spots |" in printed and "| paper | its split | zones |" in printed
    assert figure.stat().st_size > 5000
    assert cli.main([*evaluated[:-1], "strict"]) == 1
    assert "were seen in training" in capsys.readouterr().err
    _, metadata = weights.load(name)
    assert str(tmp_path) not in json.dumps(metadata)
