"""LACBED disks as a method of py4DSTEM's crystal."""

import emdfile
import numpy as np
import pytest
from py4DSTEM.data import DiffractionSlice
from py4DSTEM.process.diffraction import Crystal

import py4dstem_ml  # noqa: F401 - registers the method
from py4dstem_ml.physics.lacbed import lacbed
from py4dstem_ml.toolkits.py4dstem import crystal_from_py4dstem

GOLD = Crystal([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]], 79, 4.08)
REFLECTIONS = [(0, 0, 0), (2, 0, 0)]


def test_disks_are_the_engines():
    disks = GOLD.generate_lacbed(
        [300.0, 600.0], pixels=18, reflections=REFLECTIONS, semiangle_mrad=20, b_iso=0.7
    )
    expected = lacbed(
        crystal_from_py4dstem(GOLD, 0.7), (0, 0, 1), 200e3, [300.0, 600.0],
        half_width=0.02 / 0.0250793, pixels=18, reflections=REFLECTIONS,
    )  # fmt: skip
    assert list(disks) == REFLECTIONS
    for number, disk in enumerate(disks.values()):
        assert isinstance(disk, DiffractionSlice) and disk.slicelabels == ["300", "600"]
        np.testing.assert_allclose(disk.data, expected.images[:, number], atol=1e-3)
        np.testing.assert_array_equal(disk["600"].data, disk.data[1])
    assert disk.calibration.get_Q_pixel_size() == pytest.approx(expected.pixel_size, rel=1e-4)


def test_one_thickness_is_an_image_that_is_saved(tmp_path):
    disk = GOLD.generate_lacbed(300, pixels=16)[0, 0, 0]
    assert disk.shape == (16, 16) and disk.calibration.get_Q_pixel_units() == "A^-1"
    assert disk.calibration.get_Q_pixel_size() == pytest.approx(2 / 16 * 8 / 4.08)
    emdfile.save(tmp_path / "a.h5", disk)
    again = emdfile.read(tmp_path / "a.h5")
    np.testing.assert_array_equal(again.data, disk.data)
    made = again.metadata["lacbed"]
    assert made["absorption"] is True and made["accelerating_voltage"] == 200e3
    assert made["thickness"].tolist() == [300] and made["zone_axis_lattice"].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"semiangle_mrad": 2000}, "up to 200"),
        ({"semiangle_mrad": -1}, "above 0"),
        ({"accelerating_voltage": 200}, "is in V"),
        ({"thickness": []}, "one at least"),
        ({"pixels": 1}, "whole number, 8 at least, not 1"),
        ({"pixels": (32, 32)}, "whole number, 8 at least"),
    ],
)
def test_numbers_out_of_range_are_refused_by_their_own_name(change, message):
    with pytest.raises(ValueError, match=message):
        GOLD.generate_lacbed(**{"thickness": 300, "pixels": 16, **change})


def test_other_zones_are_refused():
    with pytest.raises(ValueError, match="three whole numbers"):
        GOLD.generate_lacbed(300, zone_axis_lattice=(0, 0, 0.5))
