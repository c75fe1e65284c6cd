"""A library of CBLEED in memory as patterns, its splits, and what lies between its grid points."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import torch
from scipy.interpolate import make_interp_spline

from ..progress import progress_bar
from ..shards import shards_of
from .images import Screen
from .library import LibraryConfig, read_shard

logger = logging.getLogger(__name__)

#: What is read from a pattern, and their units; the last is 1 for buckled dimers, 0 for symmetric.
TARGETS = ("energy_ev", "height", "length", "buckled")

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Whole energies in eV that are held out: the first one, and the steps to the next. Tested on by
#: the split "energies"; watched and calibrated on by this one and by "all".
TESTED_EV, WATCHED_EV = (31, 7), (34, 14)
#: Shares of the images that the split "paper" tests on, and that it is watched and calibrated on.
_TESTED, _WATCHED = 0.2, 0.08
#: Written into weights; raised when the rule changes, so that no model is judged on what it saw.
SPLIT_RULE = 1
SPLITS = ("paper", "energies", "all", "random")
#: Energies that are drawn until one may be.
_TRIES = 1000


@dataclass(frozen=True, eq=False)
class CbleedData:
    """Patterns of one physics.

    Attributes
    ----------
    images : torch.Tensor, shape (n, H, W)
        Of sum 1, float32.
    labels : ndarray, shape (n, 4)
        Columns: see `TARGETS`; eV, Å, Å.
    screen : Screen
    config : LibraryConfig
        Of the first folder.
    origins : tuple of str
        What each folder is made from, as a hash.
    """

    images: torch.Tensor
    labels: Floats
    screen: Screen
    config: LibraryConfig
    origins: tuple[str, ...]

    @classmethod
    def read(
        cls,
        folders: str | Path | Sequence[str | Path],
        screen: Screen | None = None,
        *,
        averaged: bool = False,
        progress: bool | None = None,
    ) -> CbleedData:
        """Read the shards of one or more folders, and draw their patterns.

        Parameters
        ----------
        folders : str, Path or sequence of them
        screen : Screen, optional
        averaged : bool
            The mean over both tilts of buckled dimers, as they flip at room temperature.
        progress : bool, optional
            None: a bar in a terminal or a notebook.

        Raises
        ------
        FileNotFoundError
            If a folder holds no shard.
        ValueError
            If folders differ in their physics or disks, or a mistilted library is averaged.
        """
        names = [folders] if isinstance(folders, str | Path) else list(folders)
        screen = screen or Screen()
        paths, configs, origins = [], [], []
        for folder in names:
            found = shards_of(folder, "cbleed", "cbleed")
            with h5py.File(found[0], "r") as file:
                text, seed = file.attrs["config"], int(file.attrs["seed"])
            configs.append(LibraryConfig.from_dict(json.loads(text)))
            # A grid is the same whatever its seed.
            drawn_by = seed if configs[-1].sampling == "random" else 0
            origins.append(sha256(f"{text} {drawn_by}".encode()).hexdigest()[:16])
            paths += found
            if len(found) < configs[-1].shards:
                logger.warning(
                    "%s holds %d of %d energies: is it still being simulated?", folder,
                    len(found), configs[-1].shards,
                )  # fmt: skip
        if len({_disks_of(config) for config in configs}) > 1:
            raise ValueError("the folders were simulated with different physics or disks")
        images, labels = [], []
        for path in progress_bar(paths, description="drawing", progress=progress):
            disks, structures = read_shard(path)
            drawn = screen.drawn(disks)
            if averaged:
                buckled = structures[:, 0] == 1
                drawn[buckled] = screen.drawn(disks.averaged_over_tilts())[buckled]
            images.append(torch.from_numpy(drawn))
            energy = np.full(len(structures), disks.energy_ev)
            labels.append(np.column_stack([energy, structures[:, 1:], structures[:, 0]]))
        return cls(torch.cat(images), np.concatenate(labels), screen, configs[0], tuple(origins))

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Ints) -> CbleedData:
        """Return some of the patterns."""
        return replace(self, images=self.images[torch.from_numpy(index)], labels=self.labels[index])


def _disks_of(config: LibraryConfig) -> tuple:
    return config.physics, config.radius, config.semiangle_mrad, config.orders


def split(labels: Floats, rule: str) -> dict[str, Ints]:
    """Split patterns into "train", "validation" and "test".

    Parameters
    ----------
    labels : ndarray, shape (n, 4)
    rule : {"paper", "energies", "all", "random"}
        "paper": tested on a fifth of the images at random. "energies": on all images within half
        an eV of every seventh whole energy, which are never trained on. "all" and "random": on
        none. The first and last are validated on random images, the others on every fourteenth
        whole energy.

    Raises
    ------
    ValueError
        If the rule is unknown.
    """
    if rule not in SPLITS:
        raise ValueError(f"a split is one of {SPLITS}; not {rule!r}")
    if rule == "random":
        share = np.random.default_rng(0).permutation(len(labels)) / max(1, len(labels))
        test, watched = np.zeros(len(labels), dtype=bool), share >= 1 - _WATCHED
    elif rule == "paper":
        # A number for each image that does not hang on what else is in the library.
        share = np.array([_hash(row) for row in np.round(labels, 6)])
        test, watched = share < _TESTED, share >= 1 - _WATCHED
    else:
        test, watched = (is_held_out(labels[:, 0], one) for one in (TESTED_EV, WATCHED_EV))
        test = test & (rule == "energies")
    parts = {"train": ~test & ~watched, "validation": watched, "test": test}
    return {name: np.flatnonzero(chosen) for name, chosen in parts.items()}


def is_held_out(energies_ev: Floats, held_out: tuple[int, int] | None = None) -> npt.NDArray:
    """Tell which energies are within half an eV of those held out.

    Parameters
    ----------
    energies_ev : ndarray, shape (n,)
    held_out : (int, int), optional
        The first, and steps to the next: `TESTED_EV` or `WATCHED_EV`. None: both.
    """
    whole = np.rint(energies_ev).astype(int)
    pairs = (TESTED_EV, WATCHED_EV) if held_out is None else (held_out,)
    return np.any([(whole - first) % every == 0 for first, every in pairs], axis=0)


def _hash(row: Floats) -> float:
    # + 0.0 turns -0.0 into 0.0.
    digest = sha256((row + 0.0).tobytes()).digest()
    return int.from_bytes(digest[:8], "little") / 2**64


class Between:
    """Patterns between those of a grid: cubic in the energy, splines in the displacements.

    Intensities are smooth on the scale of the grid's steps: 1 eV is a fraction of the width that
    absorption gives a resonance, and 0.1 Å one of a radian of phase.

    Parameters
    ----------
    images : torch.Tensor, shape (n, H, W)
    labels : ndarray, shape (n, 4)
        With all heights and lengths at each energy that there is.

    Raises
    ------
    ValueError
        If no four energies have all heights and lengths, three of either at least.
    """

    def __init__(self, images: torch.Tensor, labels: Floats) -> None:
        rounded = np.round(labels, 6)
        self.heights, self.lengths, self.kinds = (_frequent(rounded[:, n]) for n in (1, 2, 3))
        axes = (self.heights, self.lengths, self.kinds)
        kept = np.all([np.isin(rounded[:, n], axis) for n, axis in enumerate(axes, 1)], axis=0)
        whole = len(self.heights) * len(self.lengths) * len(self.kinds)
        energies, counts = np.unique(rounded[kept, 0], return_counts=True)
        self.energies = energies[counts == whole]
        if len(self.energies) < 4 or min(len(self.heights), len(self.lengths)) < 3:
            raise ValueError(
                "patterns between others need a grid: four energies at least that have all "
                "heights and lengths, three of either at least"
            )
        rows = np.flatnonzero(kept & np.isin(rounded[:, 0], self.energies))
        order = rows[np.lexsort(rounded[rows].T[[2, 1, 3, 0]])]
        self.shape = images.shape[1:]
        self._table = images[torch.from_numpy(order)].reshape(
            len(self.energies), len(self.kinds), len(self.heights) * len(self.lengths), -1
        )

    def at(self, energy_ev: float, kind: int, displacements: npt.ArrayLike) -> torch.Tensor:
        """Return patterns (n, H, W) at an energy and displacements (n, 2) of the grid's range.

        Beyond that they are extrapolated.

        Parameters
        ----------
        energy_ev : float
        kind : int
            1 for buckled dimers, 0 for symmetric ones.
        displacements : array_like, shape (n, 2)
            Height and length in Å.
        """
        height, length = np.asarray(displacements, dtype=float).T
        first = int(np.searchsorted(self.energies, energy_ev)) - 2
        first = min(max(first, 0), len(self.energies) - 4)
        along = _cubic(self.energies[first : first + 4], energy_ev)
        place = int(np.flatnonzero(self.kinds == kind)[0])
        near = self._table[first : first + 4, place]
        level = sum(float(w) * one for w, one in zip(along, near, strict=True))
        across = (
            _splines(self.heights, height)[:, :, None] * _splines(self.lengths, length)[:, None]
        )
        weights = torch.from_numpy(across.reshape(len(height), -1)).float().to(level.device)
        return (weights @ level).clamp(min=0).reshape(-1, *self.shape)

    def draw(
        self, n: int, rng: np.random.Generator, groups: int = 8,
        kept: Callable[[Floats], npt.NDArray] | None = None,
    ) -> tuple[torch.Tensor, Floats]:  # fmt: skip
        """Return n patterns at random places, in groups of one energy each, and their labels.

        Parameters
        ----------
        n : int
        rng : numpy.random.Generator
        groups : int
        kept : callable, optional
            Tells of energies (m,) which may be drawn; None: all.
        """
        images, labels = [], []
        for share in np.array_split(np.arange(n), min(groups, n)):
            energy = self._energy(rng, kept)
            kind = int(rng.choice(self.kinds))
            moved = np.column_stack([
                rng.uniform(axis[0], axis[-1], len(share)) for axis in (self.heights, self.lengths)
            ])  # fmt: skip
            images.append(self.at(energy, kind, moved))
            labels.append(np.column_stack([
                np.full(len(share), energy), moved, np.full(len(share), kind)
            ]))  # fmt: skip
        return torch.cat(images), np.concatenate(labels)

    def _energy(
        self, rng: np.random.Generator, kept: Callable[[Floats], npt.NDArray] | None
    ) -> float:
        for _ in range(_TRIES):
            energy = rng.uniform(self.energies[0], self.energies[-1])
            if kept is None or kept(np.array([energy]))[0]:
                return float(energy)
        raise ValueError("none of the grid's energies may be drawn")


def _frequent(values: Floats) -> Floats:
    """The values of a grid among others that were drawn."""
    found, counts = np.unique(values, return_counts=True)
    return found[2 * counts > counts.max()]


def _cubic(nodes: Floats, x: float) -> Floats:
    """Lagrange's weights of four values."""
    apart = nodes[:, None] - nodes + np.eye(4)
    numerator = np.where(np.eye(4, dtype=bool), 1.0, x - nodes)
    return (numerator / apart).prod(axis=1)


def _splines(grid: Floats, x: Floats) -> Floats:
    """The matrix (n, m) from values on a grid to values at x."""
    return make_interp_spline(grid, np.eye(len(grid)), k=min(3, len(grid) - 1))(x)
