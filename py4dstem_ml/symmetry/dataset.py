"""A library of Bragg lists in memory, ordered by crystal, and its splits by material."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..physics.structures import CrystalTable, name_hash, prototype_class
from ..progress import progress_bar
from .crystal_classes import SYSTEMS, lattice_targets
from .library import LibraryConfig, read_shard
from .lists import BraggLists, place_within
from .prediction import MIN_PEAKS
from .radial_basis import RadialBasis

#: Share of the prototypes, or of the materials, that models are tested on.
_HELD_OUT = 0.25
#: Share that probabilities are calibrated on.
_VALIDATION = 0.03

#: Zones that are read together, as in the paper.
_ZONES = 10

SplitName = Literal["strict", "paper"]
#: Written into weights; raised when a rule changes, so that no model is judged on what it saw.
SPLIT_RULES: dict[SplitName, int] = {"strict": 2, "paper": 1}


@dataclass(frozen=True, eq=False)
class Labels:
    """What is to be read of each crystal of a table.

    Attributes
    ----------
    system : ndarray of int, shape (n,)
        Index in `SYSTEMS`.
    group : ndarray of int, shape (n,)
        Number of the space group.
    lattice : ndarray of float32, shape (n, 3)
        a, b, c in Å, see `lattice_targets`.
    """

    system: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    lattice: npt.NDArray[np.float32]

    @classmethod
    def of(cls, table: CrystalTable) -> Labels:
        """Read them from a table's columns."""
        system = np.array([SYSTEMS.index(name) for name in table.field("crystal_system")])
        group = table.field("spacegroup").astype(np.int64)
        return cls(system, group, lattice_targets(table.field("cell"), system))


def split_materials(
    table: CrystalTable, split: SplitName = "strict"
) -> dict[str, npt.NDArray[np.int64]]:
    """Return the crystals of ``"train"``, ``"validation"`` and ``"test"``.

    ``"strict"``: a quarter of the prototypes is for the test and 3 % for validation; other
    crystals of the formulas in either are left out, so that no formula and no prototype of the
    test is ever trained on, see `prototype_class`. ``"paper"``: a quarter of the crystals, whatever
    else is made of the same atoms or has the same structure. Both follow from hashes of the names,
    so that they do not change when crystals are added.

    Raises
    ------
    ValueError
        If there is no such split.
    """
    if split == "strict":
        key = _hashes(prototype_class(name) for name in table.prototype.tolist())
    elif split == "paper":
        key = _hashes(table.field("material_id"))
    else:
        raise ValueError(f"no split {split!r}; there are 'strict' and 'paper'")
    test, validation = key < _HELD_OUT, (key >= _HELD_OUT) & (key < _HELD_OUT + _VALIDATION)
    train = ~test & ~validation
    if split == "strict":
        seen = set(table.formula[test | validation].tolist())
        train &= ~np.array([name in seen for name in table.formula.tolist()])
        of_test = set(table.formula[test].tolist())
        validation &= ~np.array([name in of_test for name in table.formula.tolist()])
    parts = {"train": train, "validation": validation, "test": test}
    return {name: np.flatnonzero(chosen) for name, chosen in parts.items()}


def _hashes(names: Iterable) -> npt.NDArray[np.float64]:
    return np.array([name_hash(str(name)) for name in names])


@dataclass(frozen=True, eq=False)
class ListSet:
    """Bragg lists without their direct beams, those of a crystal side by side.

    Attributes
    ----------
    lists : BraggLists
        The strongest peak first.
    material, thickness, energy_ev, axis : ndarray, shape (n,)
        Of each list. Lists of one crystal with the same axis differ in tilt and thickness.
    """

    lists: BraggLists
    material: npt.NDArray[np.int64]
    thickness: npt.NDArray[np.float64]
    energy_ev: npt.NDArray[np.float64]
    axis: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.material)

    def take(self, indices: npt.ArrayLike) -> ListSet:
        """Return the lists of these numbers, or where a mask is true."""
        indices = np.asarray(indices)
        if indices.dtype == bool:
            indices = np.flatnonzero(indices)
        columns = (self.material, self.thickness, self.energy_ev, self.axis)
        return ListSet(self.lists.take(indices), *(column[indices] for column in columns))

    @classmethod
    def read(
        cls,
        folder: str | Path,
        materials: npt.ArrayLike | None = None,
        *,
        progress: bool | None = None,
    ) -> ListSet:
        """Read the shards of a folder, all crystals or those of some numbers.

        Raises
        ------
        FileNotFoundError
            If there is no shard, or none of these crystals.
        """
        paths = sorted(Path(folder).glob("lists-*.h5"))
        wanted = None if materials is None else np.asarray(materials)
        bar = progress_bar(paths, description="reading Bragg lists", progress=progress)
        parts = [part for path in bar if len(part := _read_part(path, wanted))]
        if not parts:
            raise FileNotFoundError(
                f"no Bragg lists of these crystals in {folder}; make them with "
                "'py4dstem-ml simulate symmetry --output FOLDER'"
            )
        columns = ("material", "thickness", "energy_ev", "axis")
        return cls(
            BraggLists.joined([part.lists for part in parts]),
            *(np.concatenate([getattr(part, name) for part in parts]) for name in columns),
        )


def _read_part(path: Path, wanted: npt.NDArray | None) -> ListSet:
    shard = read_shard(path)
    # The lists of an axis follow each other, for each thickness all tilts.
    starts = np.flatnonzero(np.diff(shard.material, prepend=-1))
    lengths = np.diff(np.append(starts, len(shard.material)))
    axis = place_within(lengths) // shard.lists_per_axis
    part = ListSet(
        RadialBasis().diffracted(shard.lists),
        shard.material,
        shard.thickness,
        shard.energy_ev,
        axis,
    )
    return part if wanted is None else part.take(np.isin(part.material, wanted))


@dataclass(frozen=True, eq=False)
class HeldOutLists:
    """Lists of held-out crystals, one for each of several axes, and what is true of each.

    Attributes
    ----------
    lists : BraggLists
    bag : ndarray of int, shape (n,)
        Crystal that each list is of, from 0.
    system, group : ndarray of int, shape (bags,)
    lattice : ndarray of float32, shape (bags, 3)
    """

    lists: BraggLists
    bag: npt.NDArray[np.int64]
    system: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    lattice: npt.NDArray[np.float32]

    @classmethod
    def of(cls, lists: ListSet, labels: Labels) -> HeldOutLists:
        """Take those with enough peaks; crystals that have none drop out."""
        lists = lists.take(np.diff(lists.lists.offsets) >= MIN_PEAKS)
        material, bag = np.unique(lists.material, return_inverse=True)
        return cls(
            lists.lists, bag, labels.system[material], labels.group[material],
            labels.lattice[material],
        )  # fmt: skip

    def disturbed(self, disturb: Callable[[BraggLists, npt.NDArray], BraggLists]) -> HeldOutLists:
        """Return the same with ``disturb(lists, bag of each)``."""
        return HeldOutLists(
            disturb(self.lists, self.bag), self.bag, self.system, self.group, self.lattice
        )


def one_a_zone(lists: ListSet, thickness: float | tuple[float, float]) -> ListSet:
    """Return the first list of each axis, up to 10 axes, with a thickness or within a range.

    Of a range only lists whose thickness was drawn at random are taken, not those of the common
    one, of which there are as many.
    """
    if isinstance(thickness, tuple):
        low, high = thickness
        chosen = (lists.thickness >= low) & (lists.thickness <= high)
        chosen &= lists.thickness != LibraryConfig().thickness
    else:
        chosen = lists.thickness == thickness
    lists = lists.take(chosen)
    lists = lists.take(lists.axis < _ZONES)
    key = lists.material * _ZONES + lists.axis
    return lists.take(np.sort(np.unique(key, return_index=True)[1]))
