"""The tables: what is in them is measured, and limits are those of counting."""

import numpy as np
import pytest
import torch
from tiny_cbleed import QUICK, SCREEN

from py4dstem_ml import cli
from py4dstem_ml.cbleed import evaluate
from py4dstem_ml.cbleed.dataset import Between
from py4dstem_ml.cbleed.fit import fit
from py4dstem_ml.cbleed.limits import cramer_rao


def linear(labels):
    """Patterns of four pixels, each parameter moving brightness between two."""
    labels = np.asarray(labels, dtype=float)
    energy, height, length, _ = labels.T
    flat = np.stack(
        [
            1 + 0.01 * energy,
            1 - 0.01 * energy,
            1 + height,
            1 - height,
            1 + length,
            1 - length,
        ],
        axis=1,
    )
    return torch.from_numpy(flat.reshape(-1, 2, 3) / 6).double()


def test_the_limit_of_counting():
    axes = np.arange(-3, 4.0), [-0.1, 0.0, 0.1], [-0.2, 0.0, 0.2], [0, 1]
    labels = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 4)
    between = Between(linear(labels).float(), labels)
    found = cramer_rao(between, [[0, 0, 0, 1], [1.3, 0.02, 0.1, 0]], 6e4)
    # Of N/6 electrons in each pixel, p = (1 + s x) / 6: sigma = 1 / (s sqrt(N / 3)) at x = 0.
    wanted = np.array([100, 1, 1]) / np.sqrt(2e4)
    np.testing.assert_allclose(found[0], wanted, rtol=2e-3)
    np.testing.assert_allclose(found[1] / wanted, [1, 1, np.sqrt(1 - 0.01)], atol=5e-3)
    again = cramer_rao(between, [[0, 0, 0, 1]], 6e6)
    np.testing.assert_allclose(again[0], wanted / 10, rtol=2e-3)


def test_scores_are_what_they_say():
    truth = np.array([[40, 0.1, 0.0, 1], [50, 0.2, 0.1, 0], [60, 0.3, 0.2, 1]])
    found = truth + [[1, 0, 0, 0], [-1, 0, 0, 0.7], [1, 0.03, 0, 0]]
    row = evaluate.scores(found, truth)
    assert row["energy MAE eV"] == pytest.approx(1) and row["length R2"] == 1
    assert row["energy R2"] == pytest.approx(1 - 3 / 200)
    assert row["height MAE Å"] == pytest.approx(0.01) and row["dimers right %"] == 66.7


def test_principal_components_need_no_network(data):
    methods = evaluate.baselines(data.images, data.labels, sizes=(4,))
    assert set(methods) == {"PCA-4, neighbours", "PCA-4, svr"}
    rows = evaluate.measured(methods, data, counts=(None, 1e3))
    assert [row["counts"] for row in rows] == ["none", "none", "1e+03", "1e+03"]
    assert rows[0]["energy MAE eV"] < 1e-6  # neighbours know what they were shown
    assert rows[2]["energy MAE eV"] > 0.1


def test_one_command_prints_all(tiny_library, random_library, trained, tmp_path, capsys):
    network = trained / "autoencoder.safetensors"
    file = tmp_path / "tiny.safetensors"
    fit(tiny_library, network, file, QUICK, device="cpu", progress=False)
    words = ["evaluate", "cbleed", "--library", str(tiny_library), "--weights", str(file)]
    words += ["--off-grid", str(random_library), "--shifts", str(random_library)]
    words += ["--patterns", "12", "--figures", str(tmp_path / "figures"), "--run", str(trained)]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    for text in (
        "at known inner potential", "off the grid, all energies, 12 patterns",
        "the grid at energies whose images were withheld", "| tiny, extra trees | 1e+04 |",
        "| PCA-32, svr | none |", "| Cramér-Rao limit (median) | 1e+05 |",
        "| both tilts of the dimers |", "| unreconstructed surface, (1x1) | - |", "| noise | - |",
        "| 1e+05 | 90 |", "one image on one core takes",
    ):  # fmt: skip
        assert text in printed, text
    assert "| paper, KNN |" not in printed  # another split
    for name in ("latent", "predictions", "reconstructions"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 5000


def test_what_was_trained_on_is_no_test(tiny_library, random_library, reader_file):
    with pytest.raises(ValueError, match="would know the answers"):
        evaluate.evaluate(
            [tiny_library], [reader_file], off_grid=[tiny_library], with_baselines=False,
            progress=False,
        )  # fmt: skip


def test_a_surface_without_reconstruction_has_no_half_orders():
    image = evaluate.unreconstructed(SCREEN, [46.0])[0].numpy()
    y = (np.arange(32) - 15.5) * SCREEN.pixel_size / 0.818  # in half orders
    assert image.shape == (32, 32) and image.sum() == pytest.approx(1, rel=1e-5)
    dark = np.abs(np.abs(y) - 1) < 0.4
    assert image[:, dark].sum() == 0 and image[:, np.abs(y) < 0.4].sum() > 0.1
