"""Where crystals come from: CIF files and flat arrays of many crystals."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .crystal import DEFAULT_B_ISO, Crystal


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

    Raises
    ------
    ValueError
        If the file holds no crystal that can be read.
    """
    from ase.io import read
    from ase.spacegroup import crystal as _  # noqa: F401  (registers occupancy handling)

    try:
        atoms = read(str(path), index=0, format="cif")
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} holds no crystal structure that ASE can read: {error}") from error
    return from_ase(atoms, b_iso=b_iso)


def from_ase(atoms: object, *, b_iso: float = DEFAULT_B_ISO) -> Crystal:
    """Turn an `ase.Atoms` into a `Crystal`, in spglib's conventional cell where there is no disorder."""
    import spglib

    lattice = np.asarray(atoms.cell)  # type: ignore[attr-defined]
    positions = atoms.get_scaled_positions()  # type: ignore[attr-defined]
    numbers = atoms.get_atomic_numbers()  # type: ignore[attr-defined]
    occupancy = atoms.info.get("occupancy")  # type: ignore[attr-defined]
    name = atoms.get_chemical_formula("metal")  # type: ignore[attr-defined]
    if occupancy and "spacegroup_kinds" in atoms.arrays:  # type: ignore[attr-defined]
        return _disordered(lattice, positions, atoms, occupancy, b_iso, name)
    standard = spglib.standardize_cell((lattice, positions, numbers), symprec=1e-3)
    if standard is not None:
        lattice, positions, numbers = standard
    return Crystal(lattice, numbers, positions, b_iso=b_iso, name=name)


def _disordered(
    lattice: npt.NDArray,
    positions: npt.NDArray,
    atoms: object,
    occupancy: dict,
    b_iso: float,
    name: str,
) -> Crystal:
    from ase.data import atomic_numbers

    rows = [
        (atomic_numbers[symbol], position, share)
        for position, kind in zip(positions, atoms.arrays["spacegroup_kinds"], strict=True)  # type: ignore[attr-defined]
        for symbol, share in occupancy[str(kind)].items()
    ]
    numbers, sites, shares = zip(*rows, strict=True)
    return Crystal(lattice, np.array(numbers), np.array(sites), shares, b_iso, name)


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
    """

    def __init__(self, path: str | Path) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            missing = {"lattice", "numbers", "positions", "offsets"} - set(arrays.files)
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
            lattice, positions = -lattice, positions
        return Crystal(
            lattice, self._arrays["numbers"][atoms], positions, name=str(self.formula[index])
        )

    def __iter__(self) -> Iterator[Crystal]:
        return (self[i] for i in range(len(self)))

    def field(self, name: str) -> npt.NDArray:
        """Return a stored column, e.g. ``"crystal_system"`` or ``"spacegroup"``."""
        return self._arrays[name]


def split_by_material(
    formula: npt.NDArray, prototype: npt.NDArray, *, held_out: float = 0.2
) -> dict[str, npt.NDArray[np.int64]]:
    """Split crystals so that train and test share neither a formula nor a prototype.

    One fifth of the formulas and one fifth of the prototypes are held out by their hash, so
    that the split does not change when crystals are added. What holds out only one of the two
    is in neither part.

    Parameters
    ----------
    formula, prototype : ndarray of str, shape (n,)
    held_out : float
        Share of the names of each kind.

    Returns
    -------
    dict
        ``"train"`` and ``"test"``: indices.
    """
    by_formula = np.array([_hashed(name) < held_out for name in formula])
    by_prototype = np.array([_hashed(name) < held_out for name in prototype])
    return {
        "train": np.flatnonzero(~by_formula & ~by_prototype),
        "test": np.flatnonzero(by_formula & by_prototype),
    }


def _hashed(name: str) -> float:
    return int.from_bytes(sha256(str(name).encode()).digest()[:4], "big") / 2**32
