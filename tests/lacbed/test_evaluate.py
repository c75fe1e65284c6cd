"""The table: scores as they are defined, neighbours, weights that may have seen the crystals."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_lacbed import ROWS, saved

from py4dstem_ml import cli
from py4dstem_ml.lacbed import evaluate as module
from py4dstem_ml.lacbed import refine
from py4dstem_ml.lacbed.atlas import Atlas
from py4dstem_ml.lacbed.bragg_lines import unfolded
from py4dstem_ml.lacbed.dataset import split_materials
from py4dstem_ml.lacbed.evaluate import (
    Neighbour,
    Scores,
    by_group,
    evaluate,
    measured,
    table,
    trusted,
    with_explanations,
    with_network,
)
from py4dstem_ml.lacbed.network import load_network
from py4dstem_ml.lacbed.scores import at_best_origin, likeness
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


def test_generators_that_learned_absorption_are_not_judged_without(small_library, tmp_path):
    path = saved("linenet.forward.tiny", tmp_path, absorption=True)
    with pytest.raises(ValueError, match="are without absorption, .*generates with"):
        evaluate([small_library], [path], progress=False)


@pytest.fixture(scope="module")
def reader(inverse_file):
    return load_network(inverse_file)


def test_explanations_of_known_crystals_are_their_potentials(data, reader, atlas_file):
    some = np.flatnonzero(np.isin(data.material_id, ["mp-0", "mp-1"]))
    method = with_explanations(reader, Atlas.load(atlas_file), data)
    batch = batch_of(data, some, torch.full((2,), 1))
    found = method(batch, some, 1)
    torch.testing.assert_close(found, at_best_origin(batch.u, found), atol=1e-3, rtol=1e-3)
    scores = measured(method, data, some, "inverse", [0])
    assert scores.likeness_free.min() > 0.999 and scores.error_free.max() < 1e-5


def test_explanations_are_of_the_conditions_of_each_pattern(data, reader, monkeypatch):
    asked = []

    def stub(pattern, reading, atlas, **at):
        asked.append((float(pattern[0, 0]), reading, atlas, at))
        return SimpleNamespace(potential=pattern)

    monkeypatch.setattr(module, "best_explained", stub)
    some, unit = np.array([2, 6]), data.strength(np.array([2, 6]))[:, None, None]
    for number in (1, 0):
        asked.clear()
        batch = batch_of(data, some, torch.full((2,), number))
        found = with_explanations(reader, "atlas", data)(batch, some, number)
        torch.testing.assert_close(found, batch.pattern * unit)
        with torch.no_grad():
            readings = reader(batch.pattern, batch.tau) / unit
        for i, (first, reading, atlas, at) in enumerate(asked):
            assert first == float(batch.pattern[i, 0, 0]) and atlas == "atlas"
            np.testing.assert_allclose(
                reading, readings[i], atol=1e-3 * float(readings[i].abs().max())
            )
            assert at == {
                "a": float(data.a[some[i]]), "thickness": (200.0, 600.0)[number],
                "energy_ev": 200e3, "half_width": 2.0, "absorption": False,
                "device": torch.device("cpu"),
            }  # fmt: skip
        assert len(asked) == 2


@pytest.fixture(scope="module")
def words(small_library, inverse_file, atlas_file):
    return [
        "evaluate", "lacbed", "--library", str(small_library), "--weights", str(inverse_file),
        "--device", "cpu", "--crystals", "1", "--atlas", str(atlas_file),
    ]  # fmt: skip


def test_the_best_explanation_stands_beside_the_networks(words, tmp_path):
    out = tmp_path / "tables.md"
    assert cli.main([*words, "--output", str(out)]) == 0
    text = out.read_text()
    assert text.count("| best explanation |") == 4
    assert text.count("| linenet.inverse.tiny |") == 4
    assert "By space group, linenet.inverse.tiny" in text
    rows = [line.split(" | ") for line in text.splitlines() if "best explanation |" in line]
    alone = [line.split(" | ") for line in text.splitlines() if "| linenet.inverse.tiny |" in line]
    assert [row[1] for row in rows] == [row[1] for row in alone] == ["20", "60"] * 2
    assert all(one[2:] != other[2:] for one, other in zip(rows, alone, strict=True))


def test_explanations_are_refined_when_asked_for(words, monkeypatch, tmp_path):
    monkeypatch.setattr(refine, "FINE", {1: 5, 2: 6, 4: 8})
    done = module.refine_potential
    monkeypatch.setattr(module, "refine_potential", lambda *x, **y: done(*x, **{**y, "steps": 0}))
    monkeypatch.setattr(module, "measured", lambda _, data, members, *x, **y: Scores(
        *np.zeros((4, len(members), 2), np.float32)
    ))  # fmt: skip
    monkeypatch.setattr(module, "Neighbour", lambda *_: None)
    out = tmp_path / "tables.md"
    assert cli.main([*words, "--refined", "2", "--output", str(out)]) == 0
    _, text = out.read_text().split("### Explanations, their trust and refinement")
    head, _, row = (line.strip("| ").split(" | ") for line in text.strip().splitlines())
    said = dict(zip(head, row, strict=True))
    assert said["crystals"] == "2" and "rank of the pattern's R" in said
    # Nothing was changed.
    assert said["R refined"] == said["R explained"]
    assert cli.main([*words, "--output", str(out)]) == 0
    assert "refine" not in out.read_text()


def _degraded(true, sizes):
    """Potentials that differ from true ones the more the greater the sizes are."""
    noise = np.random.default_rng(0).normal(size=true.shape[1:])
    return [(one + size * one.std() * noise) for one, size in zip(true, sizes, strict=True)]


def test_trust_is_how_explanations_rank_themselves(data, monkeypatch):
    members = np.array([1, 4, 7, 9])
    true = data.potential[torch.from_numpy(members)].numpy()
    # The better a reading is, the greater it is, too.
    readings = [10.0**i * x for i, x in enumerate(_degraded(true, [0.8, 0.6, 0.4, 0.2]))]
    explained = _degraded(true, [0.1, 0.5, 0.2, 0.3])
    refined = _degraded(true, [0.0] * 4)
    # Likeness of patterns ranks the second pair of crystals the wrong way round.
    given = iter(zip(explained, [0.99, 0.6, 0.8, 0.9], strict=True))
    # A spread as a share of the reading, greater where that is worse.
    spreads = iter([x, 0.1 * (4 - i) * x.std() * np.ones_like(x)] for i, x in enumerate(readings))
    asked = []

    def refine_stub(potential, pattern, **options):
        asked.append(options)
        return SimpleNamespace(potential=refined[len(asked) - 1], likeness=0.95)

    monkeypatch.setattr(module, "refine_potential", refine_stub)
    told = []

    def explain_stub(pattern, reading, atlas, **at):
        told.append((reading, atlas, at))
        return SimpleNamespace(
            **dict(zip(("potential", "likeness"), next(given), strict=True)), absorbed=None
        )

    monkeypatch.setattr(module, "best_explained", explain_stub)
    predictor = SimpleNamespace(with_spread=lambda pattern, **at: next(spreads))
    row = trusted(predictor, "atlas", data, members, steps=7, progress=False)
    for (reading, atlas, at), expected, a in zip(told, readings, data.a[members], strict=True):
        assert reading is expected and atlas == "atlas"
        assert at == {
            "a": a, "thickness": 200.0, "energy_ev": 200e3, "half_width": 2.0, "absorption": False,
        }  # fmt: skip
    assert row["crystals"] == 4
    assert row["R refined"] == pytest.approx(1.0, abs=1e-5)
    assert row["median R refined"] == pytest.approx(1.0, abs=1e-5)
    each = [
        (1 + np.corrcoef(one.ravel(), other.ravel())[0, 1]) / 2
        for one, other in zip(explained, true, strict=True)
    ]
    assert row["R explained"] == pytest.approx(np.mean(each), abs=1e-4)
    assert row["median R explained"] == pytest.approx(np.median(each), abs=1e-4)
    assert row["R read"] < row["R explained"]
    assert row["R pattern, explained"] == pytest.approx((0.99 + 0.6 + 0.8 + 0.9) / 4)
    assert row["R pattern, refined"] == pytest.approx(0.95)
    # Spearman's: 1 - 6 sum d^2 / (n (n^2 - 1)), with two ranks of four exchanged.
    assert row["rank of the pattern's R"] == pytest.approx(0.8)
    assert row["rank of the spread"] == pytest.approx(1.0)
    assert [(x["a"], x["thickness"], x["steps"]) for x in asked] == [
        (float(a), 200.0, 7) for a in data.a[members]
    ]


@pytest.fixture
def asked(monkeypatch):
    """The names of all atlases that patterns are explained by, and whose these are."""
    done, found = module.best_explained, []

    def noted(pattern, reading, atlas, **at):
        told = done(pattern, reading, atlas, **at)
        found.append((at["a"], list(atlas.names), told.crystal and told.crystal.name))
        return told

    monkeypatch.setattr(module, "best_explained", noted)
    return found


def test_crystals_that_are_held_out_do_not_explain_themselves(
    small_library, inverse_file, atlas_file, asked
):
    held_out = {row.a: f"{row.formula} (mp-{i})" for i, row in enumerate(ROWS)
                if row.part in ("prototype", "formula")}  # fmt: skip
    whole = Atlas.load(atlas_file)
    assert set(held_out.values()) < set(whole.names)
    evaluate(
        [small_library], [inverse_file], atlas=str(atlas_file), neighbours=False, progress=False
    )
    trained = [f"{row.formula} (mp-{i})" for i, row in enumerate(ROWS) if row.part == "train"]
    assert {round(a, 6) for a, _, _ in asked} == set(held_out) and len(asked) == 6
    assert all(names == trained for _, names, _ in asked)
    assert all(name is None or name in trained for _, _, name in asked)
    assert any(name in trained for _, _, name in asked)


def test_crystals_that_are_held_out_would_explain_themselves(data, reader, atlas_file, asked):
    """The atlas holds them: what keeps them out is `evaluate`."""
    (index,) = np.flatnonzero(data.material_id == "mp-7")
    method = with_explanations(reader, Atlas.load(atlas_file), data)
    measured(method, data, np.array([index]), "inverse", [0])
    assert [name for _, _, name in asked] == [f"{ROWS[7].formula} (mp-7)"]


def test_refined_explanations_are_of_trained_crystals_too(
    small_library, inverse_file, atlas_file, asked, monkeypatch
):
    monkeypatch.setattr(refine, "FINE", {1: 5, 2: 6, 4: 8})
    done = module.refine_potential
    monkeypatch.setattr(module, "refine_potential", lambda *x, **y: done(*x, **{**y, "steps": 0}))
    evaluate(
        [small_library], [inverse_file], atlas=str(atlas_file), neighbours=False, crystals=1,
        refined=1, progress=False,
    )  # fmt: skip
    trained = [f"{row.formula} (mp-{i})" for i, row in enumerate(ROWS) if row.part == "train"]
    # Two thicknesses of one crystal of each part, and the one that is refined.
    assert len(asked) == 5 and all(names == trained for _, names, _ in asked)


@pytest.mark.parametrize(
    ("given", "refined"),
    [("no atlas", 2), ("no network that reads", 0), ("no network that reads", 2)],
)
def test_explanations_need_an_atlas_and_a_network_that_reads(
    given, refined, small_library, forward_file, inverse_file, atlas_file
):
    atlas, network = str(atlas_file), forward_file
    if given == "no atlas":
        atlas, network = None, inverse_file
    with pytest.raises(ValueError, match="need an atlas and a network that reads") as error:
        evaluate([small_library], [network], atlas=atlas, refined=refined, progress=False)
    assert "\n" not in str(error.value)
