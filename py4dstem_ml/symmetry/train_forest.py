"""Train forests from a library of Bragg lists.

One forest for the crystal system, and for each system one for the space group and one for the
lattice. Those for the system use all of the library's lists, a part of them each tree.
"""

from __future__ import annotations

import logging
import os
import time
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ..physics.structures import cached_table
from .augment import PEAKS, Augmentation, AugmentConfig
from .calibration import calibrate
from .dataset import SPLIT_RULES, Labels, ListSet, SplitName, split_materials
from .forest import Forest
from .lists import BraggLists
from .radial_forests import FEATURES, FeatureName, RadialForests

logger = logging.getLogger(__name__)

#: In place of a system: the forest is for all of them.
_ALL = -1


@dataclass(frozen=True)
class ForestConfig:
    """How forests are trained.

    Attributes
    ----------
    split : {"strict", "paper"}
        Which materials are left out, see `split_materials`.
    features : {"invariants", "radial basis"}
        What the trees ask for; the second are the paper's.
    only_system : bool
        Leave out the forests for space group and lattice.
    parts : int
        The library is read in so many parts, drawn at random, whose features fit the memory; each
        grows its share of the trees, for the system from all of its lists.
    system_trees, group_trees, lattice_trees : int
        The paper's are 80, 128 and 80.
    lists_within : int
        Lists that a tree for space group or lattice draws, with replacement.
    system_leaves, group_leaves, lattice_leaves : int
        Most leaves of a tree: what bounds the size of the file.
    augmented : float
        Share of the lists that are distorted, see `AugmentConfig`.
    seed : int
    """

    split: SplitName = "strict"
    features: FeatureName = "invariants"
    only_system: bool = False
    parts: int = 8
    system_trees: int = 64
    group_trees: int = 64
    lattice_trees: int = 40
    lists_within: int = 12_000
    system_leaves: int = 20_000
    group_leaves: int = 450
    lattice_leaves: int = 1_000
    augmented: float = 0.5
    seed: int = 32

    def __post_init__(self) -> None:
        trees = min(self.system_trees, self.group_trees, self.lattice_trees)
        if not 1 <= self.parts <= trees:
            raise ValueError(f"parts must be 1 to {trees}, a tree of each kind for each part")


def train_forests(
    library: str | Path,
    structures: str | Path,
    output: str | Path,
    config: ForestConfig | None = None,
    *,
    augment: AugmentConfig | None = None,
    jobs: int | None = None,
) -> Path:
    """Train the forests and return the path of their weights, ``radialforest.safetensors``.

    Parameters
    ----------
    library, structures, output
        See `train.train`.
    config : ForestConfig, optional
    augment : AugmentConfig, optional
    jobs : int, optional
        Trees that are grown at once; default: one a processor.

    Raises
    ------
    FileNotFoundError
        If the library has no list of the materials that are trained on.
    """
    config = config or ForestConfig()
    augment = augment or AugmentConfig()
    started = time.monotonic()
    table = cached_table(str(structures))
    labels = Labels.of(table)
    lists = ListSet.read(library, split_materials(table, config.split)["train"])
    rng = np.random.default_rng(config.seed)
    grown: dict[str, dict[int, list[Forest]]] = {"system": {}, "group": {}, "lattice": {}}
    for number, rows in enumerate(np.array_split(rng.permutation(len(lists)), config.parts)):
        part = lists.take(np.sort(rows))
        seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
        grow = _Grower(config, number, seed, jobs or os.cpu_count() or 1)
        x = _features(part.lists, config, augment, seed)
        for kind, forests in grow.all(x, labels, part.material).items():
            for system, forest in forests.items():
                grown[kind].setdefault(system, []).append(forest)
        del x  # before the next part's are made
        logger.info("part %d of %d, %.0f s", number + 1, config.parts, time.monotonic() - started)
    joined = {
        kind: {system: Forest.joined(forests) for system, forests in by_system.items()}
        for kind, by_system in grown.items()
    }
    forests = RadialForests(
        joined["system"][_ALL], joined["group"], joined["lattice"], config.features
    )
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    path = output / "radialforest.safetensors"
    forests.save(path, {
        "training": asdict(config), "split_rule": SPLIT_RULES[config.split],
        "augmentation": asdict(augment), "trained_lists": len(lists),
        "trained_materials": len(np.unique(lists.material)),
        "calibration": calibrate(forests, library, table, config.split),
        "seconds": round(time.monotonic() - started),
    })  # fmt: skip
    return path


def _features(
    lists: BraggLists, config: ForestConfig, augment: AugmentConfig, seed: int
) -> npt.NDArray[np.float32]:
    """Features of all lists, part of them distorted."""
    features = FEATURES[config.features]
    augmentation = Augmentation(augment, seed)
    rng = np.random.default_rng(seed)
    made = np.empty((len(lists), features(lists.take([0])).shape[1]), dtype=np.float32)
    start = 0
    for block in lists.blocks():
        x = made[start : start + len(block)]
        x[:] = features(block)
        distorted = np.flatnonzero(rng.random(len(block)) < config.augmented)
        if len(distorted):
            peaks = torch.from_numpy(block.take(distorted).padded(PEAKS))
            peaks = augmentation(peaks[:, None])[0][:, 0]
            x[distorted] = features(_unpadded(peaks.numpy()))
        start += len(block)
    return made


def _unpadded(peaks: npt.NDArray[np.float32]) -> BraggLists:
    there = peaks[..., 2] > 0
    return BraggLists(peaks[there], np.concatenate([[0], np.cumsum(there.sum(1))]))


class _Grower:
    """Grow one part's share of the trees with scikit-learn, and take them over."""

    def __init__(self, config: ForestConfig, part: int, seed: int, jobs: int) -> None:
        self.config, self.part, self.seed, self.jobs = config, part, seed, jobs

    def all(
        self, x: npt.NDArray, labels: Labels, material: npt.NDArray[np.int64]
    ) -> dict[str, dict[int, Forest]]:
        """Return forests by kind and system; the one for the system is for all of them."""
        config, system = self.config, labels.system[material]
        grown: dict[str, dict[int, Forest]] = {
            "system": {
                _ALL: self._classifier(
                    x, system, config.system_trees, 40, config.system_leaves, len(x)
                )
            },
            "group": {},
            "lattice": {},
        }
        for number in () if config.only_system else np.unique(system).tolist():
            rows = np.flatnonzero(system == number)
            part, of_list = x[rows], material[rows]
            group, lattice = labels.group[of_list], labels.lattice[of_list]
            grown["group"][number] = self._classifier(
                part, group, config.group_trees, 30, config.group_leaves, config.lists_within
            )
            grown["lattice"][number] = self._regressor(
                part, lattice, config.lattice_trees, 100, config.lattice_leaves,
                config.lists_within,
            )  # fmt: skip
        return grown

    def _classifier(
        self, x: npt.NDArray, y: npt.NDArray, trees: int, depth: int, leaves: int, drawn: int
    ) -> Forest:
        from sklearn.ensemble import RandomForestClassifier

        options = self._options(len(x), trees, depth, leaves, drawn)
        return Forest.from_sklearn(RandomForestClassifier(**options).fit(x, y))

    def _regressor(
        self, x: npt.NDArray, y: npt.NDArray, trees: int, depth: int, leaves: int, drawn: int
    ) -> Forest:
        from sklearn.ensemble import RandomForestRegressor

        options = self._options(len(x), trees, depth, leaves, drawn)
        return Forest.from_sklearn(RandomForestRegressor(max_features="sqrt", **options).fit(x, y))

    def _options(self, lists: int, trees: int, depth: int, leaves: int, drawn: int) -> dict:
        share = np.diff(np.linspace(0, trees, self.config.parts + 1).astype(int))
        return {
            "n_estimators": int(share[self.part]), "max_depth": depth, "max_leaf_nodes": leaves,
            "n_jobs": self.jobs, "max_samples": min(lists, drawn),
            "random_state": self.seed,
        }  # fmt: skip


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``py4dstem-ml train-forest symmetry``."""
    defaults = ForestConfig()
    parser.add_argument("--library", required=True, help="folder of shards")
    parser.add_argument("--structures", required=True, help="table of crystals (.npz)")
    parser.add_argument("--output", required=True, help="folder for the weights")
    parser.add_argument("--split", choices=("strict", "paper"), default=defaults.split)
    parser.add_argument("--only-system", action="store_true", help="one forest, not fifteen")
    parser.add_argument("--features", choices=sorted(FEATURES), default=defaults.features)
    parser.add_argument("--parts", type=int, default=defaults.parts, help="more: less memory")
    parser.add_argument("--seed", type=int, default=defaults.seed)


def run(args: Namespace) -> str:
    """Run ``py4dstem-ml train-forest symmetry``."""
    config = ForestConfig(
        split=args.split, features=args.features, only_system=args.only_system,
        parts=args.parts, seed=args.seed,
    )  # fmt: skip
    return f"weights: {train_forests(args.library, args.structures, args.output, config)}"
