"""Where crystals come from: CIF files, ASE, flat tables; and the split by material."""

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from materials import lithium_manganate

from py4dstem_ml.physics.bloch import reflections
from py4dstem_ml.physics.structures import CrystalTable, from_ase, from_cif, split_by_material

ase = pytest.importorskip("ase")
spglib = pytest.importorskip("spglib")

CIF = """data_alloy
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P m -3 m'
_space_group_IT_number {number}
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Cu1 Cu 0 0 0 0.75
Au1 Au 0 0 0 0.25
O1 O 0.5 0.5 0.5 0.5
"""


def space_group(crystal) -> int:
    cell = (crystal.lattice.tolist(), crystal.positions.tolist(), crystal.numbers.tolist())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return int(spglib.get_spacegroup(cell, symprec=0.01).split("(")[1].rstrip(")"))


def test_partial_occupancies_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "alloy.cif"
    path.write_text(CIF.format(number=221))
    crystal = from_cif(path, b_iso=0.7)
    found = sorted(zip(crystal.numbers.tolist(), crystal.occupancies.tolist(), strict=True))
    assert np.array(found) == pytest.approx(np.array([(8, 0.5), (29, 0.75), (79, 0.25)]))
    copper, gold = (crystal.positions[crystal.numbers == z][0] for z in (29, 79))
    assert torch.equal(copper, gold)
    assert crystal.b_iso.tolist() == [0.7] * 3


def test_a_space_group_that_is_not_found_is_warned_of(tmp_path: Path, caplog) -> None:
    path = tmp_path / "wrong.cif"
    symbol = CIF.replace("P m -3 m", "P 4").format(number=75)
    path.write_text(symbol)
    with caplog.at_level(logging.WARNING):
        from_cif(path)
    assert "space group 75 is named" in caplog.text


def test_primitive_cells_become_conventional() -> None:
    from ase.build import bulk

    crystal = from_ase(bulk("Si", "diamond", a=5.43))
    assert len(crystal.numbers) == 8
    assert crystal.lattice.numpy() == pytest.approx(5.43 * np.eye(3), abs=1e-6)


def test_a_skewed_monoclinic_cell_comes_back() -> None:
    crystal = lithium_manganate()
    skew = np.array([[1, 0, 0], [0.5, 0.5, 0], [1, 0, 1]])  # a primitive cell of C2/m
    lattice = skew @ crystal.lattice.numpy()
    fractional = crystal.positions.numpy() @ np.linalg.inv(skew) % 1.0
    kept = np.unique(np.round(fractional % 0.999999, 4), axis=0, return_index=True)[1]
    atoms = ase.Atoms(
        crystal.numbers.numpy()[kept], scaled_positions=fractional[kept], cell=lattice, pbc=True
    )
    found = from_ase(atoms)
    assert found.volume == pytest.approx(crystal.volume, rel=1e-6)
    assert len(found.numbers) == len(crystal.numbers)
    assert space_group(found) == 12
    strengths = [
        np.sort(np.abs(c.potential_coefficients(reflections(c, 0.5)).numpy()))
        for c in (crystal, found)
    ]
    before, after = (volts[volts > 1e-3] for volts in strengths)
    assert before == pytest.approx(after, abs=1e-4)


@pytest.mark.parametrize("content", ["", "no crystal", "data_x\n_cell_length_a 3\n"])
def test_a_file_without_a_crystal_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.cif"
    path.write_text(content)
    with pytest.raises(ValueError, match="no crystal structure"):
        from_cif(path)


def test_an_absent_file_is_said_to_be_absent(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        from_cif(tmp_path / "absent.cif")


def test_atoms_that_coincide_are_refused() -> None:
    with pytest.raises(ValueError, match="coincide"):
        from_ase(ase.Atoms("H2", [[0, 0, 0], [0, 0, 0]], cell=[3, 3, 3], pbc=True))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "group", "atoms"), [("LCO", 166, 12), ("Li2MnO3", 12, 24), ("LiMn2O4", 227, 56)]
)
def test_measured_cif_files(data_folder: Path, caplog, name: str, group: int, atoms: int) -> None:
    with caplog.at_level(logging.WARNING):
        crystal = from_cif(data_folder / "experimental" / f"{name}.cif")
    assert not caplog.records
    assert space_group(crystal) == group and len(crystal.numbers) == atoms


def table(path: Path, second: np.ndarray, **changes: np.ndarray | None) -> Path:
    columns = {
        "lattice": np.stack([np.eye(3) * 4, second]),
        "numbers": np.array([14, 31, 33]),
        "positions": np.array([[0, 0, 0], [0.1, 0.2, 0.3], [0.5, 0.5, 0.6]]),
        "offsets": np.array([0, 1, 3]),
        "formula": np.array(["Si", "GaAs"]),
        "prototype": np.array(["A|1|a", "AB|1|a a"]),
        **changes,
    }
    np.savez(path, **{key: value for key, value in columns.items() if value is not None})
    return path


def test_a_table_holds_crystals(tmp_path: Path) -> None:
    crystals = CrystalTable(table(tmp_path / "t.npz", np.eye(3) * 5))
    assert len(crystals) == 2 and [c.name for c in crystals] == ["Si", "GaAs"]
    assert crystals[1].numbers.tolist() == [31, 33]
    assert crystals.field("formula").tolist() == ["Si", "GaAs"]
    with pytest.raises(IndexError):
        crystals[2]


def test_a_left_handed_lattice_keeps_its_atoms_where_they_are(tmp_path: Path) -> None:
    lattice = np.array([[0, 5, 0], [4, 0, 0], [0, 0, 6.0]])
    crystal = CrystalTable(table(tmp_path / "t.npz", lattice))[1]
    cartesian = (crystal.positions @ crystal.lattice).numpy()
    assert cartesian == pytest.approx(np.array([[0.1, 0.2, 0.3], [0.5, 0.5, 0.6]]) @ lattice)


@pytest.mark.parametrize("column", ["lattice", "offsets", "formula", "prototype"])
def test_a_table_that_lacks_a_column_is_refused(tmp_path: Path, column: str) -> None:
    path = table(tmp_path / "t.npz", np.eye(3), **{column: None})
    with pytest.raises(ValueError, match=f"lacks .*{column}"):
        CrystalTable(path)


@pytest.mark.data
def test_the_table_of_observed_crystals(data_folder: Path) -> None:
    crystals = CrystalTable(data_folder / "structures_icsd.npz")
    assert len(crystals) > 30_000
    for index in range(0, len(crystals), 4000):
        crystal = crystals[index]
        a, b, c, alpha, beta, gamma = crystals.field("cell")[index]
        cosines = np.cos(np.radians([alpha, beta, gamma]))
        volume = a * b * c * np.sqrt(1 + 2 * cosines.prod() - (cosines**2).sum())
        assert crystal.volume == pytest.approx(volume, rel=1e-3)
    parts = split_by_material(crystals.formula, crystals.prototype)
    assert_disjoint(crystals.formula, crystals.prototype, parts)
    assert len(parts["train"]) > 15_000 and len(parts["test"]) > 500


def assert_disjoint(formula: np.ndarray, prototype: np.ndarray, parts: dict) -> None:
    for names in (formula, prototype):
        assert not set(names[parts["train"]]) & set(names[parts["test"]])


def test_the_split_shares_neither_formula_nor_prototype_and_is_stable() -> None:
    rng = np.random.default_rng(0)
    formula = rng.integers(0, 300, 3000).astype(str)
    prototype = np.char.add("p", rng.integers(0, 200, 3000).astype(str))
    parts = split_by_material(formula, prototype)
    assert_disjoint(formula, prototype, parts)
    assert len(parts["train"]) > 1500 and len(parts["test"]) > 40
    validation = parts["validation"]
    assert len(validation) > 200
    assert not set(formula[validation]) & set(formula[parts["train"]])
    assert not set(prototype[validation]) & set(prototype[parts["test"]])
    assert not set(validation) & (set(parts["train"]) | set(parts["test"]))
    fewer = split_by_material(formula[:1000], prototype[:1000])
    for part in parts:
        assert fewer[part].tolist() == [i for i in parts[part] if i < 1000]
