"""The table: scores as they are defined, neighbours, weights that may have seen the crystals."""

import numpy as np
import pytest
import torch
from tiny_lacbed import saved

from py4dstem_ml import cli
from py4dstem_ml.lacbed import evaluate as module
from py4dstem_ml.lacbed.bragg_lines import unfolded
from py4dstem_ml.lacbed.dataset import split_materials
from py4dstem_ml.lacbed.evaluate import (
    Neighbour,
    Scores,
    by_group,
    evaluate,
    measured,
    table,
    with_network,
)
from py4dstem_ml.lacbed.network import load_network
from py4dstem_ml.lacbed.scores import likeness
from py4dstem_ml.lacbed.train import batch_of


@pytest.fixture
def parts(data):
    return split_materials(data.formula, data.prototype)


def _everything(data):
    return np.arange(len(data))


def test_an_oracle_makes_no_error(data):
    for direction in ("forward", "inverse"):
        scores = measured(
            lambda batch, *_, d=direction: batch.pattern if d == "forward" else batch.u,
            data, _everything(data), direction,
        )  # fmt: skip
        assert scores.likeness.shape == (len(data), 2)
        np.testing.assert_allclose(scores.likeness, 1.0, atol=1e-5)
        np.testing.assert_allclose(scores.error_free, 0.0, atol=1e-8)


def test_potentials_are_judged_at_their_own_and_at_the_best_origin(data):
    scores = measured(
        lambda batch, *_: 3.0 * batch.u.roll((3, 5), (1, 2)) - 1.0, data, _everything(data),
        "inverse",
    )  # fmt: skip
    np.testing.assert_allclose(scores.likeness_free, 1.0, atol=1e-5)
    np.testing.assert_allclose(scores.error_free, 0.0, atol=1e-8)
    assert scores.likeness.mean() < 0.9 and scores.error.mean() > 0.01


def test_scores_of_many_are_those_of_each(data, monkeypatch):
    def method(batch, chosen, number):
        return batch.pattern * (1 + chosen[:, None, None] % 3) ** 2 + torch.rand(
            batch.pattern.shape, generator=torch.Generator().manual_seed(number)
        )[:1]  # fmt: skip

    every = measured(method, data, _everything(data), "forward")
    monkeypatch.setattr(module, "_AT_ONCE", 5)
    np.testing.assert_allclose(
        measured(method, data, _everything(data), "forward").likeness, every.likeness, atol=1e-6
    )
    second = measured(method, data, np.array([4]), "forward", [1])
    assert second.likeness.shape == (1, 1)
    np.testing.assert_allclose(second.likeness[0, 0], every.likeness[4, 1], atol=1e-6)
    assert every.likeness[4, 0] != every.likeness[4, 1]


def test_a_network_is_a_method(data, forward_file, inverse_file):
    for path in (forward_file, inverse_file):
        network = load_network(path)
        scores = measured(with_network(network), data, np.array([2]), network.direction, [1])
        batch = batch_of(data, np.array([2]), torch.tensor([1]))
        forward = network.direction == "forward"
        with torch.no_grad():
            found = network(batch.u if forward else batch.pattern, batch.tau)
        wanted = batch.pattern if forward else batch.u
        assert scores.likeness[0, 0] == pytest.approx(float(likeness(found, wanted)), abs=1e-4)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_a_known_crystal_is_its_own_neighbour(direction, data, parts):
    neighbour = Neighbour(data, parts["train"], parts["validation"], direction)
    scores = measured(neighbour, data, parts["train"], direction)
    np.testing.assert_allclose(scores.likeness, 1.0, atol=1e-5)
    others = measured(neighbour, data, parts["prototype"], direction)
    assert others.likeness.max() < 1.0 - 1e-4


def test_neighbours_are_only_of_what_was_trained_on(data, parts):
    neighbour = Neighbour(data, parts["train"], parts["validation"], "forward")
    held_out = parts["prototype"]
    for number in (0, 1):
        found = neighbour(batch_of(data, held_out, torch.full((2,), number)), held_out, number)
        known = unfolded(data.patterns[parts["train"], number].float())
        assert (found[:, None] == known).all((-1, -2)).any(1).all()


def test_rows_are_means_and_medians_by_thickness(data):
    values = np.array([[0.9, 0.5], [0.6, 0.7], [0.9, 0.9]], np.float32)
    scores = Scores(values, values / 10, values + 0.01, values / 100)
    rows = table("x", scores, data, "forward")
    assert [row["t nm"] for row in rows] == [20, 60]
    assert rows[0]["R mean"] == pytest.approx(0.8) and rows[0]["R median"] == pytest.approx(0.9)
    assert rows[1]["MSE"] == pytest.approx(0.07) and rows[1]["MSE median"] == pytest.approx(0.07)
    assert "R mean, best origin" not in rows[0]
    rows = table("x", scores, data, "inverse")
    assert rows[0]["R mean, best origin"] == pytest.approx(0.81)
    assert rows[0]["MSE, best origin"] == pytest.approx(0.008)


def test_rows_by_space_group():
    values = np.array([[0.9, 0.5], [0.6, 0.7], [0.8, 0.9]], np.float32)
    rows = by_group(Scores(values, values, values, values), np.array([225, 221, 225]))
    assert [(row["group"], row["n"]) for row in rows] == [(221, 1), (225, 2)]
    assert rows[1]["R, thinnest"] == pytest.approx(0.85)
    assert rows[1]["R, thickest"] == pytest.approx(0.7)


def test_the_tables_of_both_directions(small_library, forward_file, inverse_file, tmp_path):
    out = tmp_path / "tables.md"
    words = ["--library", str(small_library), "--output", str(out), "--device", "cpu", "--weights"]
    assert cli.main(["evaluate", "lacbed", *words, str(forward_file), str(inverse_file)]) == 0
    text = out.read_text()
    for part in ("Prototypes never trained on", "New formulas of known prototypes"):
        for direction in ("forward", "inverse"):
            assert f"### {part}, {direction}: " in text
    assert text.count("| few beams, no network |") == 4
    assert text.count("| nearest neighbour |") == 8 and text.count("| cGAN, paper |") == 10
    assert text.count("| linenet.forward.tiny |") == text.count("| linenet.inverse.tiny |") == 4


def test_fewer_crystals_may_be_asked_for(small_library, forward_file):
    text = evaluate([small_library], [forward_file], crystals=1, neighbours=False, progress=False)
    assert "Prototypes never trained on, forward: 1 crystals" in text
    assert "neighbour" not in text


def test_a_gan_without_its_adversary_is_called_so(small_library, tmp_path):
    plain = saved("pix2pix.forward.tiny", tmp_path, training={"adversarial": False})
    text = evaluate([small_library], [plain], neighbours=False, progress=False)
    assert "| pix2pix.forward.tiny, L1 only |" in text


def test_weights_of_another_split_are_refused(small_library, tmp_path):
    path = saved("linenet.forward.tiny", tmp_path, split_rule=0)
    with pytest.raises(ValueError, match="may have seen the crystals"):
        evaluate([small_library], [path], progress=False)
