"""The command: a file of Bragg vectors in, maps and a figure out."""

import numpy as np
import py4DSTEM
import pytest
import torch

from py4dstem_ml import cli
from py4dstem_ml.symmetry.invariants import Invariants
from py4dstem_ml.symmetry.network import PeakSetNet, PeakSetSpec, save_network


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    spec = PeakSetSpec(Invariants(spots=16, pair_spots=16), width=16, depth=1, embedding=8)
    path = tmp_path / "peakset.safetensors"
    save_network(PeakSetNet(spec), path, {})
    return str(path)


@pytest.fixture
def file(tmp_path):
    cube = py4DSTEM.DataCube(np.zeros((3, 4, 64, 64), "float32"))
    cube.calibration.set_Q_pixel_size(0.03)
    cube.calibration.set_Q_pixel_units("A^-1")
    vectors = py4DSTEM.BraggVectors((3, 4), (64, 64))
    rng = np.random.default_rng(0)
    for place in np.ndindex(3, 4):
        records = np.zeros(11, vectors._v_uncal.dtype)
        records["qx"], records["qy"] = 32 + np.append([[0], [0]], rng.uniform(-25, 25, (2, 10)), 1)
        records["intensity"] = np.append(100, rng.uniform(1, 5, 10))
        vectors._v_uncal[place].add(records)
    cube.attach(vectors)
    vectors.setcal()
    path = tmp_path / "bragg.h5"
    py4DSTEM.save(str(path), cube, mode="o")
    return path


def test_maps_and_figure(file, model, tmp_path, capsys):
    figure = tmp_path / "out" / "map.png"
    arguments = ["predict", "symmetry", str(file), "--model", model, "--figure", str(figure)]
    assert cli.main([*arguments, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "cubic" in printed and "bragg_crystals.h5" in printed
    assert figure.stat().st_size > 5000
    read = py4DSTEM.read(str(tmp_path / "bragg_crystals.h5"))
    assert read.tree("crystal_system").data.shape == (3, 4)
    assert cli.main(arguments) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert cli.main([*arguments, "--output", str(file), "--overwrite"]) == 1
    assert "made from" in capsys.readouterr().err


def test_other_files_are_refused(tmp_path, capsys):
    assert cli.main(["predict", "symmetry", str(tmp_path / "no.h5")]) == 1
    assert "there is no file" in capsys.readouterr().err
    path = tmp_path / "cube.h5"
    py4DSTEM.save(str(path), py4DSTEM.DataCube(np.zeros((2, 2, 8, 8))), mode="o")
    assert cli.main(["predict", "symmetry", str(path)]) == 1
    assert "holds 0 Bragg vectors" in capsys.readouterr().err
