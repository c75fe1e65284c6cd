"""Forests: one for the crystal system, and for each system one for the space group and one for the
lattice.

They ask for the paper's radial basis, or for the network's invariants, of which its magnitudes are
a part. After the paper: hard votes give the confidence, mean leaf probabilities the label,
medians over trees the lattice, sums of difference confidences the system of several patterns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from .. import weights
from .calibration import sharpened
from .crystal_classes import SYSTEM_OF_GROUP, SYSTEMS
from .forest import Forest
from .invariants import Invariants
from .lists import BraggLists, normalised
from .prediction import CrystalPrediction, difference_weighted, read_in_blocks, top_two
from .radial_basis import RadialBasis

FeatureName = Literal["radial basis", "invariants"]


def radial_features(lists: BraggLists) -> npt.NDArray[np.float32]:
    """Return the paper's 1,066 features of lists without their direct beams."""
    return RadialBasis().features(normalised(lists))


def invariant_features(lists: BraggLists) -> npt.NDArray[np.float32]:
    """Return what the network starts from, too: nothing of it turns with the pattern."""
    invariants = Invariants()
    peaks = lists.by_intensity().padded(invariants.spots)
    return invariants(torch.from_numpy(peaks)).numpy()


#: How lists become features.
FEATURES: Mapping[FeatureName, Callable[[BraggLists], npt.NDArray[np.float32]]] = {
    "radial basis": radial_features,
    "invariants": invariant_features,
}
#: What is written of them; weights of another version are refused.
_VERSIONS: Mapping[FeatureName, str] = {
    "radial basis": "radial-basis 41x13 abs arg, intensities of sum 1",
    "invariants": f"invariants 1: {asdict(Invariants())}",
}


@dataclass(frozen=True, eq=False)
class RadialForests:
    """The forests of one weights file.

    Attributes
    ----------
    system : Forest
        Its classes are indices in `SYSTEMS`.
    group, lattice : mapping of int to Forest
        By system; classes of the former are numbers of space groups. Both empty where only
        systems are read.
    features : {"invariants", "radial basis"}
        What they ask for.
    metadata : dict
        ``calibration``: how probabilities are sharpened, for single lists and bags.

    Examples
    --------
    >>> forests = RadialForests.load("radialforest.v1")  # doctest: +SKIP
    >>> forests.read(lists).system  # doctest: +SKIP
    """

    system: Forest
    group: Mapping[int, Forest]
    lattice: Mapping[int, Forest]
    features: FeatureName = "invariants"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | os.PathLike, metadata: Mapping[str, Any]) -> None:
        """Write all forests to a safetensors file."""
        tensors, classes = {}, {}
        for name, forest in self._named():
            tensors |= {f"{name}/{key}": value for key, value in forest.tensors().items()}
            classes[name] = list(forest.classes)
        known = {
            "features": _VERSIONS[self.features], "n_features": self.system.n_features,
            "classes": classes,
        }  # fmt: skip
        weights.save(path, tensors, {**self.metadata, **metadata, **known})

    def _named(self) -> list[tuple[str, Forest]]:
        named = [("system", self.system)]
        for kind, forests in (("group", self.group), ("lattice", self.lattice)):
            named += [(f"{kind}.{SYSTEMS[i]}", forest) for i, forest in forests.items()]
        return named

    @classmethod
    def load(
        cls, name_or_path: str | os.PathLike, device: torch.device | str = "cpu"
    ) -> RadialForests:
        """Read what `save` wrote, by name or path.

        Raises
        ------
        WeightsError
            If the file holds no such forests, or was made for other features.
        """
        return cls.of(*weights.load(name_or_path), name_or_path, device)

    @classmethod
    def of(
        cls, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any],
        name: str | os.PathLike, device: torch.device | str = "cpu",
    ) -> RadialForests:  # fmt: skip
        """Build the forests of a file that was read, see `load`."""
        if "features" not in metadata:
            raise weights.WeightsError(f"{name} does not hold forests for Bragg lists")
        features = {version: kind for kind, version in _VERSIONS.items()}.get(metadata["features"])
        if features is None:
            raise weights.WeightsError(
                f"{name} is for other features ({metadata['features']}) than this version of "
                f"py4dstem_ml computes ({'; '.join(_VERSIONS.values())}): use weights of the same "
                "version"
            )
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            part, array = key.split("/")
            parts.setdefault(part, {})[array] = value
        forests = {
            part: Forest.from_tensors(
                arrays, metadata["n_features"], metadata["classes"][part], device
            )
            for part, arrays in parts.items()
        }
        by_kind: dict[str, dict[int, Forest]] = {"group": {}, "lattice": {}}
        for part, forest in forests.items():
            if part != "system":
                kind, system = part.split(".")
                by_kind[kind][SYSTEMS.index(system)] = forest
        return cls(forests["system"], by_kind["group"], by_kind["lattice"], features, metadata)

    def read(
        self,
        lists: BraggLists,
        system: npt.NDArray[np.int64] | None = None,
        *,
        system_only: bool = False,
    ) -> CrystalPrediction:
        """Read each list by itself.

        Parameters
        ----------
        lists : BraggLists
            Without their direct beams, each with a peak or more.
        system : ndarray of int, shape (n,), optional
            Whose space groups and lattices to give; None: those of the likeliest.
        system_only : bool
            Leave space groups and lattices out: three times as fast.
        """
        return read_in_blocks(lists, system, partial(self._read, system_only=system_only))

    def pool(self, lists: BraggLists, bag: npt.NDArray[np.int64]) -> CrystalPrediction:
        """Read bags of lists of one crystal each; ``bag`` says which each list is in."""
        bags = int(bag.max()) + 1
        votes = [self._systems(self._features(block)) for block in lists.blocks()]
        label = np.concatenate([probabilities.argmax(1) for probabilities, _ in votes])
        lead = np.concatenate([top_two(shares)[1] for _, shares in votes])
        shares = difference_weighted(label, lead, bag, bags, len(SYSTEMS))
        found = CrystalPrediction.nothing(bags)
        found.probabilities = sharpened(shares, self._sharpness("pooled"))
        found.confidence, found.difference = top_two(shares)
        found.valid[:] = True
        if not self.group:
            return found
        single = self.read(lists, found.system[bag])
        groups = difference_weighted(
            single.space_group, single.space_group_difference, bag, bags, 1 + len(SYSTEM_OF_GROUP)
        )
        found.space_group[:] = groups.argmax(1)
        found.space_group_confidence, found.space_group_difference = top_two(groups)
        order = np.argsort(bag, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(bag[order])) + 1):
            number = bag[rows[0]]
            found.lattice[number] = np.median(single.lattice[rows], axis=0)
            found.lattice_spread[number] = np.median(single.lattice_spread[rows], axis=0)
        return found

    def _read(
        self, lists: BraggLists, system: npt.NDArray[np.int64] | None, system_only: bool
    ) -> CrystalPrediction:
        x = self._features(lists)
        probabilities, votes = self._systems(x)
        found = CrystalPrediction.nothing(len(lists))
        found.probabilities = sharpened(probabilities, self._sharpness("single"))
        found.confidence, found.difference = top_two(votes)
        found.valid[:] = True
        system = found.system if system is None else system
        for number in () if system_only or not self.group else np.unique(system).tolist():
            where = np.flatnonzero(system == number)
            self._read_within(x[where], number, found, where)
        return found

    def _features(self, lists: BraggLists) -> torch.Tensor:
        return torch.from_numpy(FEATURES[self.features](lists))

    def _systems(self, x: torch.Tensor) -> tuple[npt.NDArray, npt.NDArray]:
        """Mean leaf probabilities and shares of votes, (n, 7)."""
        probabilities, votes = (np.zeros((len(x), len(SYSTEMS)), np.float32) for _ in range(2))
        places = np.array(self.system.classes)
        probabilities[:, places], votes[:, places] = _classified(self.system, x)
        return probabilities, votes

    def _sharpness(self, of: str) -> float:
        return float(self.metadata.get("calibration", {}).get(of, 1.0))

    def _read_within(
        self, x: torch.Tensor, system: int, found: CrystalPrediction, where: npt.NDArray
    ) -> None:
        """Write space groups and lattices, given one system, into the rows `where`."""
        mean, shares = _classified(self.group[system], x)
        found.space_group[where] = np.array(self.group[system].classes)[mean.argmax(1)]
        confidence, difference = top_two(shares)
        found.space_group_confidence[where] = confidence
        found.space_group_difference[where] = difference
        values = self.lattice[system].predictions(x).cpu().numpy()
        found.lattice[where] = np.median(values, axis=1)
        low, high = np.percentile(values, [16, 84], axis=1)
        found.lattice_spread[where] = (high - low) / 2.0


def _classified(forest: Forest, x: torch.Tensor) -> tuple[npt.NDArray, npt.NDArray]:
    """Mean probabilities and shares of votes, from whichever device."""
    mean, votes = forest.probabilities_and_votes(x)
    return mean.cpu().numpy(), (votes / len(forest)).cpu().numpy()
