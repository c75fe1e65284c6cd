"""The data cube method: results in py4DSTEM's own classes, from any source, lost by nothing."""

import hashlib
import json
import logging
import subprocess
import sys
import warnings

import dask.array as da
import h5py
import numpy as np
import py4DSTEM
import pytest
import torch
from correlation import Correlation, disk, draw, lattice

import py4dstem_ml
from py4dstem_ml.disks.network import DiskNetSpec, build_network, save_network
from py4dstem_ml.toolkits import py4dstem as adapter
from py4dstem_ml.toolkits.py4dstem import crystal_from_py4dstem, crystal_to_py4dstem

SHAPE = (64, 64)
SCAN = (3, 4)
PROBE = disk(SHAPE, 32, 32, 4)


@pytest.fixture(scope="module")
def scan():
    rng = np.random.default_rng(0)
    patterns = [draw(SHAPE, lattice(SHAPE, 13, rng), disk, 4) for _ in range(12)]
    return rng.poisson(300 * np.stack(patterns)).astype(np.uint16).reshape(*SCAN, *SHAPE)


@pytest.fixture
def cube(scan):
    return py4DSTEM.DataCube(scan.copy())


def find(cube, probe=PROBE, data=None, **options):
    options = {"model": Correlation(), "device": "cpu", **options}
    return cube.find_bragg_disks_aiml(probe, data, **options)


def peaks_of(vectors, position):
    raw = vectors.raw[position]
    return np.column_stack([raw.qx, raw.qy, raw.I])


def test_bragg_vectors_hold_what_the_finder_finds(cube, scan):
    vectors = find(cube, min_relative_intensity=0.02)
    assert type(vectors) is py4DSTEM.BraggVectors
    assert (vectors.Rshape, vectors.Qshape) == (SCAN, SHAPE)
    finder = py4dstem_ml.BraggDiskFinder(PROBE, model=Correlation(), min_relative_intensity=0.02)
    for position in np.ndindex(SCAN):
        np.testing.assert_allclose(peaks_of(vectors, position), finder(scan[position]), atol=1e-4)


def test_bragg_vectors_join_the_cubes_tree_and_calibration(cube):
    cube.calibration.set_origin((32, 31))
    cube.calibration.set_Q_pixel_size(0.02)
    cube.calibration.set_Q_pixel_units("A^-1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectors = find(cube, name="mine")
    assert cube.tree("mine") is vectors
    assert vectors.calibration is cube.calibration
    assert vectors.calstate == {"center": True, "ellipse": False, "pixel": True, "rotate": False}
    raw, cal = vectors.raw[1, 2], vectors.cal[1, 2]
    np.testing.assert_allclose(cal.qx, 0.02 * (raw.qx - 32))
    np.testing.assert_allclose(cal.qy, 0.02 * (raw.qy - 31))
    cube.calibration.set_origin((30, 31))
    np.testing.assert_allclose(vectors.cal[1, 2].qx, 0.02 * (raw.qx - 30))


def test_a_second_run_replaces_the_first(cube):
    first, second = find(cube), find(cube)
    assert cube.tree("braggvectors_aiml") is second
    assert second in cube.calibration.targets
    assert first not in cube.calibration.targets


def test_an_uncalibrated_cube_is_fine(cube):
    vectors = find(cube)
    np.testing.assert_array_equal(vectors.cal[0, 0].qx, vectors.raw[0, 0].qx)


def test_metadata_say_how_the_vectors_were_made(cube):
    vectors = find(cube, mc_samples=2, min_spacing=3.5)
    parameters = json.loads(vectors.metadata["aiml"]["parameters"])
    assert parameters["model"] == "Correlation"
    assert parameters["version"] == py4dstem_ml.__version__
    assert parameters["min_spacing"] == 3.5
    assert parameters["mc_samples"] == 2
    assert parameters["probe_estimated"] is False
    assert parameters["probe_radius_px"] == pytest.approx(4, abs=0.1)
    assert (parameters["complete"], parameters["positions_done"]) == (True, 12)


def test_metadata_name_the_weights_that_were_loaded(cube, tmp_path):
    path = tmp_path / "mine.safetensors"
    save_network(build_network(DiskNetSpec("unet", (4, 8), depth=1)), path, {})
    content = path.read_bytes()

    class Replacing(np.ndarray):
        """The file is replaced while the scan is read."""

        def __getitem__(self, key):
            path.write_bytes(b"newer")
            return super().__getitem__(key)

    cube.data = cube.data.view(Replacing)
    parameters = json.loads(find(cube, model=path).metadata["aiml"]["parameters"])
    assert parameters["model"] == str(path)
    assert parameters["sha256"] == hashlib.sha256(content).hexdigest()


def test_uncertainties_are_further_fields(cube):
    vectors = find(cube, mc_samples=4)
    data = vectors.raw[0, 0].data
    assert data.dtype.names == (
        "qx", "qy", "intensity", "sigma_qx", "sigma_qy", "sigma_intensity",
    )  # fmt: skip
    assert (data["sigma_qx"] > 0).all()
    points = find(cube, data=(0, 0), mc_samples=4)
    np.testing.assert_allclose(points.data["sigma_qy"], data["sigma_qy"])


READ_ALONE = """
import sys, json, py4DSTEM
vectors = py4DSTEM.read(sys.argv[1])
assert not any(name.startswith("py4dstem_ml") for name in sys.modules)
assert type(vectors) is py4DSTEM.BraggVectors, type(vectors)
data = vectors.raw[1, 2].data
print(json.dumps({
    "names": data.dtype.names,
    "qx": data["qx"].tolist(),
    "sigma": data["sigma_qx"].tolist(),
    "cal": vectors.cal[1, 2].qx.tolist(),
    "metadata": json.loads(vectors.metadata["aiml"]["parameters"]),
}))
"""


def test_saved_vectors_are_read_without_this_package(cube, tmp_path):
    cube.calibration.set_Q_pixel_size(0.02)
    vectors = find(cube, mc_samples=2)
    path = str(tmp_path / "vectors.h5")
    py4DSTEM.save(path, vectors, tree=False)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ_ALONE, path],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout.splitlines()[-1])
    data = vectors.raw[1, 2].data
    assert tuple(read["names"]) == data.dtype.names
    assert read["qx"] == data["qx"].tolist()
    assert read["sigma"] == data["sigma_qx"].tolist()
    np.testing.assert_allclose(read["cal"], 0.02 * data["qx"])
    assert read["metadata"]["method"] == "find_bragg_disks_aiml"


def test_the_whole_tree_is_saved_with_the_cube(cube, tmp_path):
    vectors = find(cube)
    path = str(tmp_path / "cube.h5")
    py4DSTEM.save(path, cube)
    again = py4DSTEM.read(path).tree("braggvectors_aiml")
    np.testing.assert_array_equal(again.raw[2, 3].qx, vectors.raw[2, 3].qx)


@pytest.mark.parametrize("source", ["memmap", "h5py", "dask", "float", "big endian"])
def test_any_source_gives_the_same(scan, tmp_path, source):
    expected = find(py4DSTEM.DataCube(scan.copy()))
    if source == "memmap":
        data = np.memmap(tmp_path / "scan.raw", scan.dtype, "w+", shape=scan.shape)
        data[:] = scan
    elif source == "h5py":
        file = h5py.File(tmp_path / "scan.h5", "w")
        data = file.create_dataset("scan", data=scan, chunks=(2, 3, 64, 32))
    elif source == "dask":
        data = da.from_array(scan, chunks=(2, 3, 32, 64))
    else:
        data = scan.astype({"float": "f8", "big endian": ">u2"}[source])
    cube = py4DSTEM.DataCube(data)
    for batch_size in (5, 64):
        vectors = find(cube, batch_size=batch_size)
        for position in np.ndindex(SCAN):
            np.testing.assert_allclose(
                peaks_of(vectors, position), peaks_of(expected, position), atol=1e-4
            )
    assert len(find(cube, data=(1, 1)).data) == len(expected.raw[1, 1].data)
    assert len(find(cube, data=np.ones(SCAN, bool))) == 12
    find(cube, probe=None)


def test_the_scan_is_never_whole_in_memory(scan):
    class Watched:
        shape, dtype, ndim = (30, *scan.shape[1:]), scan.dtype, 4
        largest = 0

        def __getitem__(self, key):
            block = np.resize(scan, self.shape)[key]
            self.largest = max(self.largest, block.size // (64 * 64))
            return block

    cube = py4DSTEM.DataCube(scan)
    cube.data = watched = Watched()
    find(cube, batch_size=2)  # of 128 x 128: a quarter of that here
    assert watched.largest <= 8


def test_selected_positions(cube):
    everything = find(cube)

    def same(points, position):
        assert type(points) is py4DSTEM.data.QPoints
        np.testing.assert_allclose(points.qx, everything.raw[position].qx, atol=1e-4)

    same(find(cube, data=(1, 2)), (1, 2))
    same(find(cube, data=(np.int64(1), np.int64(2))), (1, 2))
    for several in (
        ([2, 0, 2], [3, 1, 3]),
        (np.array([2, 0, 2]), np.array([3, 1, 3])),
        [(2, 3), (0, 1), (2, 3)],
        np.array([(2, 3), (0, 1), (2, 3)]),
    ):
        found = find(cube, data=several)
        assert isinstance(found, list)
        for points, position in zip(found, [(2, 3), (0, 1), (2, 3)], strict=True):
            same(points, position)
    mask = np.zeros(SCAN, bool)
    mask[1, 3] = mask[2, 0] = True
    for given in (mask, mask.tolist(), tuple(map(tuple, mask.tolist()))):
        for points, position in zip(find(cube, data=given), [(1, 3), (2, 0)], strict=True):
            same(points, position)
    for points, position in zip(find(cube, data=(1, [2, 3])), [(1, 2), (1, 3)], strict=True):
        same(points, position)
    assert find(cube, data=~(mask | True)) == []
    assert find(cube, data=[]) == []


def test_selected_positions_leave_the_tree_alone(cube):
    find(cube, data=(0, 0))
    find(cube, data=[(0, 0)])
    assert not list(cube._branch.keys())


@pytest.mark.parametrize(
    "data",
    [(0, 9), (-1, 0), "all", (1, 2, 3), 4, (0.5, 1), np.ones((2, 2), bool), [(0, 1, 2)]]
    + [[[True, False]], (True, False)],
)
def test_positions_that_make_no_sense_are_refused(cube, data):
    with pytest.raises(ValueError, match="position|mask"):
        find(cube, data=data)


def test_probe_may_be_py4dstems_or_a_stack_or_missing(cube):
    expected = find(cube, data=(0, 0), min_relative_intensity=0.05)
    probe = py4DSTEM.Probe(PROBE)
    probe.get_kernel(mode="flat")
    for given in (probe, np.stack([PROBE, PROBE, PROBE]), None):
        points = find(cube, given, data=(0, 0), min_relative_intensity=0.05)
        assert len(points.data) == pytest.approx(len(expected.data), abs=2)


def test_the_cubes_own_probe_is_used(cube, caplog):
    cube.attach(py4DSTEM.Probe(PROBE, name="vacuum"))
    with caplog.at_level(logging.INFO, "py4dstem_ml"):
        vectors = find(cube, None)
    parameters = json.loads(vectors.metadata["aiml"]["parameters"])
    assert parameters["probe_estimated"] is False and "'vacuum'" in caplog.text
    np.testing.assert_array_equal(vectors.raw[0, 0].qx, find(cube, PROBE).raw[0, 0].qx)
    cube.attach(py4DSTEM.Probe(PROBE, name="another"))
    with pytest.raises(ValueError, match="several probes"):
        find(cube, None)


def test_an_estimated_probe_is_recorded(cube, caplog):
    with caplog.at_level(logging.INFO, "py4dstem_ml"):
        vectors = find(cube, None)
    assert json.loads(vectors.metadata["aiml"]["parameters"])["probe_estimated"] is True
    assert "estimated from the scan" in caplog.text


def test_bad_pixels_give_one_warning_for_the_whole_scan(scan):
    data = scan.astype(np.float32)
    data[0, 0, 5, 5] = np.nan
    data[2, 3, 6, 6] = -4
    with pytest.warns(UserWarning) as caught:
        find(py4DSTEM.DataCube(data), batch_size=2)
    (warning,) = (w for w in caught if "replaced" in str(w.message))
    assert warning.filename == __file__


def test_an_empty_pattern_is_an_empty_list(cube):
    cube.data[1, 1] = 0
    vectors = find(cube)
    assert len(vectors.raw[1, 1].data) == 0
    assert len(vectors.raw[1, 2].data) > 0
    assert len(find(cube, data=(1, 1)).data) == 0


@pytest.mark.parametrize(
    ("probe", "sentence"),
    [(np.ones((32, 32)), "no disk"), (disk((32, 32), 16, 16, 4), "64 x 64 pixels but the probe")],
)
def test_a_wrong_probe_is_refused_and_loses_nothing(cube, probe, sentence):
    with pytest.raises(ValueError, match=sentence):
        find(cube, probe)
    assert not list(cube._branch.keys())


def test_data_that_are_not_4d_are_refused():
    cube = py4DSTEM.DataCube(np.zeros((1, 1, 8, 8)))
    cube.data = np.zeros((8, 8))
    with pytest.raises(ValueError, match="2-D"):
        find(cube)


@pytest.mark.parametrize("source", ["array", "h5py", "dask"])
def test_an_array_is_taken_as_a_data_cube(cube, scan, tmp_path, source):
    file = h5py.File(tmp_path / "scan.h5", "w")
    data = {
        "array": scan,
        "h5py": file.create_dataset("scan", data=scan),
        "dask": da.from_array(scan, chunks=(2, 2, 64, 64)),
    }[source]
    options = {"model": Correlation(), "device": "cpu"}
    vectors = py4dstem_ml.find_bragg_disks_aiml(data, PROBE, **options)
    assert type(vectors) is py4DSTEM.BraggVectors
    np.testing.assert_allclose(vectors.raw[2, 1].qx, find(cube).raw[2, 1].qx, atol=1e-4)


@pytest.mark.parametrize("data", [np.zeros((4, 64, 64)), "scan.h5", None, torch.zeros(1, 1, 8, 8)])
def test_what_is_no_data_cube_gets_a_sentence(data):
    with pytest.raises(TypeError, match="DataCube or a 4-D array is needed, not"):
        py4dstem_ml.find_bragg_disks_aiml(data, PROBE)


def test_unknown_weights_are_refused_and_lose_nothing(cube):
    with pytest.raises(py4dstem_ml.WeightsError, match="no.such.weights"):
        find(cube, model="no.such.weights")
    assert not list(cube._branch.keys())


class Interrupted(Correlation):
    def __init__(self, error, after=2):
        super().__init__()
        self.error, self.after = error, after

    def forward(self, patterns, probe, mc_dropout=False):
        if len(self.calls) == self.after:
            raise self.error
        return super().forward(patterns, probe, mc_dropout)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_run_keeps_what_it_found(cube, caplog, tmp_path, error):
    with pytest.raises(error):
        find(cube, model=Interrupted(error), batch_size=1)  # four patterns of this size
    assert "8 positions, up to scan position (1, 3)" in caplog.text
    partial = cube.tree("braggvectors_aiml")
    assert partial.calibration is cube.calibration
    parameters = json.loads(partial.metadata["aiml"]["parameters"])
    assert (parameters["complete"], parameters["positions_done"]) == (False, 8)
    whole = find(cube, name="whole")
    for position in np.ndindex(SCAN):
        expected = peaks_of(whole, position) if position < (2, 0) else np.empty((0, 3))
        np.testing.assert_allclose(peaks_of(partial, position), expected, atol=1e-4)
    py4DSTEM.save(str(tmp_path / "partial.h5"), partial, tree=False)


def test_an_interrupted_run_does_not_replace_an_earlier_one(cube):
    first = find(cube)
    with pytest.raises(KeyboardInterrupt):
        find(cube, model=Interrupted(KeyboardInterrupt), batch_size=1)
    assert cube.tree("braggvectors_aiml") is first
    assert len(cube.tree("braggvectors_aiml_partial").raw[0, 0].data)


def test_interrupted_positions_are_kept_too(cube):
    with pytest.raises(KeyboardInterrupt):
        find(cube, model=Interrupted(KeyboardInterrupt), batch_size=1, data=np.ones(SCAN, bool))
    assert len(cube.tree("braggvectors_aiml").raw[1, 3].data)


def test_a_run_that_found_nothing_leaves_nothing(cube):
    with pytest.raises(KeyboardInterrupt):
        find(cube, model=Interrupted(KeyboardInterrupt, after=0))
    assert not list(cube._branch.keys())


def test_progress_is_shown_when_asked_for(cube, capsys):
    find(cube, progress=False)
    assert "Bragg disks" not in capsys.readouterr().err
    assert find(cube, progress=True, returncalc=False) is None
    assert "12/12" in capsys.readouterr().err


def test_importing_the_adapter_does_not_import_torch_networks():
    modules = "py4dstem_ml.toolkits.py4dstem, py4dstem_ml.disks"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    # py4DSTEM itself may bring torch; without it nothing does.
    before = subprocess.run(
        [sys.executable, "-c", "import sys, py4DSTEM; print('torch' in sys.modules)"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == before.stdout, done.stderr


def test_crystals_go_to_py4dstem_and_back():
    lattice_rows = np.array([[4.0, 0.1, 0], [0, 5.0, 0.2], [0.3, 0, 6.0]])
    crystal = py4dstem_ml.Crystal(
        lattice_rows, [22, 8], [[0, 0, 0], [0.5, 0.5, 0.1]], occupancies=[1, 0.5], b_iso=[0.3, 0.6]
    )
    theirs = crystal_to_py4dstem(crystal)
    assert type(theirs).__module__.startswith("py4DSTEM")
    np.testing.assert_allclose(theirs.lat_real, lattice_rows)
    back = crystal_from_py4dstem(theirs, b_iso=[0.3, 0.6])
    for field in ("lattice", "numbers", "positions", "occupancies", "b_iso"):
        np.testing.assert_allclose(getattr(back, field), getattr(crystal, field))


def test_crystals_given_by_cell_parameters_keep_their_metric():
    theirs = py4DSTEM.process.diffraction.Crystal([[0, 0, 0]], 14, [5, 6, 7, 80, 95, 100])
    ours = crystal_from_py4dstem(theirs)
    np.testing.assert_allclose(np.linalg.norm(ours.lattice, axis=1), [5, 6, 7])
    np.testing.assert_allclose(ours.reciprocal, theirs.lat_inv, atol=1e-9)


def test_the_method_is_the_function():
    assert py4dstem_ml.find_bragg_disks_aiml is adapter.find_bragg_disks_aiml
    assert py4DSTEM.DataCube.find_bragg_disks_aiml.__wrapped__ is adapter.find_bragg_disks_aiml
