"""hyperspy's map and files, pyxem's diffraction vectors."""

import h5py
import numpy as np
import py4DSTEM
import pytest
from correlation import Correlation, disk, draw, lattice

hs = pytest.importorskip("hyperspy.api")
from py4dstem_ml import BraggDiskFinder  # noqa: E402
from py4dstem_ml.toolkits.hyperspy import (  # noqa: E402
    find_peaks,
    load_patterns,
    load_probe,
    signal_probe,
)
from py4dstem_ml.toolkits.pyxem import find_bragg_disks_aiml  # noqa: E402

SHAPE = (64, 66)
PROBE = disk(SHAPE, 32, 33, 4)


@pytest.fixture(scope="module")
def scan():
    rng = np.random.default_rng(0)
    patterns = [draw(SHAPE, lattice(SHAPE, 13, rng), disk, 4) for _ in range(6)]
    return rng.poisson(300 * np.stack(patterns)).astype(np.uint16).reshape(2, 3, *SHAPE)


@pytest.fixture
def finder():
    return BraggDiskFinder(PROBE, model=Correlation(), device="cpu", min_relative_intensity=0.05)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("mc_samples", [0, 3])
def test_the_finder_is_what_map_takes(scan, lazy, mc_samples):
    finder = BraggDiskFinder(PROBE, model=Correlation(), device="cpu", mc_samples=mc_samples)
    signal = hs.signals.Signal2D(scan)
    signal = signal.as_lazy() if lazy else signal
    peaks = signal.map(
        finder, ragged=True, inplace=False, output_signal_size=(), output_dtype=object,
        num_workers=4,
    )  # fmt: skip
    assert peaks._lazy == lazy
    if lazy:
        peaks.compute()
    for position in np.ndindex(2, 3):
        np.testing.assert_allclose(peaks.data[position], finder(scan[position]), atol=1e-4)


def test_find_peaks_maps_with_the_right_options(scan, finder):
    peaks = find_peaks(hs.signals.Signal2D(scan), finder, show_progressbar=False)
    np.testing.assert_allclose(peaks.data[1, 2], finder(scan[1, 2]), atol=1e-4)


@pytest.mark.parametrize("lazy", [False, True])
def test_pyxem_gets_diffraction_vectors_in_the_units_of_its_axes(scan, finder, lazy):
    from pyxem.signals import Diffraction2D, DiffractionVectors

    signal = Diffraction2D(scan)
    column, row = signal.axes_manager.signal_axes
    row.scale, row.offset, row.units = 0.02, -0.64, "1/Å"
    column.scale, column.offset, column.units = 0.03, -0.99, "1/Å"
    signal = signal.as_lazy() if lazy else signal
    vectors = find_bragg_disks_aiml(
        signal, PROBE, model=Correlation(), device="cpu", min_relative_intensity=0.05
    )
    assert isinstance(vectors, DiffractionVectors)
    assert list(vectors.column_names) == ["ky", "kx", "intensity"]
    if lazy:
        vectors.compute()
    for position in np.ndindex(2, 3):
        expected = finder(scan[position])
        np.testing.assert_allclose(
            vectors.data[position], (expected + [-32, -33, 0]) * [0.02, 0.03, 1], atol=1e-4
        )


def test_pyxem_gets_uncertainties_too(scan):
    from pyxem.signals import Diffraction2D

    signal = Diffraction2D(scan)
    for axis in signal.axes_manager.signal_axes:
        axis.scale, axis.units = 0.02, "1/Å"
    options = {"model": Correlation(), "device": "cpu", "mc_samples": 3}
    vectors = find_bragg_disks_aiml(signal, PROBE, **options)
    expected = BraggDiskFinder(PROBE, **options)(scan[0, 0])
    scales = [0.02, 0.02, 1, 0.02, 0.02, 1]
    np.testing.assert_allclose(vectors.data[0, 0], expected * scales, atol=1e-4)
    assert list(vectors.column_names)[3:] == ["sigma_ky", "sigma_kx", "sigma_intensity"]


@pytest.mark.parametrize("lazy", [False, True])
def test_pyxem_takes_a_single_pattern_without_units(scan, finder, lazy):
    from pyxem.signals import Diffraction2D

    signal = Diffraction2D(scan[0, 0])
    signal = signal.as_lazy() if lazy else signal
    options = {"model": Correlation(), "device": "cpu", "min_relative_intensity": 0.05}
    vectors = find_bragg_disks_aiml(signal, PROBE, **options)
    if lazy:
        vectors.compute()
    assert vectors.data.shape == (1,)
    np.testing.assert_allclose(vectors.data[0], finder(scan[0, 0]), atol=1e-4)
    assert list(vectors.units)[:2] == ["px", "px"]


def test_pyxem_estimates_a_probe_and_takes_empty_patterns(scan):
    from pyxem.signals import Diffraction2D

    data = scan.copy()
    data[0, 0] = 0
    vectors = find_bragg_disks_aiml(Diffraction2D(data), model=Correlation(), device="cpu")
    assert vectors.data[0, 0].shape == (0, 3)
    assert len(vectors.data[1, 1]) > 10


def test_a_probe_may_be_a_signal_a_py4dstem_probe_or_an_array(scan):
    signal = hs.signals.Signal2D(scan)
    for probe in (PROBE, hs.signals.Signal2D(PROBE), py4DSTEM.Probe(PROBE)):
        np.testing.assert_array_equal(signal_probe(signal, probe), PROBE)


def test_files_of_hyperspy_are_read_lazily(scan, tmp_path):
    signal = hs.signals.Signal2D(scan)
    for axis in signal.axes_manager.signal_axes:
        axis.scale, axis.units = 0.02, "1/Å"
    signal.save(tmp_path / "scan.hspy")
    patterns = load_patterns(tmp_path / "scan.hspy")
    assert not isinstance(patterns.array, np.ndarray)
    np.testing.assert_array_equal(np.asarray(patterns.array), scan)
    assert (patterns.pixel_size, patterns.units) == (0.02, "1/Å")


def test_files_of_py4dstem_are_read(scan, tmp_path):
    cube = py4DSTEM.DataCube(scan)
    cube.calibration.set_Q_pixel_size(0.03)
    cube.calibration.set_Q_pixel_units("A^-1")
    py4DSTEM.save(str(tmp_path / "cube.h5"), cube)
    patterns = load_patterns(tmp_path / "cube.h5")
    assert isinstance(patterns.array, h5py.Dataset)  # not read before it is asked for
    np.testing.assert_array_equal(patterns.array, scan)
    assert (patterns.pixel_size, patterns.units) == (0.03, "A^-1")


def test_a_saved_probe_is_read_without_its_kernel(scan, tmp_path):
    probe = py4DSTEM.Probe(PROBE)
    probe.get_kernel(mode="flat")
    py4DSTEM.save(str(tmp_path / "probe.h5"), probe)
    np.testing.assert_array_equal(load_probe(tmp_path / "probe.h5"), PROBE[None])
    cube = py4DSTEM.DataCube(scan)
    cube.attach(probe)
    py4DSTEM.save(str(tmp_path / "cube.h5"), cube)
    np.testing.assert_array_equal(load_probe(tmp_path / "cube.h5"), PROBE[None])


def test_a_probe_is_an_image_or_a_scan_that_is_not_averaged(scan, tmp_path):
    py4DSTEM.save(str(tmp_path / "cube.h5"), py4DSTEM.DataCube(scan))
    np.testing.assert_array_equal(load_probe(tmp_path / "cube.h5"), scan.reshape(6, *SHAPE))
    np.save(tmp_path / "probe.npy", PROBE)
    np.testing.assert_array_equal(load_probe(tmp_path / "probe.npy"), PROBE[None])
    np.save(tmp_path / "many.npy", np.arange(300)[:, None, None] * np.ones((4, 4)))
    many = load_probe(tmp_path / "many.npy")
    assert len(many) == 64
    assert (many[0].max(), many[-1].max()) == (0, 299)


def test_files_without_patterns_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_patterns(tmp_path / "nothing.h5")
    vectors = py4DSTEM.BraggVectors((2, 2), (8, 8))
    py4DSTEM.save(str(tmp_path / "vectors.h5"), vectors)
    with pytest.raises(ValueError, match="no data cube"):
        load_patterns(tmp_path / "vectors.h5")
    hs.signals.Signal1D(np.zeros((3, 8))).save(tmp_path / "spectra.hspy")
    with pytest.raises(ValueError, match="no images"):
        load_patterns(tmp_path / "spectra.hspy")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "shape", "radius"),
    [("ba50_dd020.dm3", (256, 256), (4, 6)), ("rsciio_sped_3x2.blo", (3, 2, 144, 144), (2, 4))],
)
def test_measured_files_give_a_regular_lattice_of_peaks(data_folder, name, shape, radius):
    from py4dstem_ml.disks import estimate_probe, prepare_probe, sample_patterns

    patterns = load_patterns(data_folder / "experimental" / name)
    assert patterns.array.shape == shape
    probe = estimate_probe(sample_patterns(patterns.array))
    assert radius[0] < prepare_probe(probe).radius < radius[1]
    pattern = np.asarray(patterns.array).reshape(-1, *shape[-2:])[0].clip(min=0)
    finder = BraggDiskFinder(probe, model=Correlation(), device="cpu", min_relative_intensity=0.02)
    assert len(finder(pattern)) > 5
