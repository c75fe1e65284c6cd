"""Splits that share nothing, and a library in memory."""

import numpy as np
import pytest

from py4dstem_ml.physics.structures import CrystalTable
from py4dstem_ml.symmetry.crystal_classes import lattice_targets
from py4dstem_ml.symmetry.dataset import (
    HeldOutLists,
    Labels,
    ListSet,
    one_a_zone,
    prototype_class,
    split_materials,
)


class Table:
    """Materials in many prototypes, formulas shared between them."""

    def __init__(self, n=4000, seed=0):
        rng = np.random.default_rng(seed)
        self.formula = np.array([f"F{i}" for i in rng.integers(0, 3500, n)])
        letters = rng.choice(["a", "b"], n)  # the same structure in two settings
        self.prototype = np.array(
            [f"AB|{i}|4{x},8c" for i, x in zip(rng.integers(0, 900, n), letters, strict=True)]
        )
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
    of_part = {
        part: {prototype_class(name) for name in _names(table, "prototype", rows)}
        for part, rows in parts.items()
    }
    assert not of_part["train"] & of_part["test"]
    assert not of_part["train"] & of_part["validation"]
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


def test_lengths_do_not_depend_on_the_setting():
    cells = [[9, 5, 7, 90, 90, 90], [9, 5, 7, 90, 100, 90], [9, 5, 7, 80, 85, 95]]
    np.testing.assert_allclose(lattice_targets(cells, [4, 5, 6]), [[5, 7, 9], [7, 5, 9], [5, 7, 9]])
    # The same monoclinic lattice with a + 2c in place of a.
    a, c, beta = 9.0, 7.0, np.radians(100.0)
    longer = np.hypot(a + 2 * c * np.cos(beta), 2 * c * np.sin(beta))
    angle = np.degrees(np.arctan2(a * np.sin(beta), a * np.cos(beta) + 2 * c))
    np.testing.assert_allclose(
        lattice_targets([[longer, 5, c, 90, angle, 90]], [5]), [[7, 5, 9]], rtol=1e-6
    )


def test_a_prototype_is_one_in_all_settings():
    assert prototype_class("ABC3|221|1a,1b,3c") == prototype_class("ABC3|221|1a,1b,3d")
    assert prototype_class("ABC3|221|1a,1b,3c") != prototype_class("ABC3|221|1a,2b,3c")
    assert prototype_class("rocksalt") == "rocksalt"


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
