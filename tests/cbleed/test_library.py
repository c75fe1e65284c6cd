"""The library of disks: whole, seeded, resumable, and what the engine says."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from tiny_cbleed import FAST, RANDOM, TINY

from py4dstem_ml import cli
from py4dstem_ml.cbleed import library
from py4dstem_ml.cbleed.library import PHYSICS, LibraryConfig, read_shard, simulate_disks
from py4dstem_ml.physics.leed.cbleed import cbleed, semiangle_radius
from py4dstem_ml.physics.leed.surfaces import silicon_001
from py4dstem_ml.physics.leed.waves import Settings


def test_a_grid_is_whole(tiny_library):
    shards = [read_shard(path) for path in sorted(tiny_library.iterdir())]
    assert [disks.energy_ev for disks, _ in shards] == [44, 45, 46, 47, 48, 49]
    for disks, structures in shards:
        assert len(np.unique(structures, axis=0)) == 2 * 3 * 3
        assert disks.reflectivity.shape == (18, 15, 4, 4)
        assert (disks.reflectivity >= 0).all() and disks.reflectivity.max() > 1e-4


def test_the_default_is_the_papers_grid():
    config = LibraryConfig()
    assert sum(len(config.samples(n, 0)[1]) for n in range(config.shards)) == 4970
    assert config.samples(70, 0)[0] == 100


def test_shards_are_what_the_engine_says(tiny_library):
    disks, structures = read_shard(sorted(tiny_library.iterdir())[2])
    settings = Settings(lmax=FAST.lmax, beam_cutoff=FAST.beam_cutoff)
    for n in (2, 13):
        kind, height, length = structures[n]
        name = library.RECONSTRUCTIONS[int(kind)]
        one = silicon_001(name, height=height, length=length)
        wanted = cbleed(one, 46.0, nodes=4, settings=settings).reflectivity[0]
        found = disks.reflectivity[n]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6 * wanted.max())


def test_random_samples_lie_off_the_grid(random_library):
    shards = [read_shard(path) for path in sorted(random_library.iterdir())]
    assert len(shards) == 4
    energies = np.array([disks.energy_ev for disks, _ in shards])
    assert (np.diff(energies) > 0).all() and energies.min() >= 44 and energies.max() <= 49
    assert (np.abs(energies - np.rint(energies)) > 1e-3).all()
    both = np.concatenate([structures for _, structures in shards])
    assert set(both[:, 0]) == {0, 1} and len(np.unique(both[:, 1])) == 20
    assert np.abs(both[:, 1:]).max() <= 0.1


def test_a_seed_decides_and_nothing_is_made_twice(random_library, tmp_path):
    again = library.simulate(tmp_path, config=RANDOM, seed=3, shards=1, first=2, progress=False)[0]
    there = random_library / again.name
    np.testing.assert_array_equal(read_shard(again)[1], read_shard(there)[1])
    assert (RANDOM.samples(2, 3)[1] != RANDOM.samples(2, 4)[1]).any()
    before = again.stat().st_mtime_ns
    library.simulate(tmp_path, config=RANDOM, seed=3, shards=1, first=2, progress=False)
    assert again.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="another seed"):
        library.simulate(tmp_path, config=RANDOM, seed=4, shards=1, first=2, progress=False)


@pytest.mark.parametrize("name", sorted(set(PHYSICS) - {"reference"}))
def test_other_physics_gives_other_patterns(name):
    physics = replace(PHYSICS[name], lmax=2, beam_cutoff=3e-2)
    one, other = (
        simulate_disks(50.0, [[1, 0.05, 0.0]], replace(TINY, physics=p)) for p in (FAST, physics)
    )
    apart = np.abs(one.reflectivity - other.reflectivity).sum() / one.reflectivity.sum()
    assert 0.005 < apart < 3
    assert (np.abs(other.centre).max() > 0) == (name == "mistilt")


def test_disks_of_one_semiangle_grow():
    config = replace(TINY, semiangle_mrad=60.0)
    for energy in (45.0, 49.0):
        disks = simulate_disks(energy, [[0, 0, 0]], config)
        assert disks.radius == semiangle_radius(energy, 60.0)


def test_a_config_comes_back():
    assert LibraryConfig.from_dict(asdict(RANDOM)) == RANDOM


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "dense"}, "sampling"), ({"heights": (0.1, -0.1, 0.1)}, "heights"),
        ({"energies_ev": (0.0, 10.0, 1.0)}, "above 0 eV"),
        ({"reconstructions": ("c(4x2)",)}, "reconstructions"),
    ],
)  # fmt: skip
def test_impossible_configs_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LibraryConfig(**options)


def test_the_command_line_simulates(tmp_path, monkeypatch):
    monkeypatch.setitem(PHYSICS, "absorption", replace(FAST, absorption_ev=5.0))
    words = ["simulate", "cbleed", "--output", str(tmp_path), "--physics", "absorption"]
    words += ["--energies", "50", "60", "5", "--heights", "0", "0", "1", "--lengths", "0", "0", "1"]
    assert cli.main([*words, "--nodes", "4", "--shards", "1", "--processes", "1"]) == 0
    disks, structures = read_shard(tmp_path / "cbleed-000000.h5")
    assert disks.energy_ev == 50 and structures.tolist() == [[0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("energy", "structures", "message"),
    [
        (50.0, [1, 0.0, 0.0], "an array"), (50.0, [[1, 0.0]], "an array"),
        (0.0, [[1, 0.0, 0.0]], "above 0 eV"), (np.nan, [[1, 0.0, 0.0]], "above 0 eV"),
        (50.0, [[2, 0.0, 0.0]], "0 for symmetric"), (50.0, [[0.5, 0.0, 0.0]], "0 for symmetric"),
    ],
)  # fmt: skip
def test_what_is_no_structure_is_refused(energy, structures, message):
    with pytest.raises(ValueError, match=message) as error:
        simulate_disks(energy, structures)
    assert "\n" not in str(error.value)
