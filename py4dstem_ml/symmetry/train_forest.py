"""Train the radial-basis forests from a library of Bragg lists.

One forest for the crystal system, and for each system one for the space group and one for the
lattice. Every tree draws its own lists; all of the library's may be drawn.
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
from .crystal_classes import SYSTEMS
from .dataset import Labels, ListSet, SplitName, split_materials
from .forest import Forest
from .lists import BraggLists
from .radial_basis import RadialBasis
from .radial_forests import RadialForests, forest_features

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ForestConfig:
    """How forests are trained; trees and depths are the paper's.

    Attributes
    ----------
    split : {"strict", "paper"}
        Which materials are left out, see `split_materials`.
    only_system : bool
        Leave out the forests for space group and lattice.
    lists_per_tree, lists_within : int
        Lists that a tree draws, with replacement: for the system of all, for space group and
        lattice of those of one system.
    system_leaves, group_leaves, lattice_leaves : int
        Most leaves of a tree: what bounds the size of the file.
    augmented : float
        Share of the lists that are distorted, see `AugmentConfig`.
    seed : int
    """

    split: SplitName = "strict"
    only_system: bool = False
    lists_per_tree: int = 100_000
    lists_within: int = 10_000
    system_leaves: int = 8_000
    group_leaves: int = 450
    lattice_leaves: int = 1_000
    augmented: float = 0.5
    seed: int = 32


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
    x = _features(lists.lists, config, augment)
    logger.info("%d lists, %.0f s", len(x), time.monotonic() - started)
    system = labels.system[lists.material]
    grow = _Grower(config.seed, jobs or os.cpu_count() or 1)
    forests = RadialForests(
        grow.classifier(x, system, 80, 40, config.system_leaves, config.lists_per_tree), {}, {}
    )
    logger.info("systems, %.0f s", time.monotonic() - started)
    drawn = config.lists_within
    for number in () if config.only_system else np.unique(system).tolist():
        rows = np.flatnonzero(system == number)
        part, of_list = x[rows], lists.material[rows]
        group, lattice = labels.group[of_list], labels.lattice[of_list]
        forests.group[number] = grow.classifier(part, group, 128, 30, config.group_leaves, drawn)
        forests.lattice[number] = grow.regressor(
            part, lattice, 80, 100, config.lattice_leaves, drawn
        )
        logger.info("%s, %.0f s", SYSTEMS[number], time.monotonic() - started)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    path = output / "radialforest.safetensors"
    forests.save(path, {
        "training": asdict(config), "augmentation": asdict(augment), "trained_lists": len(x),
        "trained_materials": len(np.unique(lists.material)),
        "calibration": calibrate(forests, library, table, config.split),
        "seconds": round(time.monotonic() - started),
    })  # fmt: skip
    return path


def _features(
    lists: BraggLists, config: ForestConfig, augment: AugmentConfig
) -> npt.NDArray[np.float32]:
    """Features of all lists, part of them distorted."""
    augmentation = Augmentation(augment, config.seed)
    rng = np.random.default_rng(config.seed)
    basis = RadialBasis()
    all_features = np.empty((len(lists), basis.n_features), dtype=np.float32)
    start = 0
    for block in lists.blocks():
        distorted = rng.random(len(block)) < config.augmented
        features = forest_features(block)
        if distorted.any():
            peaks = torch.from_numpy(block.take(np.flatnonzero(distorted)).padded(PEAKS))
            peaks = augmentation(peaks[:, None])[0][:, 0]
            features[distorted] = forest_features(_unpadded(peaks.numpy()))
        all_features[start : start + len(block)] = features
        start += len(block)
    return all_features


def _unpadded(peaks: npt.NDArray[np.float32]) -> BraggLists:
    there = peaks[..., 2] > 0
    return BraggLists(peaks[there], np.concatenate([[0], np.cumsum(there.sum(1))]))


class _Grower:
    """Grow scikit-learn's forests and take them over."""

    def __init__(self, seed: int, jobs: int) -> None:
        self.seed, self.jobs = seed, jobs

    def classifier(
        self, x: npt.NDArray, y: npt.NDArray, trees: int, depth: int, leaves: int, drawn: int
    ) -> Forest:
        from sklearn.ensemble import RandomForestClassifier

        model = RandomForestClassifier(trees, **self._options(len(x), depth, leaves, drawn))
        return Forest.from_sklearn(model.fit(x, y))

    def regressor(
        self, x: npt.NDArray, y: npt.NDArray, trees: int, depth: int, leaves: int, drawn: int
    ) -> Forest:
        from sklearn.ensemble import RandomForestRegressor

        options = self._options(len(x), depth, leaves, drawn)
        model = RandomForestRegressor(trees, max_features="sqrt", **options)
        return Forest.from_sklearn(model.fit(x, y))

    def _options(self, lists: int, depth: int, leaves: int, drawn: int) -> dict:
        return {
            "max_depth": depth, "max_leaf_nodes": leaves, "n_jobs": self.jobs,
            "max_samples": min(lists, drawn), "random_state": self.seed,
        }  # fmt: skip


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``py4dstem-ml train-forest symmetry``."""
    defaults = ForestConfig()
    parser.add_argument("--library", required=True, help="folder of shards")
    parser.add_argument("--structures", required=True, help="table of crystals (.npz)")
    parser.add_argument("--output", required=True, help="folder for the weights")
    parser.add_argument("--split", choices=("strict", "paper"), default=defaults.split)
    parser.add_argument("--only-system", action="store_true", help="one forest, not fifteen")
    parser.add_argument("--lists-per-tree", type=int, default=defaults.lists_per_tree)
    parser.add_argument("--seed", type=int, default=defaults.seed)


def run(args: Namespace) -> str:
    """Run ``py4dstem-ml train-forest symmetry``."""
    config = ForestConfig(
        split=args.split, only_system=args.only_system, lists_per_tree=args.lists_per_tree,
        seed=args.seed,
    )  # fmt: skip
    return f"weights: {train_forests(args.library, args.structures, args.output, config)}"
