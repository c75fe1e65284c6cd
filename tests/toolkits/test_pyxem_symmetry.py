"""pyxem's diffraction vectors: a crystal map of orix, or the callable mapped."""

import numpy as np
import pytest
import torch
from hyperspy.signals import BaseSignal
from pyxem.signals import DiffractionVectors

import py4dstem_ml.toolkits.pyxem_symmetry  # noqa: F401 - registers
from py4dstem_ml import CrystalSystemPredictor
from py4dstem_ml.symmetry import SYSTEMS
from py4dstem_ml.symmetry.invariants import Invariants
from py4dstem_ml.symmetry.lists import BraggLists
from py4dstem_ml.symmetry.network import PeakSetNet, PeakSetSpec, save_network


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    spec = PeakSetSpec(Invariants(spots=16, pair_spots=16), width=16, depth=1, embedding=8)
    path = tmp_path_factory.mktemp("network") / "peakset.safetensors"
    save_network(PeakSetNet(spec), path, {})
    return path


def _vectors(units="1/Å", scale=1.0, columns=3):
    rng = np.random.default_rng(0)
    data = np.empty((2, 3), object)
    for place in np.ndindex(2, 3):
        peaks = rng.uniform(-1.0, 1.0, (3 if place == (1, 1) else 12, 3))
        data[place] = (peaks * [1 / scale, 1 / scale, 1])[:, :columns]
        data[place][:, -1] = np.abs(data[place][:, -1])
    names = ["ky", "kx", "intensity"][:columns]
    return DiffractionVectors.from_peaks(
        BaseSignal(data, ragged=True), center=(0, 0), calibration=(1, 1), column_names=names,
        units=[units, units, "a.u."][:columns],
    )  # fmt: skip


def test_a_crystal_map(model):
    found = _vectors().predict_crystal_system(model=model, device="cpu", progress=False)
    assert found.shape == (2, 3) and found.phases.names[0] == "not_indexed"
    expected = CrystalSystemPredictor(model, device="cpu").predict(
        BraggLists.pack(_vectors().data.reshape(-1)), progress=False
    )
    np.testing.assert_array_equal(found.phase_id, expected.system)
    name = SYSTEMS[expected.system[0]]
    assert (found[name].phase_id == expected.system[0]).all()
    assert found.phase_id[4] == -1 and np.isnan(found.prop["a"][4])
    np.testing.assert_allclose(found.prop["c"], expected.lattice[:, 2])


def test_nanometres(model):
    here, there = (
        _vectors(units, scale).predict_crystal_system(model=model, progress=False)
        for units, scale in (("1/Å", 1.0), ("1/nm", 0.1))
    )
    np.testing.assert_array_equal(here.phase_id, there.phase_id)


def test_other_vectors_are_refused(model):
    with pytest.raises(ValueError, match="in 'px'"):
        _vectors("px").predict_crystal_system(model=model)
    with pytest.raises(ValueError, match="ky, kx and intensity are needed"):
        _vectors(columns=2).predict_crystal_system(model=model)


@pytest.mark.parametrize("lazy", [False, True])
def test_the_callable_is_mapped(model, lazy):
    vectors = _vectors()
    vectors = vectors.as_lazy() if lazy else vectors
    mapped = vectors.map(
        CrystalSystemPredictor(model, device="cpu"), inplace=False, ragged=False,
        output_signal_size=(19,), output_dtype=np.float32, show_progressbar=False,
    )  # fmt: skip
    if lazy:
        mapped.compute(show_progressbar=False)
    expected = _vectors().predict_crystal_system(model=model, progress=False)
    np.testing.assert_array_equal(mapped.data[..., 0].ravel(), expected.phase_id)
