"""Short runs: they learn, go on where they broke off, and leave weights that predict."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_lacbed import saved

from py4dstem_ml import cli
from py4dstem_ml.lacbed import train as module
from py4dstem_ml.lacbed.dataset import SPLIT_RULE, split_materials
from py4dstem_ml.lacbed.network import load_network
from py4dstem_ml.lacbed.pix2pix import discriminator_loss
from py4dstem_ml.lacbed.scores import pearson
from py4dstem_ml.lacbed.train import (
    Stream,
    TrainConfig,
    Trainer,
    batch_of,
    picture_loss,
    potential_loss,
    relative_difference,
    train,
    watched_likeness,
)
from py4dstem_ml.weights import load

pytestmark = pytest.mark.usefixtures("tiny_specs")

SHORT = TrainConfig(
    network="linenet.forward.tiny", batch_size=8, steps=100, learning_rate=5e-3, averaging=0.9
)
CPU = torch.device("cpu")


@pytest.fixture
def parts(data):
    return split_materials(data.formula, data.prototype)


def _trainer(name, folder, **options):
    return Trainer(replace(SHORT, network=name, **options), folder, CPU, 16)


def test_a_run_learns_the_crystals_that_it_sees(small_library, data, parts, tmp_path):
    config = replace(SHORT, network="linenet.inverse.tiny")
    path = train(small_library, tmp_path, config, device="cpu")
    before = _trainer(config.network, tmp_path).network
    values = [watched_likeness(n, data, parts["train"], CPU) for n in (before, load_network(path))]
    assert values[1] > values[0] + 0.2
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [100]


def test_a_run_mends_the_picture_of_few_beams(small_library, data, parts, tmp_path, monkeypatch):
    wrong = replace(data, few_beams=data.few_beams.flip(1))
    monkeypatch.setattr(module.LacbedData, "read", lambda *_: wrong)
    path = train(small_library, tmp_path, replace(SHORT, steps=150), device="cpu")
    before = _trainer(SHORT.network, tmp_path).network
    values = [watched_likeness(n, wrong, parts["train"], CPU) for n in (before, load_network(path))]
    assert 1 - values[1] < 0.6 * (1 - values[0])


def test_weights_tell_what_they_were_trained_on(small_library, tmp_path):
    config = replace(SHORT, steps=2)
    said = load_network(train(small_library, tmp_path, config, device="cpu")).metadata
    assert said["range_a"] == [3.6, 5.3] and said["crystals"] == 6
    assert said["thicknesses"] == [200.0, 600.0] and said["energy_ev"] == 200e3
    assert said["absorption"] is False
    assert said["split_rule"] == SPLIT_RULE and said["patterns_seen"] == 16
    assert said["training"]["network"] == "linenet.forward.tiny"
    assert str(tmp_path) not in json.dumps(said)


def test_a_resumed_run_goes_on(small_library, tmp_path):
    train(small_library, tmp_path, replace(SHORT, steps=3), device="cpu")
    longer = replace(SHORT, steps=5)
    path = train(small_library, tmp_path, longer, device="cpu", resume=True)
    assert load_network(path).metadata["patterns_seen"] == 40
    other = replace(longer, learning_rate=1e-4)
    with pytest.raises(ValueError, match="another learning_rate"):
        train(small_library, tmp_path, other, device="cpu", resume=True)


def test_a_run_starts_from_trained_weights(small_library, tmp_path):
    first = saved("linenet.forward.tiny", tmp_path)
    config = replace(SHORT, steps=1, learning_rate=1e-9, start_from=str(first))
    path = train(small_library, tmp_path / "out", config, device="cpu")
    for name, value in load(first)[0].items():
        torch.testing.assert_close(load(path)[0][name], value, atol=1e-3, rtol=1e-3)
    other = replace(config, network="linenet.inverse.tiny")
    with pytest.raises(ValueError, match="are not weights of a linenet.inverse.tiny"):
        train(small_library, tmp_path / "other", other, device="cpu")
    stale = saved("linenet.forward.tiny", tmp_path, split_rule=0)
    with pytest.raises(ValueError, match="another split"):
        train(small_library, tmp_path / "out", replace(config, start_from=str(stale)), device="cpu")


def test_a_resumed_run_tells_what_it_started_from(small_library, tmp_path):
    first = saved("linenet.forward.tiny", tmp_path, patterns_seen=7, seconds=3.0)
    config = replace(SHORT, steps=1, start_from=str(first))
    before = load_network(train(small_library, tmp_path / "out", config, device="cpu")).metadata
    longer = replace(config, steps=3)
    path = train(small_library, tmp_path / "out", longer, device="cpu", resume=True)
    said = load_network(path).metadata
    assert said["patterns_seen"] == 24
    assert said["training"]["start_from"] == load(first)[1]["sha256"] == said["earlier"]["sha256"]
    assert said["earlier"] == before["earlier"] and said["earlier"]["patterns_seen"] == 7


def test_a_resumed_run_goes_on_from_its_own_weights(small_library, tmp_path):
    first = saved("linenet.forward.tiny", tmp_path)
    config = replace(SHORT, steps=2, start_from=str(first))
    trained, again = (
        load(train(small_library, tmp_path / "out", config, device="cpu", resume=resume))[0]
        for resume in (False, True)
    )
    for name, value in trained.items():
        torch.testing.assert_close(again[name], value, atol=0, rtol=0)
    given = load(first)[0]
    assert any((trained[name] != given[name]).any() for name in trained)


def test_a_finished_run_is_not_trained_on(small_library, tmp_path):
    config = replace(SHORT, steps=2)
    first = load(train(small_library, tmp_path, config, device="cpu"))[0]
    again = load(train(small_library, tmp_path, config, device="cpu", resume=True))[0]
    for name, value in first.items():
        torch.testing.assert_close(again[name], value, atol=0, rtol=0)


def test_equal_seeds_are_equal_weights(small_library, tmp_path):
    paths = [
        train(small_library, tmp_path / str(i), replace(SHORT, steps=2, seed=i // 2), device="cpu")
        for i in range(3)
    ]
    one, same, other = (load(path)[0]["weigh.weight"] for path in paths)
    torch.testing.assert_close(one, same, atol=0, rtol=0)
    assert (one != other).any()


def test_a_time_limit_ends_the_run_with_weights(small_library, tmp_path):
    config = replace(SHORT, steps=10**9, time_limit_s=0.2)
    path = train(small_library, tmp_path, config, device="cpu")
    said = load_network(path).metadata
    assert 8 <= said["patterns_seen"] < 10**6


def test_an_interrupted_run_leaves_what_it_can_go_on_from(small_library, tmp_path, monkeypatch):
    step = Trainer.train_step

    def interrupted(trainer, batch):
        if trainer.step == 4:
            raise KeyboardInterrupt
        return step(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    config = replace(SHORT, steps=6)
    with pytest.raises(KeyboardInterrupt):
        train(small_library, tmp_path, config, device="cpu")
    monkeypatch.undo()
    assert load(tmp_path / "checkpoint.safetensors")[1]["step"] == 4


def test_long_runs_are_saved_and_watched_meanwhile(small_library, tmp_path):
    train(small_library, tmp_path, replace(SHORT, steps=3), device="cpu", save_every_s=0.0)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(0.0 < row["watched"] < 1.0 for row in rows)


def test_a_loss_that_is_not_finite_ends_the_run(data, parts, tmp_path):
    trainer = _trainer("linenet.forward.tiny", tmp_path)
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    batch = next(iter(Stream(data, parts["train"], SHORT)))
    bad = replace(batch, pattern=batch.pattern * float("nan"))
    with pytest.raises(RuntimeError, match="lower learning rate"):
        trainer.train_step(bad)
    for name, value in trainer.network.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_both_sides_of_the_gan_learn(direction, data, parts, tmp_path):
    trainer = _trainer(f"pix2pix.{direction}.tiny", tmp_path)
    batch = next(iter(Stream(data, parts["train"], SHORT)))
    sides = {"generator": trainer.network, "judges": trainer.judges}
    before = {k: [p.detach().clone() for p in side.parameters()] for k, side in sides.items()}
    trainer.train_step(batch)
    changed = {
        k: [bool((p != q).any()) for p, q in zip(side.parameters(), before[k], strict=True)]
        for k, side in sides.items()
    }
    assert all(changed["judges"]) and np.mean(changed["generator"]) > 0.8
    assert all(p.requires_grad for p in trainer.judges.parameters())


def test_discriminators_learn_to_tell(data, parts, tmp_path, monkeypatch):
    trainer = _trainer("pix2pix.forward.tiny", tmp_path, learning_rate=1e-9)
    losses = []

    def noted(real, fake):
        loss = discriminator_loss(real, fake)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(module, "discriminator_loss", noted)
    stream = iter(Stream(data, parts["train"], SHORT))
    for _ in range(15):
        trainer.train_step(next(stream))
    assert np.mean(losses[-3:]) < 0.6 * losses[0]


def test_a_resumed_gan_has_its_discriminators(small_library, tmp_path):
    config = replace(SHORT, network="pix2pix.forward.tiny", steps=2)
    train(small_library, tmp_path, config, device="cpu")
    trainer = Trainer(replace(config, steps=3), tmp_path, CPU, 16)
    fresh = [p.clone() for p in trainer.judges.parameters()]
    trainer.resume()
    pairs = zip(trainer.judges.parameters(), fresh, strict=True)
    assert all((p != q).any() for p, q in pairs)


def test_a_plain_pix2pix_has_no_adversary(small_library, tmp_path):
    config = replace(SHORT, network="pix2pix.inverse.tiny", adversarial=False, steps=2)
    train(small_library, tmp_path, config, device="cpu")
    assert _trainer("pix2pix.inverse.tiny", tmp_path, adversarial=False).judges is None
    assert not (tmp_path / "discriminators.safetensors").exists()


def test_the_autoencoder_learns(small_library, data, parts, tmp_path):
    config = replace(SHORT, network="vae.forward.tiny", steps=150)
    network = load_network(train(small_library, tmp_path, config, device="cpu"))
    before = _trainer("vae.forward.tiny", tmp_path).network
    values = [watched_likeness(n, data, parts["train"], CPU) for n in (before, network)]
    assert values[1] > values[0] + 0.1


def test_batches_are_pairs_of_the_library(data):
    chosen = np.array([1, 4])
    batch = batch_of(data, chosen, torch.tensor([1, 0]))
    for row, (crystal, number) in enumerate(((1, 1), (4, 0))):
        torch.testing.assert_close(
            batch.u[row], data.potential[crystal] * data.strength(chosen)[row]
        )
        torch.testing.assert_close(
            batch.pattern[row, 8:, 8:], data.patterns[crystal, number].float()
        )
        torch.testing.assert_close(batch.few[row], data.few_beams[crystal, number].float())
        assert batch.tau[row] == data.tau(chosen)[row, number]


def test_a_stream_transposes_potential_and_pattern_together(data, parts):
    slope = torch.arange(16.0)[:, None].expand(len(data), 16, 16)
    quarter = slope[:, None, :8, :8].repeat(1, 2, 1, 1)
    marked = replace(data, potential=slope, patterns=quarter, few_beams=quarter)
    batch = next(iter(Stream(marked, parts["train"], replace(SHORT, batch_size=400))))
    turned = [x[:, -1, -2] != x[:, -1, -1] for x in (batch.u, batch.pattern, batch.few)]
    for other in turned[1:]:
        torch.testing.assert_close(turned[0], other)
    assert turned[0].float().mean() == pytest.approx(0.5, abs=0.1)


def test_rare_prototypes_are_drawn_more_evenly(data, parts, monkeypatch):
    members = parts["train"]
    drawn = []

    def noted(data, chosen, number):
        drawn.append(chosen)
        return batch_of(data, chosen, number)

    monkeypatch.setattr(module, "batch_of", noted)
    for evenness in (0.0, 1.0):
        next(iter(Stream(data, members, replace(SHORT, batch_size=3000, evenness=evenness))))
    names, counts = np.unique(data.prototype[members], return_counts=True)
    assert sorted(counts) == [1, 2, 3]
    by_crystal, by_prototype = (
        [np.mean(data.prototype[chosen] == name) for name in names] for chosen in drawn
    )
    np.testing.assert_allclose(by_crystal, counts / 6, atol=0.04)
    np.testing.assert_allclose(by_prototype, 1 / 3, atol=0.04)
    assert set(drawn[0]) == set(members)


def test_noise_is_a_share_of_what_the_pattern_shows(data, tmp_path):
    trainer = _trainer("linenet.inverse.tiny", tmp_path, noise=0.5)
    patterns = torch.rand(200, 16, 16) * torch.logspace(-3, 3, 200)[:, None, None]
    share = (trainer._noisy(patterns) - patterns).std((1, 2)) / patterns.std((1, 2))
    assert share.max() < 0.6 and share.mean() == pytest.approx(0.25, abs=0.05)
    silent = _trainer("linenet.inverse.tiny", tmp_path, noise=0.0)
    torch.testing.assert_close(silent._noisy(patterns), patterns, atol=0, rtol=0)


def test_losses_count_what_they_say():
    wanted = torch.randn(2, 8, 8)
    scale = wanted.std((1, 2), keepdim=True)
    assert float(relative_difference(wanted + 0.5 * scale, wanted)) == pytest.approx(0.5)
    other = torch.randn(2, 8, 8)
    expected = relative_difference(other, wanted) + (1 - pearson(other, wanted)).mean()
    torch.testing.assert_close(picture_loss(other, wanted), expected)


def test_potentials_may_lie_at_another_origin():
    wanted = torch.randn(2, 8, 8)
    rolled = wanted.roll((3, 1), (1, 2))
    own = picture_loss(rolled, wanted)
    torch.testing.assert_close(potential_loss(rolled, wanted), 0.3 * own, atol=1e-5, rtol=1e-4)
    assert float(potential_loss(wanted, wanted)) == pytest.approx(0.0, abs=1e-5)


def test_from_the_command_line(small_library, tmp_path):
    words = ["--library", str(small_library), "--output", str(tmp_path), "--device", "cpu"]
    words += ["--network", "pix2pix.inverse.tiny", "--plain", "--steps", "1", "--batch-size", "4"]
    assert cli.main(["train", "lacbed", *words]) == 0
    said = load_network(tmp_path / "pix2pix.inverse.tiny.safetensors").metadata
    assert said["training"]["adversarial"] is False and said["patterns_seen"] == 4
    assert cli.main(["train", "lacbed", *words, "--resume"]) == 0


def test_a_library_that_is_not_there_is_told_of(tmp_path):
    with pytest.raises(FileNotFoundError, match="no shard lacbed"):
        train(tmp_path, tmp_path / "out", SHORT)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    "name",
    ["linenet.inverse.tiny", "linenet.forward.tiny", "pix2pix.forward.tiny", "vae.forward.tiny"],
)
def test_steps_on_a_gpu_are_replayed_and_learn(name, small_library, data, parts, tmp_path):
    config = replace(SHORT, network=name)
    path = train(small_library, tmp_path, config, device="cuda")
    values = [
        watched_likeness(n, data, parts["train"], CPU)
        for n in (_trainer(name, tmp_path).network, load_network(path))
    ]
    assert values[1] > values[0] + 0.01
    longer = replace(config, steps=2 * config.steps)
    assert train(small_library, tmp_path, longer, device="cuda", resume=True) == path
