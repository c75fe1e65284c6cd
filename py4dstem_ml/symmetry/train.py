"""Train the network for peak lists from a library: bags of lists of one crystal at a time.

Every list teaches the network to read it by itself, and the bag, of random size, to read several
together. A broken-off run goes on with ``--resume``; with ``--time-limit`` the learning rate
follows the clock, so that any budget ends in finished weights.
"""

from __future__ import annotations

import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..compute import mixed_precision, pick_device
from ..physics.structures import cached_table
from ..training import Run, TensorBatch, add_run_arguments, prefetched
from .augment import PEAKS, Augmentation, AugmentConfig
from .calibration import calibrate
from .crystal_classes import SYSTEMS
from .dataset import SPLIT_RULES, Labels, ListSet, SplitName, split_materials
from .network import SPECS, PeakSetNet, Reading, build_network, save_network
from .peakset import PeakSetReader

logger = logging.getLogger(__name__)

#: Weights of the losses of space group, lattice and second grain beside that of the system.
_GROUP, _LATTICE, _MIXED = 0.4, 0.3, 0.1


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained; written beside its weights.

    Attributes
    ----------
    network : str
        A name of `network.SPECS`.
    split : {"strict", "paper"}
        Which materials are left out, see `split_materials`.
    bags, lists : int
        Bags in a batch, and lists drawn for each.
    one_axis : float
        Share of the bags whose lists are all of one axis, as those of a grain are; the others are
        of any.
    resized : float
        Crystals are drawn larger or smaller, by this standard deviation of the logarithm: a system
        shows in ratios, not in the sizes of the crystals that there happen to be.
    balance : float
        A system is drawn as often as its number of crystals to this power: 0 is all alike, 1 as
        they are in the table.
    learning_rate, weight_decay, clip : float
        AdamW; the gradient's norm is clipped.
    warmup : float
        Share of the run over which the learning rate rises; then it falls as a cosine.
    averaging : float
        Decay of the exponential average of the weights, which is what is saved.
    steps : int
        Length of the run, if no time limit ends it.
    time_limit_s : float or None
    seed : int
    """

    network: str = "peakset"
    split: SplitName = "strict"
    bags: int = 96
    lists: int = 12
    one_axis: float = 0.25
    resized: float = 0.05
    balance: float = 0.25
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    clip: float = 1.0
    warmup: float = 0.02
    averaging: float = 0.999
    steps: int = 100_000
    time_limit_s: float | None = None
    seed: int = 0


@dataclass
class Bags(TensorBatch):
    """A batch: lists (bags, lists, k, 3), which are there, and what is true of each bag."""

    peaks: torch.Tensor
    present: torch.Tensor
    system: torch.Tensor
    group: torch.Tensor
    lattice: torch.Tensor


class BagStream:
    """Endless batches of bags: crystals by the balance of systems, lists of each at random."""

    def __init__(self, lists: ListSet, labels: Labels, config: TrainConfig, step: int = 0) -> None:
        self.lists, self.labels, self.config = lists, labels, config
        self.rng = np.random.default_rng([config.seed, step])
        order = np.argsort(lists.material, kind="stable")
        self.materials, first = np.unique(lists.material[order], return_index=True)
        self.of_material = np.split(order, first[1:])
        system = labels.system[self.materials]
        count = np.bincount(system, minlength=len(SYSTEMS)).astype(float)
        weight = count[system] ** (config.balance - 1.0)
        self.probability = weight / weight.sum()

    def __iter__(self) -> Iterator[Bags]:
        while True:
            drawn = self.rng.choice(len(self.materials), self.config.bags, p=self.probability)
            yield self._batch(drawn)

    def _batch(self, drawn: np.ndarray) -> Bags:
        size = self.config.lists
        rows = [self._rows(self.of_material[i]) for i in drawn]
        peaks = self.lists.lists.take(np.concatenate(rows)).padded(PEAKS)
        peaks = peaks.reshape(len(drawn), size, *peaks.shape[1:])
        larger = np.exp(self.config.resized * self.rng.standard_normal((len(drawn), 1)))
        peaks[..., :2] /= larger[..., None, None].astype(peaks.dtype)
        sizes = self.rng.integers(1, size + 1, len(drawn))
        material = self.materials[drawn]
        return Bags(
            peaks=torch.from_numpy(peaks),
            present=torch.from_numpy(np.arange(size) < sizes[:, None]),
            system=torch.from_numpy(self.labels.system[material]),
            group=torch.from_numpy(self.labels.group[material]) - 1,
            lattice=torch.from_numpy((self.labels.lattice[material] * larger).astype("f4")).log(),
        )

    def _rows(self, of_material: np.ndarray) -> np.ndarray:
        """Lists of a bag: of one axis, or of any."""
        if self.rng.random() < self.config.one_axis:
            axis = self.lists.axis[of_material]
            of_material = of_material[axis == self.rng.choice(axis)]
        size = self.config.lists
        return self.rng.choice(of_material, size, replace=len(of_material) < size)


def reading_loss(reading: Reading, bags: Bags, mixed: torch.Tensor) -> torch.Tensor:
    """Return the negative log-likelihood of what is true, weighted; mean over lists or bags.

    Parameters
    ----------
    reading : Reading
        Of bags, (b, ...), or of their lists, (b, n, ...).
    bags : Bags
    mixed : torch.Tensor of float, shape (b, n) or (b,)
        1 for lists that hold a second grain, or the share of such lists in a bag.
    """
    shape = reading.system.shape[:-1]
    each = (...,) + (None,) * (len(shape) - 1)

    def true(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return values.gather(-1, index[each].expand(shape)[..., None])[..., 0]

    loss = -true(reading.system, bags.system) - _GROUP * true(reading.group, bags.group)
    index = bags.system[each].expand(shape)[..., None, None].expand(*shape, 1, 3)
    predicted = reading.lattice.gather(-2, index)[..., 0, :]
    spread = reading.spread.gather(-2, index)[..., 0, :]
    lattice = bags.lattice[:, None] if len(shape) == 2 else bags.lattice
    laplace = (predicted - lattice).abs() * (-spread).exp() + spread
    second = nn.functional.binary_cross_entropy_with_logits(reading.mixed, mixed)
    return (loss + _LATTICE * laplace.mean(-1)).mean() + _MIXED * second


class Trainer(Run):
    """A run of the network for peak lists."""

    def __init__(self, config: TrainConfig, output: Path, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        super().__init__(build_network(config.network), config, output, device)

    def train_step(
        self, bags: Bags, features: torch.Tensor, mixed: torch.Tensor
    ) -> tuple[float, float]:
        """Take one step and return the losses of lists and of bags; see `Run.descend`."""
        share = (mixed * bags.present).sum(1) / bags.present.sum(1)
        with mixed_precision(self.device):
            embedded = self.network.embed(features)
            single = reading_loss(self.network.read(embedded), bags, mixed)
            pooled = reading_loss(self.network.pool(embedded, features, bags.present), bags, share)
        self.descend(single + pooled)
        return float(single.detach()), float(pooled.detach())

    def save(self, metadata: dict[str, Any]) -> Path:
        """Write the averaged weights, and all that a resumed run needs."""
        path = self.output / f"{self.config.network}.safetensors"
        averaged: PeakSetNet = self.average.module
        save_network(averaged, path, metadata)
        self.save_checkpoint()
        return path


def train(
    library: str | Path,
    structures: str | Path,
    output: str | Path,
    config: TrainConfig,
    *,
    augment: AugmentConfig | None = None,
    device: str | torch.device | None = None,
    resume: bool = False,
    save_every_s: float = 300.0,
) -> Path:
    """Train the network and return the path of its weights.

    Parameters
    ----------
    library : str or Path
        Folder of shards from `library.simulate`; they are held in memory.
    structures : str or Path
        The table of crystals that they were made from.
    output : str or Path
        Folder for ``peakset.safetensors``, ``checkpoint.safetensors`` and ``log.jsonl``.
    config : TrainConfig
    augment : AugmentConfig, optional
    device : str or torch.device, optional
        Default: the GPU if there is one.
    resume : bool
        Go on from the checkpoint in ``output``.
    save_every_s : float
        Seconds between checkpoints; an interrupted run leaves one too.

    Raises
    ------
    FileNotFoundError
        If the library has no list of the materials that are trained on.
    ValueError
        If the checkpoint is of another config.
    """
    augment = augment or AugmentConfig()
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, output, pick_device(device))
    if resume:
        trainer.resume()
    first = trainer.step
    table = cached_table(str(structures))
    lists = ListSet.read(library, split_materials(table, config.split)["train"])
    stream = BagStream(lists, Labels.of(table), config, first)
    metadata = {
        "training": asdict(config), "split_rule": SPLIT_RULES[config.split],
        "augmentation": asdict(augment), "trained_lists": len(lists),
        "trained_materials": len(stream.materials),
    }  # fmt: skip
    logger.info("%d lists of %d crystals", len(lists), len(stream.materials))
    # A resumed run draws its own dropout and augmentation.
    torch.manual_seed(_seed_of(config, first))
    augmentation = Augmentation(augment, _seed_of(config, first), trainer.device)
    try:
        _follow(trainer, stream, augmentation, metadata, save_every_s)
    except KeyboardInterrupt:
        if trainer.step > first:
            trainer.save(_described(metadata, trainer))
            logger.info("interrupted at step %d, which --resume goes on from", trainer.step)
        raise
    reader = PeakSetReader(trainer.average.module.eval())
    metadata["calibration"] = calibrate(reader, library, table, config.split)
    return trainer.save(_described(metadata, trainer))


def _follow(
    trainer: Trainer, stream: BagStream, augmentation: Augmentation, metadata: dict[str, Any],
    save_every_s: float,
) -> None:  # fmt: skip
    def step(batch: tuple[Bags, torch.Tensor, torch.Tensor]) -> dict[str, float]:
        single, pooled = trainer.train_step(*batch)
        return {"single": single, "pooled": pooled}

    with closing(prefetched(_described_bags(stream, augmentation, trainer))) as batches:
        trainer.follow(
            batches, step, lambda: trainer.save(_described(metadata, trainer)),
            save_every_s=save_every_s,
        )  # fmt: skip


def _described_bags(
    stream: BagStream, augmentation: Augmentation, trainer: Trainer
) -> Iterator[tuple[Bags, torch.Tensor, torch.Tensor]]:
    """Bags, the features of their distorted lists, and which of these hold a second grain."""
    for bags in stream:
        bags = bags.to(trainer.device)
        peaks, mixed = augmentation(bags.peaks)
        yield bags, trainer.network.features(peaks), mixed.float()


def _seed_of(config: TrainConfig, step: int) -> int:
    return int(np.random.SeedSequence([config.seed, step]).generate_state(1)[0])


def _described(metadata: dict[str, Any], trainer: Trainer) -> dict[str, Any]:
    seen = trainer.step * trainer.config.bags * trainer.config.lists
    return {**metadata, "lists_seen": seen, "seconds": round(trainer.seconds)}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``py4dstem-ml train symmetry``."""
    defaults = TrainConfig()
    add_run_arguments(parser, defaults)
    parser.add_argument("--library", required=True, help="folder of shards")
    parser.add_argument("--structures", required=True, help="table of crystals (.npz)")
    parser.add_argument("--network", choices=sorted(SPECS), default=defaults.network)
    parser.add_argument("--split", choices=("strict", "paper"), default=defaults.split)


def run(args: Namespace) -> str:
    """Run ``py4dstem-ml train symmetry``."""
    config = TrainConfig(
        network=args.network, split=args.split, steps=args.steps, time_limit_s=args.time_limit,
        learning_rate=args.learning_rate, seed=args.seed,
    )  # fmt: skip
    path = train(
        args.library, args.structures, args.output, config, device=args.device, resume=args.resume
    )
    return f"weights: {path}"
