"""Single scattering is what multiple scattering becomes where atoms scatter weakly."""

import numpy as np
import pytest
import torch
from leed.solids import OBLIQUE, SKEW, SQUARE

from py4dstem_ml.physics.leed.cbleed import beams_up_to, cbleed
from py4dstem_ml.physics.leed.kinematic import kinematic_amplitudes
from py4dstem_ml.physics.leed.layer import Layer
from py4dstem_ml.physics.leed.phase_shifts import PhaseShifts, Scatterer
from py4dstem_ml.physics.leed.stack import Bulk, Surface, amplitudes
from py4dstem_ml.physics.leed.waves import Settings

SETTINGS = Settings(lmax=3, beam_cutoff=1e-2)


def weak(strength):
    return Scatterer(PhaseShifts([20.0, 140.0], strength * np.array([[0.5, 0.3], [0.2, 0.4]])), 0.1)


def surface(atom, lattice=SQUARE):
    bulk = Bulk([Layer(lattice, [[0.1, 0, 0]], atom)], [0.6, 0.2, -2.1])
    double = Layer(lattice * [[1.0], [2.0]], [[0, 0.3, 2.0], [1.2, 3.1, 2.4]], atom)
    return Surface([double], bulk)


@pytest.mark.parametrize("lattice", [SQUARE, OBLIQUE], ids=["square", "oblique"])
def test_weak_atoms_scatter_once(lattice):
    k = [[0.1, 0.2], [-0.3, 0.05]]
    apart = []
    for strength in (1e-3, 1e-4):
        one = surface(weak(strength), lattice)
        beams, full = amplitudes(one, 60.0, k, SETTINGS)
        again, single = kinematic_amplitudes(one, 60.0, k, SETTINGS)
        assert (beams == again).all()
        apart.append(float((full - single).abs().max() / full.abs().max()))
    assert apart[0] < 0.02 and apart[1] == pytest.approx(0.1 * apart[0], rel=0.1)


def test_strong_atoms_do_not():
    one = Surface([layer.moved([0, 0, 5.0]) for layer in SKEW.layers], SKEW)
    _, full = amplitudes(one, 60.0, [[0.1, 0.2]], SETTINGS)
    _, single = kinematic_amplitudes(one, 60.0, [[0.1, 0.2]], SETTINGS)
    assert (full - single).abs().max() > 0.1 * full.abs().max()


def test_disks_can_be_kinematic():
    one = surface(weak(0.5))
    options = {"beams": beams_up_to(0, 1), "nodes": 4, "settings": SETTINGS}
    single = cbleed(one, 60.0, multiple_scattering=False, **options)
    k = np.stack(np.meshgrid(*[np.linspace(-0.36, 0.36, 4)] * 2, indexing="ij"), axis=-1)
    wanted = np.concatenate([[[0, 0]], beams_up_to(0, 1)[[0, 2]]])
    _, waves = kinematic_amplitudes(one, 60.0, k.reshape(-1, 2), SETTINGS, wanted)
    np.testing.assert_allclose(
        single.reflectivity[0, 1].ravel(), waves[0, :, 0].abs().square(), rtol=1e-9
    )
    assert not torch.equal(
        torch.from_numpy(single.reflectivity),
        torch.from_numpy(cbleed(one, 60.0, **options).reflectivity),
    )


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="one surface"):
        kinematic_amplitudes([], 60.0, [[0, 0]])
    with pytest.raises(ValueError, match="specular"):
        kinematic_amplitudes(surface(weak(0.1)), 60.0, [[0, 0]], beams=np.array([[1, 0]]))
