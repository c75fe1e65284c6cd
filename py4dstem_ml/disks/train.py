"""Train a disk network from a library of shards: one plain loop for a laptop or many GPUs.

``torchrun --nproc-per-node 8 -m py4dstem_ml.cli train disks ...`` trains on several GPUs. A
broken-off run goes on with ``--resume``; with ``--time-limit`` the learning rate follows the
clock, so that any budget ends in finished weights. ``--start-from`` tunes trained weights finer.
"""

from __future__ import annotations

import logging
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..compute import mixed_precision, pick_device
from ..physics.patterns import Detector, probe_image, render_peaks
from ..training import Run, add_run_arguments
from .augment import Augmentation, AugmentConfig, Batch, two_grains
from .library import Shard, read_shard
from .network import SPECS, DiskNet, build_network, load_network, save_network

logger = logging.getLogger(__name__)

#: Peaks weaker than this fraction of the strongest are not drawn into the target.
_TARGET_FLOOR = 3e-4
#: Shards that are shuffled together.
_SHARDS_IN_MEMORY = 48


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained; written beside its weights.

    Attributes
    ----------
    network : str
        A name of `network.SPECS`.
    batch_size : int
        For each process.
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
    start_from : str or None
        Weights of the same network, by name or file, to begin with instead of random ones.
    """

    network: str = "dualnet.compact"
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    clip: float = 1.0
    warmup: float = 0.02
    averaging: float = 0.999
    steps: int = 100_000
    time_limit_s: float | None = None
    seed: int = 0
    start_from: str | None = None


class ShardStream:
    """Endless batches from a folder of shards, each pattern once an epoch, in random order.

    Only an epoch's last batch, if it is not full, is left out. Shards that appear while it runs
    join at the next epoch. A resumed run gives its step, and so gets an order of its own.

    Raises
    ------
    FileNotFoundError
        If the folder holds no shard of the part.
    ValueError
        If there are fewer shards than processes, or fewer patterns than a batch takes.
    """

    def __init__(
        self, folder: str | Path, config: TrainConfig, augment: AugmentConfig,
        *, part: str = "train", rank: int = 0, processes: int = 1, step: int = 0,
    ) -> None:  # fmt: skip
        self.folder, self.part = Path(folder), part
        self.config, self.augment = config, augment
        self.rank, self.processes = rank, processes
        self.rng = np.random.default_rng([config.seed, rank, step])
        count = len(self._paths())
        if count == 0:
            raise FileNotFoundError(
                f"no shard {part}-*.h5 in {self.folder}; make them with "
                f"'py4dstem-ml simulate disks --part {part} --output FOLDER'"
            )
        if count < processes:
            raise ValueError(
                f"{processes} processes need as many shards, but {self.folder} holds {count}"
            )

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.part}-*.h5"))

    def __iter__(self) -> Iterator[Batch]:
        size = self.config.batch_size
        while True:
            paths = self._paths()[self.rank :: self.processes]
            self.rng.shuffle(paths)
            seen = 0
            rest: list[tuple[Shard, int]] = []
            for start in range(0, len(paths), _SHARDS_IN_MEMORY):
                shards = [read_shard(p) for p in paths[start : start + _SHARDS_IN_MEMORY]]
                items = [(shard, i) for shard in shards for i in range(len(shard.peaks))]
                self.rng.shuffle(items)
                seen += len(items)
                items = rest + items
                whole = len(items) - len(items) % size
                for first in range(0, whole, size):
                    yield self._batch(items[first : first + size])
                rest = items[whole:]
            if seen < size:
                raise ValueError(
                    f"a batch takes {size} patterns, but {self.folder} holds {seen} of the part "
                    f"{self.part!r} for process {self.rank}"
                )

    def _batch(self, items: list[tuple[Shard, int]]) -> Batch:
        rows = [self._item(shard, i) for shard, i in items]
        longest = max(len(peaks) for _, _, peaks in rows)
        peaks = torch.zeros(len(rows), longest, 3)
        for slot, (_, _, values) in zip(peaks, rows, strict=True):
            slot[: len(values)] = values
        return Batch(
            patterns=torch.stack([pattern for pattern, _, _ in rows]),
            probes=torch.stack([probe for _, probe, _ in rows]),
            peaks=peaks,
            pixel_size=torch.tensor([shard.pixel_size for shard, _ in items]),
            radius_px=torch.tensor([shard.radius_px[i] for shard, i in items]).float(),
        )

    def _item(self, shard: Shard, i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        pattern, peaks = _unit(shard.patterns[i]), _relative(shard.peaks[i])
        if self.rng.random() < self.augment.grain_share:
            partners = np.flatnonzero(shard.semiangle_mrad == shard.semiangle_mrad[i])
            j = int(self.rng.choice(partners))
            fraction = self.rng.uniform(*self.augment.grain_fraction)
            pattern = fraction * pattern + (1.0 - fraction) * _unit(shard.patterns[j])
            peaks = two_grains(peaks, _relative(shard.peaks[j]), fraction)
        detector = Detector(shard.patterns.shape[1:], shard.pixel_size)
        probe = probe_image(detector, shard.semiangle_mrad[i], shard.energy_ev)
        return pattern, probe, peaks


def _unit(pattern: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pattern / pattern.sum())


def _relative(peaks: np.ndarray) -> torch.Tensor:
    values = torch.from_numpy(peaks.copy())
    values[:, 2] /= values[:, 2].max()
    return values[values[:, 2] >= _TARGET_FLOOR]


def target_map(peaks: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Return what the network should see: spots of height sqrt(w / w_max), shape (b, h, w)."""
    return render_peaks(torch.cat([peaks[..., :2], peaks[..., 2:].sqrt()], dim=-1), shape)


def relative_error(maps: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the squared error over the squared target, averaged over patterns."""
    error = (maps - targets).square().sum((-2, -1))
    return (error / targets.square().sum((-2, -1)).clamp(min=1e-6)).mean()


class Trainer(Run):
    """A run of a disk network."""

    def __init__(self, config: TrainConfig, output: Path, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        super().__init__(build_network(config.network), config, output, device)
        self.parallel: nn.Module = self.network

    @property
    def weights_path(self) -> Path:
        """Where the averaged weights are written."""
        return self.output / f"{self.config.network}.safetensors"

    def train_step(self, batch: Batch) -> float:
        """Take one step and return the loss.

        Raises
        ------
        RuntimeError
            If the loss or its gradient is not finite; no weight has changed then.
        """
        targets = target_map(batch.peaks, tuple(batch.patterns.shape[-2:]))
        with mixed_precision(self.device):
            maps = self.parallel(batch.patterns, batch.probes)
        loss = relative_error(maps, targets)
        self.descend(loss)
        return float(loss.detach())

    def save(self, metadata: dict[str, Any]) -> Path:
        """Write the averaged weights, and all that a resumed run needs."""
        averaged: DiskNet = self.average.module
        save_network(averaged, self.weights_path, metadata)
        self.save_checkpoint()
        return self.weights_path

    def start_from(self, name_or_path: str) -> str:
        """Begin with trained weights; return their sha256.

        Raises
        ------
        ValueError
            If they are of another network, or the file that this run will write.
        """
        trained = load_network(name_or_path)
        if trained.spec != self.network.spec:
            raise ValueError(f"{name_or_path} are not weights of a {self.config.network}")
        if Path(name_or_path).resolve() == self.weights_path.resolve():
            raise ValueError(f"{name_or_path} would be written over: choose another output folder")
        self.network.load_state_dict(trained.state_dict())
        self.average.module.load_state_dict(trained.state_dict())
        return str(trained.metadata["sha256"])


def train(
    library: str | Path,
    output: str | Path,
    config: TrainConfig,
    *,
    augment: AugmentConfig | None = None,
    device: str | torch.device | None = None,
    resume: bool = False,
    save_every_s: float = 300.0,
) -> Path:
    """Train a disk network and return the path of its weights.

    Parameters
    ----------
    library : str or Path
        Folder of shards from `library.simulate`.
    output : str or Path
        Folder for ``<network>.safetensors``, ``checkpoint.safetensors`` and ``log.jsonl``.
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
    FileNotFoundError, ValueError
        If the library is too small, see `ShardStream`, or the checkpoint, or the weights to
        start from, are of another config.
    RuntimeError
        If the loss is not finite; the weights of the last checkpoint stay.
    """
    augment = augment or AugmentConfig()
    rank, processes, device = _join_group(device)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, output, device)
    metadata: dict[str, Any] = {"training": asdict(config), "augmentation": asdict(augment)}
    if resume:
        trainer.resume()
    elif config.start_from is not None:
        metadata["start_sha256"] = trainer.start_from(config.start_from)
    if processes > 1:
        trainer.parallel = nn.parallel.DistributedDataParallel(trainer.network)
    first = trainer.step
    stream = ShardStream(
        library, config, augment, rank=rank, processes=processes, step=first
    )  # fmt: skip
    # Every process, and every resumed run, draws its own dropout and augmentation.
    seed = int(np.random.SeedSequence([config.seed, rank, first]).generate_state(1)[0])
    torch.manual_seed(seed)
    augmentation = Augmentation(augment, seed, device)
    try:
        _follow(trainer, stream, augmentation, metadata, rank, save_every_s)
    except KeyboardInterrupt:
        if rank == 0 and trainer.step > first:
            trainer.save(trainer.described(metadata))
            logger.info("interrupted at step %d, which --resume goes on from", trainer.step)
        raise
    finally:
        if processes > 1:
            torch.distributed.destroy_process_group()
    return trainer.save(trainer.described(metadata)) if rank == 0 else output


def _follow(
    trainer: Trainer, stream: ShardStream, augmentation: Augmentation, metadata: dict[str, Any],
    rank: int, save_every_s: float,
) -> None:  # fmt: skip
    def step(batch: Batch) -> dict[str, float]:
        return {"loss": trainer.train_step(augmentation(batch.to(trainer.device)))}

    trainer.follow(
        stream, step, lambda: trainer.save(trainer.described(metadata)),
        save_every_s=save_every_s, writes=rank == 0,
        clock=lambda seconds: _of_rank_zero(seconds, trainer.device),
    )  # fmt: skip


def _of_rank_zero(seconds: float, device: torch.device) -> float:
    """Return the first process's clock: all stop at the same step, and learn at the same rate."""
    if not torch.distributed.is_initialized():
        return seconds
    clock = torch.tensor(seconds, dtype=torch.float64, device=device)
    torch.distributed.broadcast(clock, 0)
    return float(clock)


def _join_group(device: str | torch.device | None) -> tuple[int, int, torch.device]:
    """Join the processes that torchrun started; return rank, their number and the device."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1:
        return 0, 1, pick_device(device)
    backend = "nccl" if pick_device(device).type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend)
    rank = torch.distributed.get_rank()
    if backend == "gloo":
        return rank, processes, torch.device("cpu")
    local = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local)
    return rank, processes, torch.device("cuda", local)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``py4dstem-ml train disks``."""
    defaults = TrainConfig()
    add_run_arguments(parser, defaults)
    parser.add_argument("--library", required=True, help="folder of shards")
    parser.add_argument("--network", choices=sorted(SPECS), default=defaults.network)
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--start-from", help="trained weights to tune finer, a name or a file")


def run(args: Namespace) -> str:
    """Run ``py4dstem-ml train disks``."""
    config = TrainConfig(
        network=args.network, steps=args.steps, time_limit_s=args.time_limit,
        batch_size=args.batch_size, learning_rate=args.learning_rate, seed=args.seed,
        start_from=args.start_from,
    )  # fmt: skip
    path = train(args.library, args.output, config, device=args.device, resume=args.resume)
    return f"weights: {path}"
