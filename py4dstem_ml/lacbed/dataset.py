"""A library of LACBED in memory, in natural units, and its split by material."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..physics.structures import name_hash, prototype_class
from ..progress import progress_bar
from ..shards import shards_of
from ..training import TensorBatch
from .bragg_lines import quadrant, unfolded
from .library import RANDOM, read_pictures
from .linenet import LineGenerator
from .natural import depth, strength_per_volt

#: Settings that shards must share, see `library.LibraryConfig`.
_COMMON = ("energy_ev", "thicknesses", "pixels", "half_width", "absorption")
#: Share of the prototypes that networks are tested on.
_HELD_OUT = 0.2
#: Share of the prototypes, beyond, that their training is watched on.
_WATCHED = 0.06
#: Share of the other formulas that are tested on: new crystals of structures that are known.
_NEW_FORMULAS = 0.05
#: Written into weights; raised when what is tested on changes: no model is judged on what it
#: saw. `_WATCHED` was .02 for the first networks.
SPLIT_RULE = 1


@dataclass(frozen=True, eq=False)
class LacbedData:
    """Cubic crystals along [001].

    Attributes
    ----------
    potential : torch.Tensor, shape (n, H, W)
        V·Å, float32.
    patterns : torch.Tensor, shape (n, t, H / 2, W / 2)
        Quadrants of the bright fields, float16.
    few_beams : torch.Tensor, shape (n, t, H / 2, W / 2)
        The same with few beams, see `bright_field`, always without absorption.
    a : ndarray, shape (n,)
        Å.
    thicknesses : tuple of float, length t
        Å.
    energy_ev, half_width : float
    absorption : bool
        See `library.LibraryConfig`.
    material_id, formula, prototype : ndarray of str, shape (n,)
    spacegroup : ndarray of int, shape (n,)
    """

    potential: torch.Tensor
    patterns: torch.Tensor
    few_beams: torch.Tensor
    a: npt.NDArray[np.float64]
    thicknesses: tuple[float, ...]
    energy_ev: float
    half_width: float
    absorption: bool
    material_id: npt.NDArray[np.str_]
    formula: npt.NDArray[np.str_]
    prototype: npt.NDArray[np.str_]
    spacegroup: npt.NDArray[np.int64]

    @classmethod
    def read(
        cls, folders: str | Path | Sequence[str | Path], *, progress: bool | None = None
    ) -> LacbedData:
        """Read the shards of one or more folders.

        Raises
        ------
        FileNotFoundError
            If a folder holds no shard.
        ValueError
            If shards were simulated with different settings.
        """
        names = [folders] if isinstance(folders, str | Path) else list(folders)
        paths: list[Path] = []
        for folder in names:
            paths += shards_of(folder, "lacbed", "lacbed --structures TABLE")
        columns: dict[str, list] = {}
        configs: list[dict] = []
        for path in progress_bar(paths, description="reading", progress=progress):
            with h5py.File(path, "r") as file:
                configs.append(json.loads(file.attrs["config"]))
                for name, values in _columns_of(file).items():
                    columns.setdefault(name, []).append(values)
        config = configs[0]
        for name in _COMMON:
            if any(other[name] != config[name] for other in configs):
                raise ValueError(f"the shards were simulated with different {name}")
        joined = {name: np.concatenate(parts) for name, parts in columns.items()}
        return cls(
            potential=torch.from_numpy(joined.pop("potential")),
            patterns=torch.from_numpy(joined.pop("patterns")),
            few_beams=torch.from_numpy(joined.pop("few_beams")),
            thicknesses=tuple(config["thicknesses"]), energy_ev=config["energy_ev"],
            half_width=config["half_width"], absorption=config["absorption"], **joined,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.a)

    def strength(self, index: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return what turns V·Å of these crystals into natural units, shape (n,)."""
        return torch.from_numpy(strength_per_volt(self.a[index], self.energy_ev)).float()

    def tau(self, index: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return the depths of these crystals at all thicknesses, shape (n, t)."""
        tau = depth(self.a[index, None], np.array(self.thicknesses), self.energy_ev)
        return torch.from_numpy(tau).float()


def _columns_of(file: h5py.File) -> dict[str, npt.NDArray]:
    bright = torch.from_numpy(read_pictures(file, "patterns", (slice(None), 0)))
    columns = {
        "potential": read_pictures(file, "potential"),
        "patterns": quadrant(bright).half().numpy(),
        "few_beams": file["few_beams"][:],
        "a": file["a"][:],
        "spacegroup": file["spacegroup"][:].astype(np.int64),
    }
    for name in ("material_id", "formula", "prototype"):
        columns[name] = file[name][:].astype("U")
    return columns


@dataclass(frozen=True, eq=False)
class Batch(TensorBatch):
    """Crystals of a library in natural units.

    Attributes
    ----------
    u, pattern : torch.Tensor, shape (b, n, n)
        Potentials and bright fields.
    few : torch.Tensor, shape (b, n / 2, n / 2)
        Quadrants of the bright fields with few beams.
    tau : torch.Tensor, shape (b,)
        Depths.
    """

    u: torch.Tensor
    pattern: torch.Tensor
    few: torch.Tensor
    tau: torch.Tensor

    def given_to(self, network: nn.Module) -> tuple[torch.Tensor, ...]:
        """What a network takes."""
        if network.direction == "inverse":
            return self.pattern, self.tau
        few = (self.few,) if isinstance(network, LineGenerator) else ()
        return self.u, self.tau, *few


def batch_of(data: LacbedData, chosen: np.ndarray, thickness: torch.Tensor) -> Batch:
    """Return crystals (b,) of a library at the thicknesses of these numbers (b,)."""
    rows = torch.from_numpy(chosen)
    pattern = unfolded(data.patterns[rows, thickness].float())
    u = data.potential[rows] * data.strength(chosen)[:, None, None]
    few = data.few_beams[rows, thickness].float()
    return Batch(u, pattern, few, data.tau(chosen)[torch.arange(len(rows)), thickness])


def split_materials(
    formula: npt.NDArray[np.str_], prototype: npt.NDArray[np.str_]
) -> dict[str, npt.NDArray[np.int64]]:
    """Split crystals by what they are made of, and by structure.

    ``"prototype"``: a fifth of the prototypes, none of whose crystals, nor any of their formulas,
    is trained on. ``"formula"``: a twentieth of the other formulas, whose structures are trained on
    with other elements: what the paper's folds come to. ``"validation"``: another sixteenth of the
    prototypes. ``"train"``: the rest, and all random cells. All follow from hashes of the names;
    crystals that are added change none of the tests, but may bring a formula that was trained on to
    a prototype that is tested: judge networks on the library that they were trained on.

    Parameters
    ----------
    formula, prototype : ndarray of str, shape (n,)

    Returns
    -------
    dict of str to ndarray of int
    """
    by_class = np.array([name_hash(prototype_class(name)) for name in prototype.tolist()])
    by_formula = np.array([name_hash(name) for name in formula.tolist()])
    by_class[np.char.startswith(prototype, RANDOM)] = 1.0
    by_formula[np.char.startswith(formula, RANDOM)] = 1.0
    test = by_class < _HELD_OUT
    watched = ~test & (by_class < _HELD_OUT + _WATCHED)
    shared = np.isin(formula, formula[test | watched]) & ~test & ~watched
    new = ~test & ~watched & ~shared & (by_formula < _NEW_FORMULAS)
    parts = {
        "prototype": test, "formula": new, "validation": watched,
        "train": ~(test | watched | shared | new),
    }  # fmt: skip
    return {name: np.flatnonzero(chosen) for name, chosen in parts.items()}
