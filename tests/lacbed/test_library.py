"""The library of LACBED: seeded, resumable, and what the engine says."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from tiny_lacbed import CONFIG, CSCL, FCC, ROWS, write_table

from py4dstem_ml import cli
from py4dstem_ml.lacbed import library
from py4dstem_ml.lacbed.dataset import LacbedData
from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.lacbed import lacbed
from py4dstem_ml.physics.projection import projected_potential
from py4dstem_ml.physics.structures import CrystalTable


def _numbers(path):
    with h5py.File(path) as file:
        return [int(name.decode().removeprefix("mp-")) for name in file["material_id"]]


def test_all_cubic_crystals_are_simulated_once(shards):
    numbers = [_numbers(path) for path in shards]
    assert len(shards) == 2
    assert sorted(sum(numbers, [])) == list(range(len(ROWS)))
    with h5py.File(shards[0]) as file:
        assert file["potential"].shape == (6, 16, 16)
        assert file["patterns"].shape == (6, 2, 2, 16, 16)
        for row, number in enumerate(numbers[0]):
            assert file["a"][row] == ROWS[number].a
            assert file["formula"][row].decode() == ROWS[number].formula
            assert file["prototype"][row].decode() == ROWS[number].prototype
            assert file["spacegroup"][row] == (225 if len(ROWS[number].numbers) == 4 else 221)


def test_pictures_are_what_the_engine_says(structures, shards):
    table = CrystalTable(structures)
    with h5py.File(shards[1]) as file:
        potentials = library.read_pictures(file, "potential")
        patterns = library.read_pictures(file, "patterns")
        bright = library.read_pictures(file, "patterns", (slice(None), 0))
    np.testing.assert_array_equal(bright, patterns[:, :, 0])
    for row, number in enumerate(_numbers(shards[1])):
        crystal, centred = table[number], len(ROWS[number].numbers) == 4
        a = ROWS[number].a
        disks = lacbed(
            crystal, (0, 0, 1), 200e3, [200.0, 600.0], half_width=2 / a, pixels=16,
            reflections=[(0, 0, 0), (2, 0, 0)], absorption=False, max_beams=60 if centred else 100,
        )  # fmt: skip
        spans = np.ptp(disks.images.numpy(), axis=(2, 3), keepdims=True)
        assert (np.abs(patterns[row] - disks.images.numpy()) <= spans / 65535 + 1e-6).all()
        potential = projected_potential(crystal, 16).potential
        np.testing.assert_allclose(potentials[row], potential, atol=np.ptp(potential) / 65535)


def test_a_shard_depends_on_seed_and_number_alone(structures, shards, tmp_path):
    (again,) = library.simulate(
        structures, tmp_path, shards=1, first=1, config=CONFIG, progress=False
    )
    assert again.name == shards[1].name == "lacbed-000001.h5"
    assert _numbers(again) == _numbers(shards[1])
    with h5py.File(again) as one, h5py.File(shards[1]) as other:
        np.testing.assert_allclose(
            library.read_pictures(one, "patterns"), library.read_pictures(other, "patterns"),
            atol=1e-4,
        )  # fmt: skip


def test_random_cells_need_no_table(shards, tmp_path):
    config = replace(CONFIG, crystals_per_shard=3)
    first, second = library.simulate(None, tmp_path, shards=2, config=config, progress=False)
    (again,) = library.simulate(
        None, tmp_path / "b", shards=1, first=1, config=config, progress=False
    )
    with h5py.File(first) as one, h5py.File(second) as two, h5py.File(again) as three:
        assert (two["a"][:] == three["a"][:]).all() and (one["a"][:] != two["a"][:]).all()
        np.testing.assert_array_equal(two["potential"][:], three["potential"][:])
        names = [name.decode() for name in [*one["prototype"], *two["prototype"]]]
        assert len(set(names)) == 6 and all(name.startswith("random-") for name in names)
        assert two["patterns"].shape == (3, 2, 2, 16, 16)
    together = LacbedData.read([shards[0].parent, tmp_path], progress=False)
    assert len(together) == len(ROWS) + 6
    with pytest.raises(ValueError, match="say how many shards"):
        library.simulate(None, tmp_path, config=config)


def test_another_seed_is_another_order(structures):
    table = CrystalTable(structures)
    orders = [library.cubic_crystals(table, seed).tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == list(range(len(ROWS)))


def test_a_shard_that_is_there_is_left_as_it_is(structures, shards):
    before = shards[0].stat().st_mtime_ns
    library.simulate(structures, shards[0].parent, shards=1, config=CONFIG, progress=False)
    assert shards[0].stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="another seed"):
        library.simulate(structures, shards[0].parent, seed=1, config=CONFIG, progress=False)
    with pytest.raises(ValueError, match="another config"):
        library.simulate(structures, shards[0].parent, progress=False)


def test_a_broken_off_shard_leaves_nothing(structures, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "_COPIED", ("no such column",))
    with pytest.raises(ValueError, match="lacks the column"):
        library.simulate(structures, tmp_path, shards=1, config=CONFIG, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("numbers", "positions", "primitive"),
    [([13, 28], CSCL, True), ([13, 13], CSCL, False), ([13] * 4, FCC, False)],
)
def test_centred_cells_need_fewer_beams(numbers, positions, primitive):
    potential = projected_potential(Crystal.cubic(4.0, numbers, positions), 16).potential
    assert library._is_primitive(potential) == primitive


def test_pictures_are_kept_to_sixteen_bits(tmp_path):
    pictures = np.random.default_rng(0).normal(size=(3, 2, 8, 8)) * [[[[1e-6]], [[1e3]]]]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        library._write_pictures(file, "patterns", pictures)
        for number, again in enumerate((1e-6, 1e3)):
            found = library.read_pictures(file, "patterns", (number,))
            np.testing.assert_allclose(found, pictures[:, number], atol=1e-4 * again)


def test_the_bright_field_comes_first():
    with pytest.raises(ValueError, match="first of the reflections is the bright field"):
        library.LibraryConfig(reflections=((2, 0), (0, 0)))


def test_the_command_line_simulates(tmp_path):
    table = write_table(tmp_path / "structures.npz", ROWS[:1])
    words = ["simulate", "lacbed", "--structures", str(table), "--output", str(tmp_path / "out")]
    assert cli.main([*words, "--processes", "1", "--pixels", "16"]) == 0
    with h5py.File(tmp_path / "out" / "lacbed-000000.h5") as file:
        assert file["patterns"].shape == (1, 4, 4, 16, 16)
