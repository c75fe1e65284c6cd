"""Beam intensities equal to those of py4DSTEM's Bloch waves, at equal beams and factors."""

import contextlib
import io

import numpy as np
import pytest
import torch
from materials import MATERIALS

from py4dstem_ml.physics.bloch import Beams, diffract, select_beams
from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.orientations import tilted, zone_axis

ENERGY = 200e3
THICKNESSES = [30.0, 150.0, 400.0]
G_MAX = 0.9

# In py4DSTEM's table of Lobato factors rubidium and strontium have changed places.
THEIR_NUMBERS = {37: 38, 38: 37}

pytest.importorskip("py4DSTEM")


def theirs(crystal: Crystal, beams: Beams, beam_axis: np.ndarray, normal=None) -> np.ndarray:
    """Return the intensities of py4DSTEM, shape (thicknesses, beams)."""
    from emdfile import PointList
    from py4DSTEM.process.diffraction import Crystal as Py4DSTEMCrystal

    columns = ["qx", "qy", "intensity", "h", "k", "l"]
    data = np.zeros(len(beams), dtype=[(name, float) for name in columns])
    data["qx"], data["qy"] = beams.g[:, :2].T.numpy()
    data["h"], data["k"], data["l"] = beams.hkl.T
    # Their progress bars and notes are not ours to show.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        numbers = [THEIR_NUMBERS.get(z, z) for z in crystal.numbers.tolist()]
        other = Py4DSTEMCrystal(crystal.positions.numpy(), numbers, crystal.lattice.numpy())
        other.calculate_dynamical_structure_factors(ENERGY, method="Lobato", k_max=2 * G_MAX + 0.01)
        if normal is not None:
            # py4DSTEM divides by the cosine of foil and beam twice, see its 2 k_0 s_g / 2 k_n.
            errors, cosine = other.excitation_errors, float(beam_axis @ normal)
            other.excitation_errors = lambda *args, **options: cosine * errors(*args, **options)
        patterns = other.generate_dynamical_diffraction_pattern(
            PointList(data),
            THICKNESSES,
            zone_axis_cartesian=beam_axis,
            foil_normal_cartesian=normal,
            always_return_list=True,
        )
    return np.array([pattern.data["intensity"] for pattern in patterns])


@pytest.mark.parametrize("name", MATERIALS)
@pytest.mark.parametrize(
    ("uvw", "tilt_mrad"), [((0, 0, 1), 0.0), ((1, 1, 0), 0.0), ((1, 2, 3), 25.0)]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_intensities_are_those_of_py4dstem(name: str, uvw: tuple, tilt_mrad: float) -> None:
    crystal = MATERIALS[name](b_iso=0.0)
    orientation = tilted(zone_axis(crystal, uvw, in_plane=0.4), tilt_mrad, azimuth=1.0)
    beams = select_beams(crystal, orientation, ENERGY, g_max=G_MAX, s_max=0.05)
    ours = torch.abs(diffract(crystal, beams, ENERGY, THICKNESSES, absorption=False)[:, :, 0]) ** 2
    expected = theirs(crystal, beams, orientation[:, 2])
    assert np.abs(ours.numpy() - expected).max() < 1e-4
    assert expected[:, 0].min() < 0.99  # something was scattered


@pytest.mark.parametrize("name", ["Si", "Li2MnO3"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_oblique_foil_is_that_of_py4dstem(name: str) -> None:
    crystal = MATERIALS[name](b_iso=0.0)
    orientation = zone_axis(crystal, (0, 0, 1))
    normal = np.array([0.3, -0.15, 1.0]) / np.linalg.norm([0.3, -0.15, 1.0])
    beams = select_beams(crystal, orientation, ENERGY, g_max=G_MAX, s_max=0.05)
    ours = diffract(
        crystal,
        beams,
        ENERGY,
        THICKNESSES,
        foil_normal=torch.as_tensor(normal),
        absorption=False,
    )
    expected = theirs(crystal, beams, orientation[:, 2], orientation @ normal)
    assert np.abs((torch.abs(ours[:, :, 0]) ** 2).numpy() - expected).max() < 1e-4
