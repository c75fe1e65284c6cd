"""The measures by hand-made examples, the sets and tables on a small scale."""

import json
from argparse import ArgumentParser

import h5py
import numpy as np
import pytest
import torch
from correlation import Correlation

from py4dstem_ml.disks import evaluate
from py4dstem_ml.disks.evaluate import PatternSet, match_peaks, score_peaks
from py4dstem_ml.disks.library import LibraryConfig
from py4dstem_ml.physics.patterns import Detector, probe_image, render_peaks


def peaks(*rows):
    return np.array(rows, dtype=float).reshape(-1, 3)


def made_up_set(n=6, size=64):
    """Disks without dynamics: intensity and weight are the same."""
    rng = np.random.default_rng(0)
    detector = Detector((size, size), 0.02)
    probe = probe_image(detector, 1.0, 200e3)
    lists, patterns = [], []
    for _ in range(n):
        spots = np.stack(np.meshgrid([16, 32, 48], [16, 32, 48]), -1).reshape(-1, 2)
        spots = spots + rng.uniform(-0.4, 0.4, spots.shape)
        weight = rng.uniform(0.05, 0.5, len(spots))
        spots[4], weight[4] = 32, 1
        found = np.column_stack([spots, weight])
        points = render_peaks(torch.from_numpy(found)[None].float(), (size, size), 0.7)[0]
        disk = torch.fft.rfft2(torch.fft.ifftshift(probe))
        image = torch.fft.irfft2(torch.fft.rfft2(points) * disk).clamp_min(0)
        patterns.append((image / image.sum()).numpy())
        lists.append(found)
    columns = {
        "crystal": np.arange(n) // 2, "kind": np.arange(n) % 3,
        "thickness": np.linspace(100, 400, n), "semiangle_mrad": np.ones(n),
        "energy_ev": np.full(n, 200e3), "pixel_size": np.full(n, 0.02),
    }  # fmt: skip
    return PatternSet("made up", np.array(patterns), lists, **columns)


def perfect(patterns_of):
    """A finder that knows the truth, by the order of the patterns."""
    lists = iter(patterns_of.peaks * 10)
    return lambda patterns, probe: [next(lists) for _ in patterns]


def test_the_closest_pairs_are_matched_first_and_only_once():
    predicted = peaks([0, 0.0, 1], [0, 1.0, 1], [9, 9, 1])
    truth = peaks([0, 0.9, 1], [0, 1.8, 1])
    i, j = match_peaks(predicted, truth, 1.0)
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == [(1, 0)]
    i, j = match_peaks(predicted, truth, 2.0)
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 1), (1, 0)]


@pytest.mark.parametrize("radius", [0.5, 3.0])
def test_nothing_matches_nothing(radius):
    for a, b in [(peaks(), peaks([1, 1, 1])), (peaks([1, 1, 1]), peaks())]:
        assert [len(index) for index in match_peaks(a, b, radius)] == [0, 0]


def test_the_paper_s_accuracy():
    truth = peaks([32, 32, 10], [10, 10, 3], [20, 20, 1])
    predicted = peaks([32, 32, 99], [10.5, 10, 6], [50, 50, 2])
    score = score_peaks(predicted, truth, 1.0)
    # TP = 6/8, FP = 2/8, FN = 1/4.
    assert score["precision"] == pytest.approx(0.75)
    assert score["recall"] == pytest.approx(0.75)
    assert score["accuracy"] == pytest.approx(0.75 / 1.25)
    assert score["matched"] == 1
    assert score["square_error"] == pytest.approx(0.25)
    assert score["median_error"] == pytest.approx(0.5)


def test_the_scale_of_the_intensities_does_not_count():
    rng = np.random.default_rng(1)
    truth = np.column_stack([rng.uniform(0, 64, (20, 2)), rng.uniform(0.1, 1, 20)])
    scaled = truth * [1, 1, 7]
    assert score_peaks(scaled, truth, 0.1)["accuracy"] == pytest.approx(1)
    assert score_peaks(truth, truth[::-1], 0.1)["recall"] == pytest.approx(1)


def test_an_empty_list_is_wrong_and_an_empty_truth_is_not():
    truth, direct = peaks([32, 32, 1], [3, 3, 1]), peaks([32, 32, 1])
    assert score_peaks(peaks(), truth, 2)["accuracy"] == 0
    assert score_peaks(direct, truth, 2)["recall"] == 0
    assert score_peaks(direct, direct, 2)["accuracy"] == 1
    assert score_peaks(truth, direct, 2)["accuracy"] == 0


def test_a_perfect_finder_scores_one_and_errors_are_over_crystals():
    patterns = made_up_set()
    rows = evaluate.evaluate_finder(perfect(patterns), patterns, doses=(1e4,), progress=False)
    summary = evaluate.summarise(rows)
    assert (summary["patterns"], summary["crystals"]) == (6, 3)
    for column in ("accuracy", "recall", "accuracy_1px"):
        assert summary[column] == pytest.approx(1)
        assert summary[f"{column}_se"] == pytest.approx(0, abs=1e-9)
    assert summary["rms_px"] == 0
    values = [1.0, 0.5, 0.0]
    mean, error = evaluate.mean_and_error(values)
    assert (mean, error) == pytest.approx((0.5, 0.5 / 3**0.5))


def test_every_crystal_counts_the_same():
    rows = [{"crystal": 1, "accuracy": 1.0}] * 9 + [{"crystal": 2, "accuracy": 0.0}]
    assert evaluate.summarise(rows)["accuracy"] == 0.5
    gain = evaluate.paired_gain(rows, [{**row, "accuracy": 0.25} for row in rows], "accuracy")
    assert gain == pytest.approx((0.25, 0.5))


def test_noise_is_repeatable_and_of_the_dose():
    patterns = made_up_set(2)
    counts = evaluate.counted(patterns, 1, 1e5)
    assert counts.sum() == pytest.approx(1e5, rel=0.02)
    assert (counts == evaluate.counted(patterns, 1, 1e5)).all()
    assert (counts != evaluate.counted(patterns, 1, 1e5, seed=1)).any()


def test_a_network_passes_through_finder_maps_and_tables():
    patterns = made_up_set()
    network = Correlation()
    network.register_parameter("none", torch.nn.Parameter(torch.zeros(1)))
    finder = evaluate.network_finder(network.eval(), device="cpu")
    rows = evaluate.evaluate_finder(finder, patterns, doses=(1e5, 1e6), progress=False)
    assert evaluate.summarise(rows)["accuracy"] > 0.8
    text = evaluate.accuracy_tables({"stub": rows})
    for label in ("zone", "tilted", "random", "1e+06", "150 to 250", "above 350"):
        assert f"| {label} |" in text
    maps = evaluate.evaluate_maps(network, patterns, progress=False)
    assert len(maps) == 6 and all(0 < row["ssim"] <= 1 for row in maps)
    assert "off zone" in evaluate.map_table({"stub": maps})


def test_the_truth_has_an_ssim_of_one():
    patterns = made_up_set(2)

    class Truth(Correlation):
        def forward(self, images, probe):
            lists = torch.from_numpy(np.stack(patterns.peaks)).float()
            return evaluate.target_map(lists, tuple(images.shape[1:]))

    network = Truth()
    network.register_parameter("none", torch.nn.Parameter(torch.zeros(1)))
    for row in evaluate.evaluate_maps(network.eval(), patterns, progress=False):
        assert row["ssim"] == pytest.approx(1) and row["ssim_root"] == pytest.approx(1)


def test_groups_of_bins_stand_in_order():
    rows = [{"thickness": t} for t in (100, 400, 200, 300, 101)]
    groups = evaluate.grouped(rows, "thickness")
    assert list(groups) == ["up to 150", "150 to 250", "250 to 350", "above 350"]
    assert sorted(groups, key=evaluate._order) == list(groups)


def test_a_set_survives_its_file(tmp_path):
    patterns = made_up_set(4)
    calls = []

    def simulate():
        calls.append(1)
        return patterns

    for _ in range(2):
        read = evaluate.stored_set(tmp_path / "set.npz", simulate)
    assert len(calls) == 1
    assert read.name == "made up"
    assert (read.patterns == patterns.patterns).all() and (read.kind == patterns.kind).all()
    assert all((a == b).all() for a, b in zip(read.peaks, patterns.peaks, strict=True))
    assert len(read.select([1, 3])) == 2 and len(read.select(slice(0, 3)).peaks) == 3


def test_a_stored_set_of_something_else_is_refused(tmp_path):
    path = tmp_path / "set.npz"
    evaluate.stored_set(path, lambda: made_up_set(4), {"seed": 0, "table": "a"})
    assert len(evaluate.stored_set(path, pytest.fail, {"seed": 0})) == 4
    with pytest.raises(ValueError, match="another seed, table: delete it"):
        evaluate.stored_set(path, pytest.fail, {"seed": 1, "table": "b"})


def test_a_file_is_never_half_written(tmp_path, monkeypatch):
    def breaks_off(path, **arrays):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        evaluate.stored_set(tmp_path / "set.npz", lambda: made_up_set(4))
    assert not list(tmp_path.iterdir())


def test_models_of_one_name_are_told_apart():
    models = ["a/net.safetensors", "b/net.safetensors", "unet.v1"]
    assert evaluate.model_names(models) == dict(
        zip(["a/net", "b/net", "unet.v1"], models, strict=True)
    )
    with pytest.raises(ValueError, match="the same name"):
        evaluate.model_names(["x/a/net.safetensors", "y/a/net.safetensors"])


def test_shards_become_a_set(tmp_path):
    made = made_up_set(4)
    with h5py.File(tmp_path / "test-000000.h5", "w") as file:
        image = made.patterns / made.patterns.max(axis=(1, 2), keepdims=True)
        file["patterns"] = (np.sqrt(image) * 65535 + 0.5).astype(np.uint16)
        lists = [np.vstack([p, [5, 5, 5e-4]]) for p in made.peaks]
        file["peaks"] = np.concatenate(lists)
        file["offsets"] = np.cumsum([0, *map(len, lists)])
        for key in ("crystal", "kind", "thickness"):
            file[key] = getattr(made, key)
        file["semiangle"] = made.semiangle_mrad
        file.attrs["energy_ev"], file.attrs["pixel_size"] = 200e3, 0.02
        file.attrs["config"] = json.dumps(vars(LibraryConfig()))
    read = evaluate.library_set(tmp_path)
    assert np.allclose(read.patterns, made.patterns, atol=1e-4)
    assert all(len(p) == 9 for p in read.peaks)  # those below the floor are no truth
    with pytest.raises(FileNotFoundError, match="simulate disks"):
        evaluate.library_set(tmp_path, part="train")


def test_nothing_to_evaluate_on(tmp_path):
    with pytest.raises(ValueError, match="--library"):
        evaluate.evaluation_sets(None, None, tmp_path, 3, 0)


def test_the_command_declares_what_it_uses():
    parser = ArgumentParser()
    evaluate.add_arguments(parser)
    args = parser.parse_args(["--output", "x"])
    assert set(vars(args)) >= {"library", "structures", "output", "models", "crystals", "seed"}
