"""Splits that share nothing, and a library in memory."""

import numpy as np
import pytest

from py4dstem_ml.physics.structures import CrystalTable
from py4dstem_ml.symmetry.crystal_classes import lattice_targets
from py4dstem_ml.symmetry.dataset import HeldOutLists, Labels, ListSet, one_a_zone, split_materials


class Table:
    """Materials in many prototypes, formulas shared between them."""

    def __init__(self, n=4000, seed=0):
        rng = np.random.default_rng(seed)
        self.formula = np.array([f"F{i}" for i in rng.integers(0, 3500, n)])
        self.prototype = np.array([f"P{i}" for i in rng.integers(0, 900, n)])
        self.material_id = np.array([f"mp-{i}" for i in range(n)])

    def field(self, name):
        return getattr(self, name)


def _names(table, column, numbers):
    return set(getattr(table, column)[numbers])


def test_the_strict_split_shares_no_formula_and_no_prototype():
    table = Table()
    parts = split_materials(table, "strict")
    for part in ("train", "validation"):
        for column in ("formula", "prototype"):
            assert not _names(table, column, parts[part]) & _names(table, column, parts["test"])
    assert not _names(table, "prototype", parts["train"]) & _names(
        table, "prototype", parts["validation"]
    )
    assert len(parts["test"]) / 4000 == pytest.approx(0.25, abs=0.05)
    assert len(parts["train"]) > 0.4 * 4000


def test_the_papers_split_is_by_material_alone():
    table = Table()
    parts = split_materials(table, "paper")
    assert sum(map(len, parts.values())) == 4000
    assert len(np.unique(np.concatenate(list(parts.values())))) == 4000
    assert len(parts["test"]) / 4000 == pytest.approx(0.25, abs=0.03)
    assert _names(table, "prototype", parts["train"]) & _names(table, "prototype", parts["test"])


def test_a_split_does_not_change_when_crystals_are_added():
    few, many = Table(), Table()
    few.formula, few.prototype = few.formula[:2000], few.prototype[:2000]
    few.material_id = few.material_id[:2000]
    old, new = (split_materials(t, "paper")["test"] for t in (few, many))
    np.testing.assert_array_equal(old, new[new < 2000])


def test_unknown_splits_are_refused():
    with pytest.raises(ValueError, match="no split 'random'"):
        split_materials(Table(), "random")


def test_orthorhombic_lengths_are_sorted():
    cells = [[9, 5, 7, 90, 90, 90], [9, 5, 7, 90, 100, 90]]
    np.testing.assert_allclose(lattice_targets(cells, [4, 5]), [[5, 7, 9], [9, 5, 7]])


def test_a_library_in_memory(small_library, structures):
    lists = ListSet.read(small_library, progress=False)
    assert set(lists.material) == set(range(40))
    assert len(lists.lists) == len(lists) == len(lists.axis) == len(lists.thickness)
    q = np.hypot(*lists.lists.peaks[:, :2].T)
    assert q.min() > 0.05  # no direct beam
    # An axis has one tilt and two thicknesses here.
    _, counts = np.unique(lists.material * 100 + lists.axis, return_counts=True)
    assert (counts == 2).all()
    some = ListSet.read(small_library, [3, 7], progress=False)
    assert set(some.material) == {3, 7}
    np.testing.assert_array_equal(
        some.lists.peaks, lists.take(np.isin(lists.material, [3, 7])).lists.peaks
    )


def test_a_library_without_these_crystals_is_refused(small_library, tmp_path):
    for folder, wanted in ((tmp_path, None), (small_library, [999])):
        with pytest.raises(FileNotFoundError, match="simulate symmetry"):
            ListSet.read(folder, wanted, progress=False)


def test_one_list_a_zone(small_library, structures):
    lists = ListSet.read(small_library, progress=False)
    one = one_a_zone(lists, 200.0)
    assert (one.thickness == 200.0).all()
    key = one.material * 100 + one.axis
    assert len(np.unique(key)) == len(key) == len(lists) // 2
    drawn = one_a_zone(lists, (20.0, 1500.0))
    assert not (drawn.thickness == 200.0).any() and len(set(drawn.thickness)) > 100
    test = HeldOutLists.of(one, Labels.of(CrystalTable(structures)))
    assert test.system.tolist() == [0, 3] * 20 and test.group.tolist() == [221, 123] * 20
    np.testing.assert_allclose(test.lattice[0], 3.5)
