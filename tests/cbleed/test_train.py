"""Short runs: they learn without labels, go on where they broke off, and leave what plots need."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_cbleed import SHORT

from py4dstem_ml import cli, weights
from py4dstem_ml.cbleed import train as module
from py4dstem_ml.cbleed.dataset import split
from py4dstem_ml.cbleed.network import (
    Autoencoder,
    Direct,
    NetworkSpec,
    build_network,
    load_network,
)
from py4dstem_ml.cbleed.train import (
    Stream,
    TrainConfig,
    read_reconstructions,
    sweep,
    train_on,
    watched_loss,
)

BRIEF = replace(SHORT, steps=3)
DIRECT = replace(SHORT, network=replace(SHORT.network, kind="direct"), steps=200)


def test_an_autoencoder_learns(data, trained):
    network = load_network(trained / "autoencoder.safetensors")
    images = data.images[torch.from_numpy(split(data.labels, "energies")["test"])]
    # Of one image for all, the loss would be as that of the mean.
    mean = data.images.mean(0, keepdim=True).expand_as(images)
    plain, same = module.normalised(images), module.normalised(mean)
    entropy = torch.nn.functional.binary_cross_entropy
    untold = float(entropy(same, plain) - entropy(plain, plain))
    assert watched_loss(network, images) < 0.5 * untold
    assert watched_loss(build_network(SHORT.network), images) > 2 * untold
    assert network.metadata["images"] == 4 * 18
    assert network.metadata["patterns_seen"] == SHORT.steps * SHORT.batch_size


def test_reconstructions_are_kept(trained):
    seen, made = read_reconstructions(trained)
    assert list(made) == ["step 100", "step 300"]
    error = [float((one - seen).abs().mean()) for one in made.values()]
    assert error[1] < error[0]


def test_labels_are_never_seen_by_an_autoencoder(data, tmp_path):
    rng = np.random.default_rng(0)
    plain = replace(BRIEF, split="paper", between=0.0)
    other = replace(data, labels=data.labels.copy())
    # The split follows from the labels: only those of the training images change their places.
    train = split(data.labels, "paper")["train"]
    stream = Stream(data.take(train), plain, torch.device("cpu"))
    other.labels[train] = rng.permutation(other.labels[train])
    again = Stream(other.take(train), plain, torch.device("cpu"))
    for (seen, target, told), (seen2, target2, told2), _ in zip(
        stream, again, range(2), strict=False
    ):
        assert torch.equal(seen, seen2) and torch.equal(target, target2)
        assert not torch.equal(told, told2)
    run = module.Trainer(build_network(plain.network), plain, tmp_path, torch.device("cpu"))
    assert torch.equal(run.loss(seen, target, told), run.loss(seen, target, 7 * told))


def test_a_direct_regressor_learns(data, tmp_path):
    path = train_on(data, tmp_path, DIRECT, device="cpu")
    network = load_network(path)
    assert isinstance(network, Direct)
    train = split(data.labels, "energies")["train"]
    with torch.no_grad():
        found = network.predict(module.normalised(data.images[torch.from_numpy(train)])).numpy()
    truth = data.labels[train]
    error = np.abs(found - truth).mean(0)
    assert error[0] < 0.5 * np.abs(truth[:, 0] - truth[:, 0].mean()).mean()
    assert ((found[:, 3] > 0.5) == (truth[:, 3] == 1)).mean() > 0.95


def test_a_resumed_run_goes_on(data, tmp_path):
    train_on(data, tmp_path, BRIEF, device="cpu")
    path = train_on(data, tmp_path, replace(BRIEF, steps=5), device="cpu", resume=True)
    assert load_network(path).metadata["patterns_seen"] == 5 * BRIEF.batch_size
    with pytest.raises(ValueError, match="another learning_rate"):
        train_on(data, tmp_path, replace(BRIEF, learning_rate=1.0), resume=True, device="cpu")


def test_a_time_limit_ends_a_run(data, tmp_path):
    path = train_on(data, tmp_path, replace(SHORT, steps=10**9, time_limit_s=0.5), device="cpu")
    assert load_network(path).metadata["patterns_seen"] > 0


def test_latent_sizes_are_swept_once(tiny_library, tmp_path, monkeypatch):
    found = sweep(tiny_library, tmp_path, BRIEF, sizes=(2, 3), device="cpu", progress=False)
    assert sorted(found) == [2, 3] and min(found.values()) > 0
    assert load_network(tmp_path / "latent-3" / "autoencoder.safetensors").spec.latent == 3
    assert json.loads((tmp_path / "sweep.json").read_text()) == {
        str(k): v for k, v in found.items()
    }
    asked = []
    real = module.train_on
    monkeypatch.setattr(
        module, "train_on", lambda *a, **k: (asked.append(a[2].network.latent), real(*a, **k))[1]
    )
    more = sweep(
        tiny_library, tmp_path, BRIEF, sizes=(2, 3, 4), device="cpu", resume=True, progress=False
    )
    # Those that are finished take no further step.
    assert asked == [2, 3, 4] and {size: more[size] for size in (2, 3)} == found
    with pytest.raises(ValueError, match="cannot be resumed with another learning_rate"):
        sweep(
            tiny_library, tmp_path, replace(BRIEF, learning_rate=1e-5), sizes=(2,), device="cpu",
            resume=True, progress=False,
        )  # fmt: skip


def test_the_papers_layers():
    network = Autoencoder(NetworkSpec())
    kinds = [type(layer).__name__ for layer in network.encoder.modules()]
    assert kinds.count("Conv2d") == kinds.count("MaxPool2d") == 3
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.padding == "same" and layer.stride == (1, 1)
    assert network.encode(torch.rand(2, 64, 64)).shape == (2, 8)
    assert network(torch.rand(2, 64, 64)).shape == (2, 64, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "oracle"}, "'autoencoder' or 'direct'"), ({"pixels": 60}, "halved"),
        ({"latent": 0}, "one latent"),
    ],
)  # fmt: skip
def test_impossible_networks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NetworkSpec(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "paper"}, "between=0"), ({"between": 2.0}, "a share"),
        ({"split": "none", "between": 0.0}, "a split is"),
        ({"network": NetworkSpec(pixels=32)}, "differ in their pixels"),
    ],
)  # fmt: skip
def test_impossible_runs_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


def test_weights_of_others_are_refused(tmp_path):
    path = weights.save(tmp_path / "other.safetensors", {"a": torch.ones(1)}, {})
    with pytest.raises(weights.WeightsError, match="does not hold a network"):
        load_network(path)
    said = {"cbleed_network": {"kind": "autoencoder", "channels": [4]}}
    path = weights.save(tmp_path / "old.safetensors", {"a": torch.ones(1)}, said)
    with pytest.raises(weights.WeightsError, match="another version"):
        load_network(path)


def test_from_the_command_line(tiny_library, tmp_path):
    words = ["train", "cbleed", "--library", str(tiny_library), "--output", str(tmp_path)]
    words += ["--channels", "2", "2", "2", "--steps", "1", "--batch-size", "4", "--device", "cpu"]
    assert cli.main([*words, "--split", "paper"]) == 0
    metadata = weights.load(tmp_path / "autoencoder.safetensors")[1]
    assert metadata["training"]["between"] == 0 and metadata["training"]["split"] == "paper"
    assert str(tmp_path) not in json.dumps(metadata)
    assert cli.main([*words, "--sweep", "2"]) == 0
    assert (tmp_path / "latent-2" / "autoencoder.safetensors").exists()
