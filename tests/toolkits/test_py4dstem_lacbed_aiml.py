"""LACBED networks on py4DSTEM's crystals and slices, and mapped by hyperspy."""

import logging

import emdfile
import numpy as np
import py4DSTEM
import pytest
from py4DSTEM.data import DiffractionSlice, RealSlice
from py4DSTEM.process.diffraction import Crystal
from tiny_lacbed import ROWS, saved, saved_atlas

import py4dstem_ml
from py4dstem_ml import LacbedGenerator, PotentialPredictor, predict_projected_potential
from py4dstem_ml.physics.electrons import wavelength
from py4dstem_ml.physics.projection import projected_potential
from py4dstem_ml.toolkits.py4dstem import crystal_from_py4dstem

FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
ALUMINIUM = Crystal(FCC, 13, 4.05)
SIZE = 4.0 / (16 * 4.05)


@pytest.fixture(scope="module")
def forward_file(tmp_path_factory):
    return saved("linenet.forward.tiny", tmp_path_factory.mktemp("forward"))


@pytest.fixture(scope="module")
def inverse_file(tmp_path_factory):
    return saved("linenet.inverse.tiny", tmp_path_factory.mktemp("inverse"))


@pytest.fixture(scope="module")
def atlas_file(tmp_path_factory):
    return saved_atlas(ROWS[:3], tmp_path_factory.mktemp("atlas"))


@pytest.fixture
def pattern():
    return np.random.default_rng(0).random((16, 16))


def _slice(data, units="A^-1", size=SIZE, **options):
    found = DiffractionSlice(data, **options)
    found.calibration.set_Q_pixel_size(size)
    found.calibration.set_Q_pixel_units(units)
    return found


def test_a_pattern_is_the_generators(forward_file):
    disks = ALUMINIUM.generate_lacbed_aiml(400, weights=forward_file, b_iso=0.7, device="cpu")
    disk = disks[0, 0, 0]
    potential = projected_potential(crystal_from_py4dstem(ALUMINIUM, 0.7), 16).potential
    expected = LacbedGenerator(forward_file, device="cpu")(potential, a=4.05, thickness=400)
    assert list(disks) == [(0, 0, 0)] and isinstance(disk, DiffractionSlice)
    np.testing.assert_allclose(disk.data, expected, atol=1e-5)
    assert disk.calibration.get_Q_pixel_size() == pytest.approx(SIZE)
    assert disk.calibration.get_Q_pixel_units() == "A^-1"


def test_a_pattern_covers_the_directions_of_the_exact_one(tmp_path):
    """The untrained network is the picture of few beams: near the exact one, and as wide."""
    path = saved("linenet.forward.tiny", tmp_path, untrained=True)
    found = ALUMINIUM.generate_lacbed_aiml(400, weights=path)[0, 0, 0]
    exact = ALUMINIUM.generate_lacbed(
        400, semiangle_mrad=1e3 * 2 / 4.05 * wavelength(200e3), pixels=16, absorption=False
    )[0, 0, 0]
    size = exact.calibration.get_Q_pixel_size()
    assert found.calibration.get_Q_pixel_size() == pytest.approx(size)
    assert np.corrcoef(found.data.ravel(), exact.data.ravel())[0, 1] > 0.97


def test_a_pattern_is_saved_and_read(forward_file, tmp_path):
    disk = ALUMINIUM.generate_lacbed_aiml(400, weights=forward_file)[0, 0, 0]
    emdfile.save(tmp_path / "a.h5", disk)
    np.testing.assert_array_equal(emdfile.read(tmp_path / "a.h5").data, disk.data)


@pytest.mark.parametrize(
    ("crystal", "change", "message"),
    [
        (Crystal([[0, 0, 0]], 47, [4.0, 4.0, 5.0]), {}, "this cell is not cubic"),
        (Crystal([[0, 0, 0]], 47, [4, 4, 4, 60, 60, 60]), {}, "this cell is not cubic"),
        (Crystal([[0, 0, 0], [0.5, 0, 0]], [47, 8], 4.0), {}, "not placed with cubic symmetry"),
        (Crystal([[0, 0, 0], [0.3] * 3], [47, 8], 4.0), {}, "not placed with cubic symmetry"),
        (Crystal(FCC, 13, 8.0), {}, "a from 3.5 to 6 Å, not 8 Å"),
        (ALUMINIUM, {"zone_axis_lattice": (1, 1, 0)}, r"zone \[0, 0, 1\], not \[1, 1, 0\]"),
        (ALUMINIUM, {"zone_axis_lattice": (0, 1)}, r"zone \[0, 0, 1\], not \[0, 1\]"),
        (ALUMINIUM, {"thickness": 5000}, "not 5000 Å"),
        (ALUMINIUM, {"thickness": np.nan}, "not nan"),
        (ALUMINIUM, {"accelerating_voltage": 200}, "60000 to 400000 V, not 200"),
        (ALUMINIUM, {"outside": "perhaps"}, "'refuse' or 'exact', not 'perhaps'"),
    ],
)
def test_what_networks_do_not_know_is_refused(crystal, change, message, forward_file):
    given = {"thickness": 400, "weights": forward_file, **change}
    with pytest.raises(ValueError, match=message) as error:
        crystal.generate_lacbed_aiml(**given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("crystal", "change"),
    [
        (Crystal(FCC, 13, 8.0), {"thickness": 300}),
        (ALUMINIUM, {"thickness": 900}),
        (ALUMINIUM, {"thickness": 300, "zone_axis_lattice": (1, 1, 0)}),
    ],
)
def test_outside_of_the_training_the_exact_pattern_may_stand_in(
    crystal, change, forward_file, caplog
):
    with caplog.at_level(logging.WARNING):
        disk = crystal.generate_lacbed_aiml(**change, weights=forward_file, outside="exact")[
            0, 0, 0
        ]
    assert "computed exactly instead" in caplog.text
    a = float(np.linalg.norm(crystal.lat_real[0]))
    exact = crystal.generate_lacbed(
        **change, semiangle_mrad=1e3 * 2 / a * wavelength(200e3), pixels=16, absorption=False
    )[0, 0, 0]
    np.testing.assert_allclose(disk.data, exact.data, atol=1e-4)
    size = disk.calibration.get_Q_pixel_size()
    assert size == pytest.approx(2 * 2 / a / 16)


def test_within_the_training_nothing_is_computed_exactly(forward_file, caplog):
    with caplog.at_level(logging.WARNING):
        one, other = (
            ALUMINIUM.generate_lacbed_aiml(400, weights=forward_file, outside=outside)[0, 0, 0]
            for outside in ("refuse", "exact")
        )
    assert not caplog.text
    np.testing.assert_array_equal(one.data, other.data)


@pytest.mark.parametrize("absorption", [False, True])
def test_slices_tell_whether_the_network_learned_absorption(absorption, tmp_path):
    path = saved("linenet.forward.tiny", tmp_path, absorption=absorption)
    for thickness, outside in ((400, "refuse"), (3000, "exact")):
        disk = ALUMINIUM.generate_lacbed_aiml(thickness, weights=path, outside=outside)[0, 0, 0]
        assert disk.metadata["lacbed"]["absorption"] is absorption


def test_the_method_is_registered():
    names = {m.name for m in py4dstem_ml.registered_methods() if "Crystal" in m.class_name}
    assert names == {"generate_lacbed", "generate_lacbed_aiml"}


def test_an_array_is_read_as_an_array(inverse_file, pattern):
    found = predict_projected_potential(
        pattern, a=4.05, thickness=400, weights=inverse_file, atlas=False
    )
    expected = PotentialPredictor(inverse_file, atlas=False)(pattern, a=4.05, thickness=400)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_slice_is_read_as_a_calibrated_slice(inverse_file, pattern, tmp_path):
    wide = np.zeros((24, 24))
    wide[4:-4, 4:-4] = pattern
    found = predict_projected_potential(
        _slice(wide), a=4.05, thickness=400, weights=inverse_file, atlas=False
    )
    expected = PotentialPredictor(inverse_file, atlas=False)(pattern, a=4.05, thickness=400)
    assert isinstance(found, RealSlice) and found.shape == (16, 16)
    np.testing.assert_allclose(found.data, expected, atol=1e-3, rtol=1e-3)
    assert found.calibration.get_R_pixel_size() == pytest.approx(4.05 / 16)
    assert found.calibration.get_R_pixel_units() == "A"
    py4DSTEM.save(str(tmp_path / "a.h5"), found, mode="o")
    np.testing.assert_array_equal(py4DSTEM.read(str(tmp_path / "a.h5")).data, found.data)


def test_of_a_series_one_pattern_is_read(inverse_file, pattern):
    series = _slice(np.stack([pattern, pattern.T]), slicelabels=["300", "400"])
    known = {"a": 4.05, "thickness": 400, "weights": inverse_file, "atlas": False}
    with pytest.raises(ValueError, match="a series.*give one, series"):
        predict_projected_potential(series, **known)
    found = predict_projected_potential(series["400"].data, **known, pixel_size=SIZE)
    one = predict_projected_potential(_slice(pattern.T), **known)
    np.testing.assert_allclose(found, one.data, atol=1e-3, rtol=1e-3)


def test_another_disk_is_not_read(inverse_file, pattern):
    disk = _slice(pattern)
    disk.name = "lacbed 2 0 0"
    with pytest.raises(ValueError, match="the disk 2 0 0: the bright field"):
        predict_projected_potential(disk, a=4.05, thickness=400, weights=inverse_file)


def test_what_is_simulated_is_read(inverse_file):
    disk = ALUMINIUM.generate_lacbed(400, semiangle_mrad=20, pixels=64)[0, 0, 0]
    found = predict_projected_potential(
        disk, a=4.05, thickness=400, weights=inverse_file, atlas=False
    )
    assert found.shape == (16, 16) and np.isfinite(found.data).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": _slice(np.eye(16), "pixels", 1)}, "calibrated in pixels, not A\\^-1"),
        ({"pattern": _slice(np.eye(16), size=0.8 * SIZE)}, "but 0.494 1/Å are looked at"),
        ({"pattern": np.ones((16, 16))}, "is constant"), ({"pattern": np.eye(16)[:9]}, "square"),
        ({"pattern": np.full((16, 16), np.nan)}, "NaN"), ({"a": 30.0}, "not 30 Å"),
        ({"thickness": 1}, "not 1 Å"), ({"accelerating_voltage": 200.0}, "not 200"),
        ({"pixel_size": -1.0}, "above 0"),
    ],
)  # fmt: skip
def test_patterns_that_cannot_be_read_are_refused(change, message, inverse_file):
    given = {"pattern": np.eye(16), "a": 4.05, "thickness": 400, **change}
    with pytest.raises(ValueError, match=message) as error:
        predict_projected_potential(
            given.pop("pattern"), weights=inverse_file, atlas=False, **given
        )
    assert "\n" not in str(error.value)


def test_a_pixel_size_of_ones_own_goes_before_the_slices(inverse_file, pattern):
    one = predict_projected_potential(
        _slice(pattern, "pixels", 1), a=4.05, thickness=400, pixel_size=SIZE,
        weights=inverse_file, atlas=False,
    )  # fmt: skip
    expected = PotentialPredictor(inverse_file, atlas=False)(pattern, a=4.05, thickness=400)
    np.testing.assert_allclose(one.data, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_the_callables_are_what_map_takes(direction, lazy, forward_file, inverse_file):
    hs = pytest.importorskip("hyperspy.api")
    call = (
        LacbedGenerator(forward_file, device="cpu")
        if direction == "forward"
        else PotentialPredictor(inverse_file, atlas=False, device="cpu")
    )
    u = 100 * np.random.default_rng(0).random((2, 3, 16, 16))
    signal = hs.signals.Signal2D(u)
    signal = signal.as_lazy() if lazy else signal
    found = signal.map(
        call, a=4.05, thickness=400.0, inplace=False, output_signal_size=(16, 16),
        output_dtype=np.float32, show_progressbar=False, num_workers=2,
    )  # fmt: skip
    assert found._lazy == lazy
    if lazy:
        found.compute(show_progressbar=False)
    expected = call(u, a=4.05, thickness=400.0)
    np.testing.assert_allclose(found.data, expected, atol=1e-3 * np.ptp(expected))


@pytest.fixture(scope="module")
def disk():
    """Of aluminium, which the atlas knows; as wide as its patterns."""
    semiangle = 1e3 * 2 / 4.05 * wavelength(200e3)
    return ALUMINIUM.generate_lacbed(400, semiangle_mrad=semiangle, pixels=16, absorption=False)[
        0, 0, 0
    ]


def test_a_slice_of_a_known_crystal_gives_that_crystals_potential(disk, inverse_file, atlas_file):
    found = predict_projected_potential(
        disk, a=4.05, thickness=400, weights=inverse_file, atlas=atlas_file
    )
    expected = projected_potential(crystal_from_py4dstem(ALUMINIUM), 16).potential
    assert isinstance(found, RealSlice)
    np.testing.assert_allclose(found.data, expected, atol=1e-3 * np.ptp(expected))


def test_absorption_is_what_the_slice_says_or_that_of_measured_ones(monkeypatch, disk):
    asked = []

    def noted(self, pattern, **known):
        asked.append(known["absorption"])
        return np.zeros((16, 16), np.float32)

    monkeypatch.setattr(PotentialPredictor, "__call__", noted)
    monkeypatch.setattr(PotentialPredictor, "pixels", 16)
    measured = _slice(disk.data)
    assert disk.metadata["lacbed"]["absorption"] is False
    absorbing = ALUMINIUM.generate_lacbed(400, semiangle_mrad=12, pixels=16)[0, 0, 0]
    for given in (disk, absorbing, measured, disk.data):
        predict_projected_potential(given, a=4.05, thickness=400)
    predict_projected_potential(disk, a=4.05, thickness=400, absorption=True)
    with pytest.raises(ValueError, match=r"made at thickness = \[400\], not 500"):
        predict_projected_potential(disk, a=4.05, thickness=500)
    with pytest.raises(ValueError, match="made at accelerating_voltage = 200000.0, not 300000"):
        predict_projected_potential(disk, a=4.05, thickness=400, accelerating_voltage=300e3)
    along = ALUMINIUM.generate_lacbed(400, zone_axis_lattice=(1, 1, 0), pixels=16)[0, 0, 0]
    with pytest.raises(ValueError, match=r"of the zone \[1, 1, 0\]: \[0, 0, 1\] is read"):
        predict_projected_potential(along, a=4.05, thickness=400)
    predict_projected_potential(measured, a=4.05, thickness=400, absorption=False)
    assert asked == [False, True, True, True, True, False]


def test_explanations_are_what_map_takes(disk, inverse_file, atlas_file):
    hs = pytest.importorskip("hyperspy.api")
    signal = hs.signals.Signal2D(np.stack([disk.data, np.roll(disk.data, 3, 0)]))
    call = PotentialPredictor(inverse_file, atlas=atlas_file, device="cpu")
    found = signal.map(
        call, a=4.05, thickness=400.0, absorption=False, inplace=False, output_signal_size=(16, 16),
        output_dtype=np.float32, show_progressbar=False, num_workers=2,
    )  # fmt: skip
    expected = projected_potential(crystal_from_py4dstem(ALUMINIUM), 16).potential
    np.testing.assert_allclose(found.data[0], expected, atol=1e-3 * np.ptp(expected))
    other = call(signal.data[1], a=4.05, thickness=400.0, absorption=False)
    np.testing.assert_allclose(found.data[1], other, atol=1e-3 * np.ptp(other))


def test_crystals_of_every_cubic_laue_group_are_known(forward_file):
    pyrite = [[0, 0, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.5, 0.5, 0]]
    x = 0.385
    sulphur = np.array([[x, x, x], [0.5 - x, -x, 0.5 + x], [-x, 0.5 + x, 0.5 - x],
                        [0.5 + x, 0.5 - x, -x]])  # fmt: skip
    positions = np.concatenate([pyrite, sulphur, -sulphur]) % 1.0
    crystal = Crystal(positions, [26] * 4 + [16] * 8, 5.42)
    assert crystal.generate_lacbed_aiml(400, weights=forward_file)[0, 0, 0].shape == (16, 16)
