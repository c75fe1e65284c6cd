"""The atlas of a table of crystals: who is in it, with what, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_lacbed import CONFIG, ROWS, write_table

from py4dstem_ml import cli
from py4dstem_ml.lacbed import fit as module
from py4dstem_ml.lacbed.atlas import Atlas
from py4dstem_ml.lacbed.fit import fit


@pytest.fixture(scope="module")
def atlas(atlas_file):
    return Atlas.load(atlas_file)


def _changed(structures, path, **columns):
    """The table with other columns; None leaves one out."""
    with np.load(structures) as file:
        arrays = {**file, **columns}
    np.savez(path, **{name: column for name, column in arrays.items() if column is not None})
    return path


def test_all_cubic_crystals_are_known_in_the_order_of_the_table(atlas):
    assert {row.part for row in ROWS} > {"train", "prototype", "formula"}
    assert atlas.names == [f"{row.formula} (mp-{i})" for i, row in enumerate(ROWS)]
    assert atlas.a.tolist() == [row.a for row in ROWS]
    assert atlas.numbers.tolist() == sum((row.numbers for row in ROWS), [])


def test_the_order_is_that_of_another_table_too(tmp_path):
    table = write_table(tmp_path / "table.npz", ROWS[::-1])
    found = Atlas.load(fit(table, tmp_path / "atlas.safetensors", config=CONFIG, progress=False))
    assert found.a.tolist() == [row.a for row in ROWS[::-1]]


def test_an_atlas_says_what_it_was_made_from(atlas):
    said = atlas.metadata
    assert (said["energy_ev"], said["pixels"], said["half_width"]) == (200e3, 16, 2.0)
    assert said["crystals"] == len(ROWS)


def test_small_patterns_are_known_by_all_pixels_of_a_quadrant_and_six_waves(atlas):
    assert atlas.places.tolist() == list(range(64))
    assert atlas.levels.shape == atlas.shares.shape == (len(ROWS), 64, 6)
    assert (atlas.levels.dtype, atlas.shares.dtype) == (torch.float16, torch.uint8)


def test_of_large_patterns_some_directions_are_kept(tmp_path):
    table = write_table(tmp_path / "table.npz", ROWS[:2])
    config = replace(CONFIG, pixels=32)
    found = Atlas.load(fit(table, tmp_path / "atlas.safetensors", config=config, progress=False))
    places = found.places.tolist()
    assert places == sorted(set(places)) and len(places) == 64
    # All over the quadrant of 16 x 16, not in a part of it.
    rows, columns = np.divmod(places, 16)
    assert len(set(rows)) > 12 and len(set(columns)) > 12
    assert found.levels.shape == (2, 64, 6) and found.pixels == 32


def test_equal_tables_are_equal_files(structures, atlas_file, tmp_path):
    torch.manual_seed(5)
    path = fit(structures, tmp_path / "atlas.safetensors", config=CONFIG, progress=False)
    assert path.read_bytes() == atlas_file.read_bytes()


def test_several_tables_are_one_atlas(tmp_path):
    tables = [
        write_table(tmp_path / f"{n}.npz", rows) for n, rows in enumerate((ROWS[:3], ROWS[3:]))
    ]
    found = Atlas.load(fit(tables, tmp_path / "atlas.safetensors", config=CONFIG, progress=False))
    assert found.a.tolist() == [row.a for row in ROWS] and len(found.names) == len(ROWS)
    assert found[4].numbers.tolist() == ROWS[4].numbers


def test_other_tables_are_other_files(structures, atlas_file, tmp_path):
    with np.load(structures) as file:
        lattice = file["lattice"] * 1.01
    table = _changed(structures, tmp_path / "table.npz", lattice=lattice)
    path = fit(table, tmp_path / "atlas.safetensors", config=CONFIG, progress=False)
    assert path.read_bytes() != atlas_file.read_bytes()


def test_a_table_without_cubic_crystals_is_refused(structures, tmp_path):
    systems = np.array(["tetragonal"] * (len(ROWS) + 1))
    table = _changed(structures, tmp_path / "table.npz", crystal_system=systems)
    path = tmp_path / "atlas.safetensors"
    with pytest.raises(ValueError, match="table.npz holds no cubic crystal") as error:
        fit(table, path, config=CONFIG, progress=False)
    assert "\n" not in str(error.value) and not path.exists()


@pytest.mark.parametrize("column", ["material_id", "crystal_system", "formula"])
def test_a_table_without_a_column_is_refused(column, structures, tmp_path):
    table = _changed(structures, tmp_path / "table.npz", **{column: None})
    with pytest.raises(ValueError, match=column):  # never a KeyError
        fit(table, tmp_path / "atlas.safetensors", config=CONFIG, progress=False)


def test_a_table_that_is_not_there_is_told_of(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.npz"):
        fit(tmp_path / "none.npz", tmp_path / "atlas.safetensors", config=CONFIG, progress=False)


def test_the_command_makes_the_atlas(structures, atlas_file, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LibraryConfig", lambda: CONFIG)
    path = tmp_path / "atlas.safetensors"
    words = ["--structures", str(structures), "--output", str(path)]
    assert cli.main(["fit", "lacbed", *words]) == 0
    assert path.read_bytes() == atlas_file.read_bytes()


def test_by_default_patterns_are_those_of_the_library(tmp_path):
    table = write_table(tmp_path / "table.npz", ROWS[1:2])
    found = Atlas.load(fit(table, tmp_path / "atlas.safetensors", progress=False))
    assert (found.pixels, found.half_width, len(found)) == (64, 8.0, 1)
