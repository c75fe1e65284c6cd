"""`py4dstem-ml predict disks` on files of several kinds, with a finder that knows the answer."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from py4dstem_ml.toolkits import predict_disks

PEAKS = np.array([[8.0, 12.0, 1.0], [20.0, 5.5, 0.5]])


@pytest.fixture
def scan() -> np.ndarray:
    return np.random.default_rng(0).random((2, 3, 24, 24)).astype("float32")


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray | None]:
    """Stands in for the network; collects the probes it is given."""
    seen: list[np.ndarray | None] = []

    def find(datacube, probe=None, **options: object):
        import py4DSTEM

        seen.append(probe)
        vectors = py4DSTEM.BraggVectors(datacube.Rshape, datacube.Qshape, name="braggvectors")
        records = np.zeros(len(PEAKS), vectors._v_uncal.dtype)
        for field, column in zip(("qx", "qy", "intensity"), PEAKS.T, strict=True):
            records[field] = column
        for position in np.ndindex(*datacube.Rshape):
            vectors._v_uncal[position].add(records)
        datacube.attach(vectors)
        vectors.setcal()
        return vectors

    monkeypatch.setattr(predict_disks, "find_bragg_disks_aiml", find)
    return seen


def arguments(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    predict_disks.add_arguments(parser)
    return parser.parse_args(list(map(str, words)))


def test_the_vectors_are_saved_and_read_back(
    tmp_path: Path, scan: np.ndarray, probes: list[np.ndarray | None]
) -> None:
    import py4DSTEM

    np.save(tmp_path / "scan.npy", scan)
    text = predict_disks.run(arguments(tmp_path / "scan.npy"))
    output = tmp_path / "scan_bragg.h5"
    assert text == f"12 peaks in 6 patterns, saved to {output}"
    read = py4DSTEM.read(str(output))
    assert isinstance(read, py4DSTEM.BraggVectors)
    np.testing.assert_array_equal(read.raw[1, 2].qx, PEAKS[:, 0])
    assert probes == [None]


def test_the_probe_is_read(
    tmp_path: Path, scan: np.ndarray, probes: list[np.ndarray | None]
) -> None:
    np.save(tmp_path / "scan.npy", scan)
    np.save(tmp_path / "probe.npy", scan[0, 0])
    for probe in ("probe.npy", "scan.npy"):
        output = tmp_path / "deep" / "out.h5"
        words = (tmp_path / "scan.npy", "--probe", tmp_path / probe, "--output", output)
        predict_disks.run(arguments(*words, "--overwrite"))
        assert output.is_file()
    np.testing.assert_array_equal(probes[0], scan[0, :1])
    np.testing.assert_array_equal(probes[1], scan.reshape(6, 24, 24))


def test_nothing_is_overwritten_unasked(
    tmp_path: Path, scan: np.ndarray, probes: list[np.ndarray | None]
) -> None:
    file, output = tmp_path / "scan.npy", tmp_path / "out.h5"
    np.save(file, scan)
    np.save(tmp_path / "probe.npy", scan[0, 0])
    (tmp_path / "link.npy").symlink_to(file)
    output.write_text("mine")
    for words, sentence in (
        (["--output", output], "--overwrite"),
        (["--figure", output], "--overwrite"),
        (["--output", file, "--overwrite"], "made from"),
        (["--output", tmp_path / "link.npy", "--overwrite"], "made from"),
        (["--probe", tmp_path / "probe.npy", "--output", tmp_path / "probe.npy"], "made from"),
        (["--output", tmp_path, "--overwrite"], "folder"),
        (["--output", file / "out.h5"], "scan.npy"),
    ):
        with pytest.raises(OSError, match=sentence):
            predict_disks.run(arguments(file, *words))
    assert probes == []  # refused before the work
    assert output.read_text() == "mine"
    np.testing.assert_array_equal(np.load(file), scan)
    predict_disks.run(arguments(file, "--output", output, "--overwrite"))
    assert output.read_bytes().startswith(b"\x89HDF")


def test_an_interrupted_run_is_saved(
    tmp_path: Path, scan: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    import py4DSTEM

    def find(datacube, probe, *, name: str, **options: object):
        vectors = py4DSTEM.BraggVectors(datacube.Rshape, datacube.Qshape, name=name)
        vectors._v_uncal[0, 1].add(np.ones(3, vectors._v_uncal.dtype))
        datacube.attach(vectors)
        raise KeyboardInterrupt

    monkeypatch.setattr(predict_disks, "find_bragg_disks_aiml", find)
    np.save(tmp_path / "scan.npy", scan)
    with pytest.raises(KeyboardInterrupt):
        predict_disks.run(arguments(tmp_path / "scan.npy"))
    assert len(py4DSTEM.read(str(tmp_path / "scan_bragg.h5")).raw[0, 1].data) == 3


def test_a_figure_is_drawn_and_pyplot_left_alone(
    tmp_path: Path, scan: np.ndarray, probes: list[np.ndarray | None]
) -> None:
    from matplotlib import pyplot

    np.save(tmp_path / "scan.npy", scan)
    figure = tmp_path / "figures" / "out.png"
    before = pyplot.get_fignums(), pyplot.get_backend()
    predict_disks.run(arguments(tmp_path / "scan.npy", "--figure", figure))
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert (pyplot.get_fignums(), pyplot.get_backend()) == before


@pytest.mark.parametrize(("units", "size"), [("1/nm", 0.02), ("$A^{-1}$", 0.2), ("1/Å", 0.2)])
def test_a_reciprocal_pixel_size_is_taken_over(
    tmp_path: Path, scan: np.ndarray, units: str, size: float
) -> None:
    import hyperspy.api as hs

    signal = hs.signals.Signal2D(scan)
    for axis in signal.axes_manager.signal_axes:
        axis.scale, axis.units = 0.2, units
    signal.save(tmp_path / "scan.hspy")
    cube = predict_disks.load_datacube(tmp_path / "scan.hspy")
    assert cube.calibration.get_Q_pixel_size() == pytest.approx(size)
    assert cube.calibration.get_Q_pixel_units() == "A^-1"
    np.testing.assert_array_equal(np.asarray(cube.data), scan)


@pytest.mark.parametrize("axes", [2, 3])
def test_missing_scan_axes_are_added(tmp_path: Path, scan: np.ndarray, axes: int) -> None:
    few = scan[(0,) * (4 - axes)]
    np.save(tmp_path / "few.npy", few)
    cube = predict_disks.load_datacube(tmp_path / "few.npy")
    assert cube.data.shape == (1,) * (4 - axes) + few.shape
    assert cube.calibration.get_Q_pixel_units() == "pixels"


def test_bad_files_get_a_sentence(tmp_path: Path) -> None:
    np.save(tmp_path / "line.npy", np.zeros(4))
    with pytest.raises(ValueError, match="has 1 axes"):
        predict_disks.load_datacube(tmp_path / "line.npy")
    with pytest.raises(FileNotFoundError):
        predict_disks.load_datacube(tmp_path / "nothing.blo")
    (tmp_path / "text.blo").write_text("not a scan")
    with pytest.raises(ValueError, match="hyperspy cannot read"):
        predict_disks.load_datacube(tmp_path / "text.blo")


@pytest.mark.parametrize(
    ("words", "error"),
    [(("--figure", "out.xyz"), ValueError), (("--model", "dulnet"), RuntimeError)],
)
def test_what_would_fail_in_the_end_fails_at_once(
    tmp_path: Path, scan: np.ndarray, probes: list[np.ndarray | None], words, error
) -> None:
    np.save(tmp_path / "scan.npy", scan)
    with pytest.raises(error, match="figure|weights"):
        predict_disks.run(arguments(tmp_path / "scan.npy", *words))
    assert not probes


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "shape"),
    [("rsciio_sped_3x2.blo", (3, 2, 144, 144)), ("ba50_dd020.dm3", (1, 1, 256, 256))],
)
def test_measured_files_are_read(data_folder: Path, name: str, shape: tuple[int, ...]) -> None:
    cube = predict_disks.load_datacube(data_folder / "experimental" / name)
    assert cube.data.shape == shape
