"""Small tables, libraries and models that several tests share."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from bragg_lists import random_lists
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from py4dstem_ml.symmetry import library
from py4dstem_ml.symmetry.forest import Forest
from py4dstem_ml.symmetry.invariants import Invariants
from py4dstem_ml.symmetry.network import PeakSetNet, PeakSetSpec, save_network
from py4dstem_ml.symmetry.radial_forests import RadialForests

CRYSTALS = 40


@pytest.fixture
def lists():
    return random_lists()


@pytest.fixture(scope="session")
def structures(write_crystals, tmp_path_factory):
    """Cubic and tetragonal crystals, labelled."""
    lengths = [(3.5 + 0.02 * i, 3.5 + 0.02 * i + (i % 2) * 0.8) for i in range(CRYSTALS)]
    plain = write_crystals(
        [np.diag([a, a, c]) for a, c in lengths],
        [f"F{i}" for i in range(CRYSTALS)],
        [f"P{i}" for i in range(CRYSTALS)],
    )
    path = tmp_path_factory.mktemp("labelled") / "structures.npz"
    with np.load(plain) as columns:
        np.savez(
            path,
            **columns,
            material_id=np.array([f"mp-{i}" for i in range(CRYSTALS)]),
            crystal_system=np.array(["cubic", "tetragonal"] * (CRYSTALS // 2)),
            spacegroup=np.array([221, 123] * (CRYSTALS // 2)),
            cell=np.array([[a, a, c, 90, 90, 90] for a, c in lengths]),
        )
    return path


@pytest.fixture(scope="session")
def small_library(structures, tmp_path_factory):
    """All crystals of the table, along a few axes."""
    folder = tmp_path_factory.mktemp("lists")
    config = replace(
        library.LibraryConfig(), spread_axes=3, zones=1, tilts=1, max_beams=60,
        crystals_per_shard=20, energies_ev=(300e3,), energy_weights=(1.0,),
    )  # fmt: skip
    library.simulate(structures, folder, config=config, progress=False)
    return folder


@pytest.fixture(scope="session")
def network_file(tmp_path_factory):
    """A network of random weights."""
    torch.manual_seed(0)
    spec = PeakSetSpec(Invariants(spots=32, pair_spots=16), width=32, depth=1, embedding=16)
    path = tmp_path_factory.mktemp("network") / "peakset.safetensors"
    save_network(PeakSetNet(spec), path, {"training": {"split": "strict"}})
    return path


@pytest.fixture(scope="session")
def forests():
    """Forests for cubic and hexagonal crystals, of a few trees."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 1066)).astype(np.float32)
    options = {"max_depth": 5, "random_state": 0}

    def grown(model, y):
        return Forest.from_sklearn(model(9, **options).fit(x, y))

    groups = {0: rng.choice([221, 225], 300), 1: rng.choice([191, 194], 300)}
    lengths = {0: (4.0, 4.0, 4.0), 1: (3.0, 3.0, 5.0)}
    return RadialForests(
        grown(RandomForestClassifier, rng.choice([0, 1], 300)),
        {k: grown(RandomForestClassifier, y) for k, y in groups.items()},
        {
            k: grown(RandomForestRegressor, v + 0.1 * rng.normal(size=(300, 3)))
            for k, v in lengths.items()
        },
        "radial basis",
    )


@pytest.fixture(scope="session")
def forest_file(forests, tmp_path_factory):
    path = tmp_path_factory.mktemp("forests") / "radialforest.safetensors"
    forests.save(path, {"training": {"split": "paper"}})
    return path
