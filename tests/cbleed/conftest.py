"""A tiny library, and an autoencoder that was trained on it for a moment."""

import numpy as np
import pytest
from tiny_cbleed import QUICK, RANDOM, SCREEN, SHORT, TINY

from py4dstem_ml.cbleed import library
from py4dstem_ml.cbleed.dataset import CbleedData
from py4dstem_ml.cbleed.fit import fit_on
from py4dstem_ml.cbleed.network import load_network
from py4dstem_ml.cbleed.train import train_on


@pytest.fixture(scope="session")
def tiny_library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    library.simulate(folder, config=TINY, progress=False)
    return folder


@pytest.fixture(scope="session")
def random_library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("random")
    library.simulate(folder, config=RANDOM, seed=3, progress=False)
    return folder


@pytest.fixture(scope="session")
def data(tiny_library):
    return CbleedData.read(tiny_library, SCREEN, progress=False)


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory):
    """The folder of a short run."""
    folder = tmp_path_factory.mktemp("autoencoder")
    train_on(data, folder, SHORT, device="cpu")
    return folder


@pytest.fixture(scope="session")
def reader(data, trained):
    network = load_network(trained / "autoencoder.safetensors")
    return fit_on(data, network, QUICK, rule="energies", progress=False)


@pytest.fixture(scope="session")
def reader_file(reader, tmp_path_factory):
    return reader.save(tmp_path_factory.mktemp("reader") / "tiny.safetensors")


@pytest.fixture
def image(data):
    return data.images[40].numpy().astype(np.float64)
