"""Within hyperspy, and from the command line: files and folders to tables."""

import csv

import numpy as np
import pytest

from py4dstem_ml import cli
from py4dstem_ml.cbleed.predict import COLUMNS, CBLEEDRegressor


@pytest.mark.parametrize("lazy", [False, True], ids=["in memory", "lazy"])
def test_hyperspy_maps_it(data, reader_file, lazy):
    hyperspy = pytest.importorskip("hyperspy.api")
    stack = data.images[:6].reshape(2, 3, 32, 32).numpy()
    signal = hyperspy.signals.Signal2D(stack)
    regressor = CBLEEDRegressor(reader_file)
    maps = (signal.as_lazy() if lazy else signal).map(regressor, inplace=False)
    if lazy:
        maps.compute()
    wanted = regressor.read(stack, progress=False)
    np.testing.assert_allclose(maps.data, wanted, rtol=1e-3, atol=1e-3)


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_file_becomes_a_table(data, reader_file, tmp_path, capsys):
    stack = data.images[:4].numpy()
    stack[2] = 0
    np.save(tmp_path / "stack.npy", stack)
    words = ["predict", "cbleed", str(tmp_path / "stack.npy"), "--weights", str(reader_file)]
    words += ["--output", str(tmp_path / "out.csv")]
    assert cli.main(words) == 0
    assert "4 images, 1 of them" in capsys.readouterr().out
    rows = table(tmp_path / "out.csv")
    assert list(rows[0]) == ["image", *COLUMNS]
    wanted = CBLEEDRegressor(reader_file)(stack[3])
    assert float(rows[3]["energy_ev"]) == pytest.approx(wanted[0], rel=1e-4)
    assert rows[2]["novelty"] == "inf"
    assert cli.main(words) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_a_folder_becomes_a_table(data, reader_file, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for n in range(2):
        np.save(folder / f"{n}.npy", data.images[n].numpy())
    words = ["predict", "cbleed", str(folder), "--weights", str(reader_file), "--patience", "1.5"]
    assert cli.main([*words, "--output", str(tmp_path / "out.csv")]) == 0
    assert sorted(row["image"] for row in table(tmp_path / "out.csv")) == ["0.npy", "1.npy"]


def test_a_folder_without_images_is_an_error(reader_file, tmp_path, capsys):
    frames = tmp_path / "frames"
    frames.mkdir()
    (frames / "a.tif").write_bytes(b"")
    words = ["predict", "cbleed", str(frames), "--output", str(tmp_path / "t.csv")]
    assert cli.main([*words, "--weights", str(reader_file), "--patience", "0.3"]) == 1
    assert "holds no image that matches --pattern '*.npy'" in capsys.readouterr().err
