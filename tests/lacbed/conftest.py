"""A small library, the atlas of its crystals, and weights of small networks."""

import pytest
from tiny_lacbed import CONFIG, TINY, saved, write_table

from py4dstem_ml.lacbed import library
from py4dstem_ml.lacbed.dataset import LacbedData
from py4dstem_ml.lacbed.fit import fit
from py4dstem_ml.lacbed.network import SPECS


@pytest.fixture(scope="session")
def structures(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("table") / "structures.npz")


@pytest.fixture(scope="session")
def shards(structures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lacbed")
    return library.simulate(structures, folder, config=CONFIG, progress=False)


@pytest.fixture(scope="session")
def small_library(shards):
    return shards[0].parent


@pytest.fixture(scope="session")
def data(small_library):
    return LacbedData.read(small_library, progress=False)


@pytest.fixture(scope="session")
def forward_file(tmp_path_factory):
    return saved("linenet.forward.tiny", tmp_path_factory.mktemp("forward"))


@pytest.fixture(scope="session")
def inverse_file(tmp_path_factory):
    return saved("linenet.inverse.tiny", tmp_path_factory.mktemp("inverse"))


@pytest.fixture(scope="session")
def atlas_file(structures, tmp_path_factory):
    """Of all crystals of the table, held out or not."""
    path = tmp_path_factory.mktemp("atlas") / "atlas.safetensors"
    return fit(structures, path, config=CONFIG, progress=False)


@pytest.fixture
def tiny_specs(monkeypatch):
    """Names of small networks, to be trained."""
    for name, spec in TINY.items():
        monkeypatch.setitem(SPECS, name, spec)
