"""Where crystals come from: CIF files and flat arrays of many crystals."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .crystal import DEFAULT_B_ISO, Crystal

if TYPE_CHECKING:
    from ase import Atoms

_log = logging.getLogger(__name__)

#: Å within which spglib calls two atoms equivalent; CIF files round to three or four digits.
_SYMMETRY_TOLERANCE = 0.01


def from_cif(path: str | Path, *, b_iso: float = DEFAULT_B_ISO) -> Crystal:
    """Read the first crystal of a CIF file as its conventional standard cell.

    Parameters
    ----------
    path : str or Path
    b_iso : float
        Debye-Waller B in Å^2 of every atom; a CIF's own values are too often missing or zero.

    Returns
    -------
    Crystal
        Partial occupancies are kept; sites that several elements share become several atoms.
        Where the symmetry found is not the space group that the file names, a warning is logged.

    Raises
    ------
    FileNotFoundError
    ValueError
        If the file holds no crystal that can be read.

    Examples
    --------
    >>> from_cif("LiCoO2.cif").volume  # doctest: +SKIP
    """
    from ase.io import read

    try:
        # ASE warns of settings that it does not know by name; the symmetry is checked below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms = read(str(path), index=0, format="cif")
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} holds no crystal structure that ASE can read: {error}") from error
    return from_ase(atoms if not isinstance(atoms, list) else atoms[0], b_iso=b_iso)


def from_ase(atoms: Atoms, *, b_iso: float = DEFAULT_B_ISO) -> Crystal:
    """Turn an `ase.Atoms` into a `Crystal`, in spglib's conventional standard cell.

    Parameters
    ----------
    atoms : ase.Atoms
        Occupancies are read from ``atoms.info["occupancy"]``, where ASE's CIF reader puts them.
    b_iso : float
        Debye-Waller B in Å^2 of every atom.

    Raises
    ------
    ValueError
        If there is no lattice or if atoms coincide.
    """
    from ase.data import atomic_numbers

    sites = _site_contents(atoms)
    contents = sorted(set(sites))
    kinds = np.array([contents.index(site) for site in sites])
    lattice, positions, kinds = _standard_cell(atoms, kinds)
    rows = [
        (atomic_numbers[symbol], position, share)
        for position, kind in zip(positions, kinds, strict=True)
        for symbol, share in contents[kind]
    ]
    numbers, places, shares = zip(*rows, strict=True)
    name = atoms.get_chemical_formula("metal")
    return Crystal(lattice, numbers, np.array(places), np.array(shares), b_iso, name)


def _site_contents(atoms: Atoms) -> list[tuple[tuple[str, float], ...]]:
    """Return for each site its elements and their shares."""
    occupancy = atoms.info.get("occupancy")
    if not occupancy or "spacegroup_kinds" not in atoms.arrays:
        return [((symbol, 1.0),) for symbol in atoms.get_chemical_symbols()]
    shares = {
        kind: tuple(sorted((symbol, float(share)) for symbol, share in content.items()))
        for kind, content in occupancy.items()
    }
    return [shares[str(kind)] for kind in atoms.arrays["spacegroup_kinds"]]


def _standard_cell(
    atoms: Atoms, kinds: npt.NDArray[np.int64]
) -> tuple[npt.NDArray, npt.NDArray, npt.NDArray[np.int64]]:
    """Return lattice, positions and kinds of the conventional standard cell."""
    import spglib

    name = atoms.get_chemical_formula("metal")
    cell = (atoms.cell.tolist(), atoms.get_scaled_positions().tolist(), (kinds + 1).tolist())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of spglib's old error handling
        standard = spglib.standardize_cell(cell, symprec=_SYMMETRY_TOLERANCE)
        group = spglib.get_spacegroup(cell, symprec=_SYMMETRY_TOLERANCE)
    if standard is None or group is None:
        raise ValueError(f"spglib finds no lattice in {name}; do two of its atoms coincide?")
    declared = getattr(atoms.info.get("spacegroup"), "no", 1)
    if declared != 1 and f"({declared})" not in group:
        _log.warning("%s: space group %d is named, but %s is found", name, declared, group)
    lattice, positions, found = (np.asarray(part) for part in standard)
    return lattice, positions, found - 1


class CrystalTable:
    """Many crystals in flat arrays, as ``structures_icsd.npz`` holds them.

    Parameters
    ----------
    path : str or Path
        An ``.npz`` with ``lattice`` (n, 3, 3), ``numbers``, ``positions``, ``offsets``,
        ``formula`` and ``prototype``.

    Examples
    --------
    >>> table = CrystalTable("structures_icsd.npz")  # doctest: +SKIP
    >>> table[0].volume  # doctest: +SKIP

    Raises
    ------
    ValueError
        If a column is missing.
    """

    _COLUMNS = frozenset({"lattice", "numbers", "positions", "offsets", "formula", "prototype"})

    def __init__(self, path: str | Path) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            missing = self._COLUMNS - set(arrays.files)
            if missing:
                raise ValueError(f"{path} is no table of crystals: it lacks {sorted(missing)}")
            self._arrays = {key: arrays[key] for key in arrays.files}
        self.formula = self._arrays["formula"]
        self.prototype = self._arrays["prototype"]

    def __len__(self) -> int:
        return len(self._arrays["lattice"])

    def __getitem__(self, index: int) -> Crystal:
        if not 0 <= index < len(self):
            raise IndexError(f"crystal {index} of {len(self)}")
        atoms = slice(*self._arrays["offsets"][index : index + 2])
        lattice = self._arrays["lattice"][index].astype(float)
        positions = self._arrays["positions"][atoms].astype(float)
        if np.linalg.det(lattice) < 0:
            lattice, positions = -lattice, -positions
        return Crystal(
            lattice, self._arrays["numbers"][atoms], positions, name=str(self.formula[index])
        )

    def __iter__(self) -> Iterator[Crystal]:
        return (self[i] for i in range(len(self)))

    def field(self, name: str) -> npt.NDArray:
        """Return a stored column, e.g. ``"crystal_system"`` or ``"spacegroup"``.

        Raises
        ------
        ValueError
            If the table has none of that name.
        """
        if name not in self._arrays:
            raise ValueError(f"the table of crystals lacks the column {name}")
        return self._arrays[name]


#: A table of crystals, read once a process.
cached_table = cache(CrystalTable)


def split_by_material(
    formula: npt.NDArray, prototype: npt.NDArray, *, held_out: float = 0.2
) -> dict[str, npt.NDArray[np.int64]]:
    """Split crystals so that train and test share neither a formula nor a prototype.

    One fifth of the formulas and one fifth of the prototypes are held out by their hash, so
    that the split does not change when crystals are added. A crystal of which both are held out
    is for the test. One of which only the formula is held out is for validation: that part
    shares no crystal with the others, no formula with train and no prototype with test; its
    prototypes are those of train, and test may hold its formulas in other prototypes. A crystal
    of which only the prototype is held out is in no part.

    Parameters
    ----------
    formula, prototype : ndarray of str, shape (n,)
    held_out : float
        Share of the names of each kind.

    Returns
    -------
    dict
        ``"train"``, ``"validation"`` and ``"test"``: indices.
    """
    by_formula = np.array([name_hash(name) < held_out for name in formula])
    by_prototype = np.array([name_hash(name) < held_out for name in prototype])
    return {
        "train": np.flatnonzero(~by_formula & ~by_prototype),
        "validation": np.flatnonzero(by_formula & ~by_prototype),
        "test": np.flatnonzero(by_formula & by_prototype),
    }


def name_hash(name: str) -> float:
    """Return a number from 0 to 1 that a name alone decides: what splits follow from."""
    return int.from_bytes(sha256(str(name).encode()).digest()[:4], "big") / 2**32


def prototype_class(prototype: str) -> str:
    """Return what a prototype has in common with itself in another setting.

    The letters of Wyckoff positions depend on the origin; composition, space group and
    multiplicities do not. Different structures may share them: held out together. Names that are
    not of the form composition|space group|positions stay as they are.

    Examples
    --------
    >>> prototype_class("ABC3|221|1a,1b,3c") == prototype_class("ABC3|221|1a,1b,3d")
    True
    """
    if prototype.count("|") != 2:
        return prototype
    composition_and_group, _, positions = prototype.rpartition("|")
    return "|".join([composition_and_group, *sorted(re.findall(r"\d+", positions))])
