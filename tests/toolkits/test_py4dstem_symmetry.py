"""Bragg vectors of py4DSTEM: calibrated as it does, mapped, saved, and read without us."""

import json
import subprocess
import sys

import numpy as np
import py4DSTEM
import pytest

import py4dstem_ml
from py4dstem_ml.symmetry import SYSTEMS
from py4dstem_ml.symmetry.prediction import CrystalPrediction
from py4dstem_ml.toolkits import py4dstem_symmetry
from py4dstem_ml.toolkits.py4dstem_symmetry import bragg_lists, filtered_systems

SCAN = (4, 5)


class Reader:
    """Stands in for a model: cubic where the strongest peak is near, else hexagonal."""

    metadata = {"sha256": "0" * 64}  # noqa: RUF012

    def read(self, lists, system=None, *, system_only=False):
        near = np.array([np.hypot(*lists[i][0, :2]) < 0.45 for i in range(len(lists))])
        return self._found(near, system)

    def pool(self, lists, bag):
        near = np.array([np.hypot(*lists[i][0, :2]) < 0.45 for i in range(len(lists))])
        share = np.bincount(bag, near) / np.bincount(bag)
        return self._found(share > 0.5, None)

    def _found(self, near, system):
        found = CrystalPrediction.nothing(len(near))
        found.valid[:] = True
        found.probabilities = np.zeros((len(near), 7), np.float32)
        found.probabilities[:, 0] = np.where(near, 0.8, 0.3)
        found.probabilities[:, 1] = 1 - found.probabilities[:, 0]
        found.confidence, found.difference = found.probabilities.max(1), np.full(len(near), 0.4)
        system = found.system if system is None else system
        found.space_group[:] = np.where(system == 0, 225, 194)
        found.space_group_confidence[:] = 0.9
        found.lattice = np.where(system[:, None] == 0, 4.0, [3.0, 3.0, 5.0]).astype(np.float32)
        found.lattice_spread[:] = 0.1
        return found


@pytest.fixture(autouse=True)
def _reader(monkeypatch):
    monkeypatch.setattr("py4dstem_ml.symmetry.predict.load_model", lambda *_: Reader())
    monkeypatch.setattr("py4dstem_ml.weights.default_name", lambda system: "reader")


def _vectors(lengths=None):
    """A ring of eight spots at each position, its radius in 1/Å; none where it is 0."""
    lengths = np.full(SCAN, 0.4) if lengths is None else lengths
    vectors = py4DSTEM.BraggVectors(SCAN, (128, 128))
    for place, q in np.ndenumerate(lengths):
        records = np.zeros(9 if q else 0, vectors._v_uncal.dtype)
        if q:
            angle = np.arange(8) * np.pi / 4
            records["qx"] = 64 + np.append(0, q / 0.02 * np.cos(angle))
            records["qy"] = 60 + np.append(0, q / 0.02 * np.sin(angle))
            records["intensity"] = np.append(100, np.linspace(2, 1, 8))
        vectors._v_uncal[place].add(records)
    return vectors


def _calibrated(vectors):
    vectors.calibration.set_origin((np.full(SCAN, 64.0), np.full(SCAN, 60.0)))
    vectors.calibration.set_Q_pixel_size(0.02)
    vectors.calibration.set_Q_pixel_units("A^-1")
    return vectors


@pytest.mark.parametrize("origin", ["one", "each"])
@pytest.mark.parametrize("ellipse", [None, (10.0, 9.5, 0.4)])
def test_calibrated_as_py4dstem_does(origin, ellipse):
    vectors = _calibrated(_vectors())
    if origin == "one":
        vectors.calibration.set_origin((63.2, 61.1))
    else:
        row, col = np.mgrid[: SCAN[0], : SCAN[1]]
        vectors.calibration.set_origin((64 + 0.1 * row, 60 - 0.2 * col))
    if ellipse:
        vectors.calibration.set_ellipse(ellipse)
    vectors.setcal(center=True, ellipse=ellipse is not None, pixel=True, rotate=False)
    lists = bragg_lists(vectors)
    for number, place in enumerate(np.ndindex(SCAN)):
        expected = vectors.cal[place]
        np.testing.assert_allclose(lists[number][:, 0], expected.qx, atol=1e-12)
        np.testing.assert_allclose(lists[number][:, 1], expected.qy, atol=1e-12)
        np.testing.assert_array_equal(lists[number][:, 2], expected.I)


def test_uncalibrated_vectors_are_refused():
    vectors = _vectors()
    with pytest.raises(ValueError, match=r"in 'pixels': set it with .*set_Q_pixel_size\(SIZE\)"):
        vectors.predict_crystal_system()
    vectors.calibration.set_Q_pixel_size(0.02)
    vectors.calibration.set_Q_pixel_units("A^-1")
    with pytest.raises(ValueError, match="measure_origin"):
        vectors.predict_crystal()
    with pytest.raises(TypeError, match="BraggVectors are needed"):
        py4dstem_symmetry.predict_crystal(np.zeros((3, 3)))


def test_absurd_pixels_are_refused():
    vectors = _calibrated(_vectors())
    for size, message in ((-0.02, "not above 0"), (1.0, "in pixels")):
        vectors.calibration.set_Q_pixel_size(size)
        with pytest.raises(ValueError, match=message):
            vectors.predict_crystal_system()


def test_maps_of_a_scan():
    lengths = np.full(SCAN, 0.4)
    lengths[:, 3:] = 0.5
    lengths[0, 0] = 0
    vectors = _calibrated(_vectors(lengths))
    system = vectors.predict_crystal_system(median_filter=1, progress=False)
    expected = np.where(lengths == 0.5, 1, 0)
    expected[0, 0] = -1
    np.testing.assert_array_equal(system.data, expected)
    assert isinstance(system, py4DSTEM.RealSlice) and system.data.dtype == np.int16
    assert system.metadata["legend"]["systems"] == list(SYSTEMS)
    parameters = json.loads(system.metadata["aiml"]["parameters"])
    assert parameters["median_filter"] == 1 and parameters["sha256"] == "0" * 64
    assert set(vectors._branch.keys()) == {
        "crystal_system", "crystal_confidence", "crystal_probabilities",
    }  # fmt: skip
    vectors.predict_crystal()
    assert set(vectors._branch.keys()) >= {"crystal_system", "lattice", "space_group"}


def test_space_group_and_lattice_are_of_the_filtered_system():
    lengths = np.full(SCAN, 0.4)
    lengths[2, 2] = 0.5
    vectors = _calibrated(_vectors(lengths))
    maps = vectors.predict_crystal(median_filter=3)
    assert maps["crystal_system"].data[2, 2] == 0  # outvoted by its neighbours
    assert maps["space_group"]["number"].data[2, 2] == 225
    np.testing.assert_allclose(maps["lattice"].data[:3, 2, 2], 4.0)
    np.testing.assert_allclose(vectors.predict_lattice(median_filter=1)["c"].data[2, 2], 5.0)
    assert vectors.predict_space_group(median_filter=1)["number"].data[2, 2] == 194


def test_regions_are_read_together():
    lengths = np.full(SCAN, 0.4)
    lengths[:2, 0] = 0.5
    regions = np.zeros(SCAN, int)
    regions[:, :2], regions[:, 3:] = 3, 7  # gaps are fine
    lengths[:, 3:] = 0.5
    system = _calibrated(_vectors(lengths)).predict_crystal_system(regions=regions)
    np.testing.assert_array_equal(system.data, np.array([[0, 0, -1, 1, 1]] * 4))
    mask = _calibrated(_vectors()).predict_crystal_system(regions=regions == 7)
    np.testing.assert_array_equal(mask.data, np.array([[-1, -1, -1, 0, 0]] * 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"median_filter": 4}, "odd number"),
        ({"regions": np.zeros((2, 2), int)}, "regions have shape"),
        ({"regions": np.zeros(SCAN)}, "must be numbers"),
        ({"regions": np.full(SCAN, -1)}, "a negative one"),
        ({"regions": "grains"}, 'or "particles"'),
        ({"min_peaks": 0}, "min_peaks"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        _calibrated(_vectors()).predict_crystal(**options)


def test_particles_of_the_dark_field():
    lengths = np.zeros(SCAN)
    lengths[1, 2] = 0.4
    system = _calibrated(_vectors(lengths)).predict_crystal_system(regions="particles").data
    assert system[1, 2] == 0 and (system == -1).sum() >= 11


def test_too_few_peaks_and_no_lead():
    vectors = _calibrated(_vectors())
    assert (vectors.predict_crystal_system(min_peaks=9).data == -1).all()
    assert (vectors.predict_crystal_system(min_difference=0.41).data == -1).all()


def test_the_filter_is_the_papers():
    rng = np.random.default_rng(0)
    found = CrystalPrediction.nothing(63)
    found.valid[:] = rng.random(63) < 0.9
    found.probabilities = rng.dirichlet(np.ones(7), 63).astype(np.float32)
    found.difference = rng.random(63).astype(np.float32)
    from scipy.signal import medfilt

    stack = np.zeros((7, 7, 9))
    for i in np.flatnonzero(found.valid):
        stack[found.system[i], i // 9, i % 9] = found.difference[i]
    inner = np.s_[2:-2, 2:-2]  # the paper's has zeros beyond the border
    expected = medfilt(stack, (1, 5, 5))[:, 2:-2, 2:-2]
    system, lead = (part[inner] for part in filtered_systems(found, (7, 9), 5, 0.005))
    kept = (expected.max(0) > 0.005) & found.valid.reshape(7, 9)[inner]
    np.testing.assert_allclose(lead[kept], expected.max(0)[kept])
    np.testing.assert_array_equal(system[kept], expected.argmax(0)[kept])
    assert (system[~kept] == -1).all() and np.isnan(lead[~kept]).all()


def test_the_filter_fills_no_gaps():
    lengths = np.full(SCAN, 0.4)
    lengths[1, 2] = 0
    vectors = _calibrated(_vectors(lengths))
    vectors._v_uncal[2, 2].data["intensity"][3] = np.nan
    system = vectors.predict_crystal_system(median_filter=3).data
    assert system[1, 2] == system[2, 2] == -1
    assert (np.delete(system.ravel(), [7, 12]) == 0).sum() >= 14


def test_read_back_without_the_plugin(tmp_path):
    vectors = _calibrated(_vectors())
    vectors.predict_crystal()
    path = tmp_path / "maps.h5"
    py4DSTEM.save(str(path), vectors, mode="o")
    code = (
        "import sys, py4DSTEM\n"
        f"v = py4DSTEM.read({str(path)!r})\n"
        "v = v if hasattr(v, 'raw') else v.tree('braggvectors')\n"
        "m = v.tree('crystal_system')\n"
        "assert 'py4dstem_ml' not in sys.modules\n"
        "print(type(m).__name__, m.data.tolist(), list(m.metadata['legend']['systems'])[0])\n"
        "print(v.tree('lattice')['a'].data[0, 0])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert f"RealSlice {[[0] * 5] * 4} cubic" in ran.stdout and "4.0" in ran.stdout


def test_methods_are_registered():
    names = {m.name for m in py4dstem_ml.registered_methods() if "BraggVectors" in m.class_name}
    assert names == {
        "predict_crystal", "predict_crystal_system", "predict_lattice", "predict_space_group",
    }  # fmt: skip
