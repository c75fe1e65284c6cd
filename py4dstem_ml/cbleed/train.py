"""Train an autoencoder of CBLEED patterns, which sees no labels, or the direct regressor.

A broken-off run goes on with ``--resume``; with ``--time-limit`` the learning rate follows the
clock, so that any budget ends in finished weights. ``--sweep`` trains a row of latent sizes.
"""

from __future__ import annotations

import json
import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from .. import weights
from ..compute import pick_device
from ..training import Run, add_run_arguments, prefetched
from .augment import Disturbance, disturbed
from .dataset import SPLIT_RULE, SPLITS, Between, CbleedData, split
from .images import Screen, normalised
from .network import Autoencoder, NetworkSpec, build_network, load_network, save_network

logger = logging.getLogger(__name__)

#: Numbers in the code that the paper's Figure 5 compares.
LATENT_SIZES = (2, 4, 6, 8, 12, 16, 24)
#: Images that a run is watched on, and those of which reconstructions are kept at some steps.
_WATCHED, _SHOWN = 512, 4
_SHOWN_AT = (100, 300, 1000, 3000, 10_000, 30_000)


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained; written beside its weights.

    Attributes
    ----------
    network : NetworkSpec
    screen : Screen
    split : str
        A rule of `dataset.split`.
    between : float
        Share of the patterns that lie between those of the grid, see `dataset.Between`; only with
        the splits by energy. Their labels are not used by an autoencoder.
    averaged : bool
        Buckled dimers as the mean of both tilts.
    disturbance : Disturbance
    batch_size : int
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

    Raises
    ------
    ValueError
        If screen and network differ in their pixels, or ``between`` is no share, or would show
        what the split "paper" holds out.
    """

    network: NetworkSpec = field(default_factory=NetworkSpec)
    screen: Screen = field(default_factory=Screen)
    split: str = "energies"
    between: float = 0.75
    averaged: bool = False
    disturbance: Disturbance = field(default_factory=Disturbance)
    batch_size: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 1e-5
    clip: float = 1.0
    warmup: float = 0.02
    averaging: float = 0.995
    steps: int = 40_000
    time_limit_s: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.network.pixels != self.screen.pixels:
            raise ValueError("network and screen differ in their pixels")
        if self.split not in SPLITS:
            raise ValueError(f"a split is one of {SPLITS}; not {self.split!r}")
        if not 0 <= self.between <= 1:
            raise ValueError(f"between is a share, from 0 to 1; not {self.between!r}")
        if self.split == "paper" and self.between:
            raise ValueError(
                "patterns between those of the grid are made of all of them: with split 'paper' "
                "take between=0"
            )


class Stream:
    """Endless random batches: images as seen, images as they are, standardised targets."""

    def __init__(
        self, data: CbleedData, config: TrainConfig, device: torch.device, step: int = 0
    ) -> None:
        self.config, self.device = config, device
        self.rng = np.random.default_rng([config.seed, step])
        self.generator = torch.Generator(device)
        self.generator.manual_seed(int(self.rng.integers(2**62)))
        self.labels = data.labels
        self.images = data.images.to(device)
        self.mean, self.scale = data.labels.mean(0), data.labels.std(0).clip(min=1e-9)
        self.between = Between(self.images, data.labels) if config.between else None

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        size = self.config.batch_size
        while True:
            drawn = round(self.config.between * size)
            chosen = self.rng.integers(len(self.images), size=size - drawn)
            images, labels = self.images[torch.from_numpy(chosen)], self.labels[chosen]
            if self.between is not None:
                more, beside = self.between.draw(drawn, self.rng)
                images, labels = torch.cat([images, more]), np.concatenate([labels, beside])
            seen = disturbed(images, self.config.disturbance, self.generator)
            target = torch.from_numpy((labels - self.mean) / self.scale).float()
            yield normalised(seen), normalised(images), target.to(self.device)


class Trainer(Run):
    """A run of an autoencoder, or of a direct regressor."""

    def loss(self, seen: torch.Tensor, plain: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return binary cross-entropy to the undisturbed images, or the error of the targets."""
        # In full precision: what tells lengths is a thousandth of a pattern.
        found = self.network(seen)
        if isinstance(self.network, Autoencoder):
            return functional.binary_cross_entropy_with_logits(found, plain)
        return functional.smooth_l1_loss(found, target, beta=0.02)

    def keep_reconstructions(self, images: torch.Tensor) -> None:
        """Add what the network makes of a few images to ``reconstructions.safetensors``."""
        if not isinstance(self.network, Autoencoder) or not len(images):
            return
        path = self.output / "reconstructions.safetensors"
        kept = weights.load(path)[0] if path.exists() and self.step > _SHOWN_AT[0] else {}
        network = self.average.module
        network.eval()
        with torch.no_grad():
            plain = normalised(images[:_SHOWN])
            made = network.decode(network.encode(plain))
        weights.save(path, {**kept, "seen": plain, f"step {self.step:06d}": made}, {})

    @property
    def weights_path(self) -> Path:
        """Where the averaged weights go."""
        return self.output / f"{self.network.spec.kind}.safetensors"

    def save(self, metadata: dict[str, Any]) -> Path:
        """Write the averaged weights, and all that a resumed run needs."""
        save_network(self.average.module, self.weights_path, metadata)
        self.save_checkpoint()
        return self.weights_path


def watched_loss(network: torch.nn.Module, images: torch.Tensor) -> float:
    """Return by how much the binary cross-entropy of undisturbed images exceeds its least value.

    Soft images have an entropy that no reconstruction comes below; what is beyond it is 0 for a
    perfect one.
    """
    plain = normalised(images)
    network.eval()
    with torch.no_grad():
        logits = torch.cat([network(part) for part in plain.split(64)])
    found = functional.binary_cross_entropy_with_logits(logits, plain)
    least = functional.binary_cross_entropy(plain, plain)
    return float(found - least)


def train(
    library: str | Path | Sequence[str | Path],
    output: str | Path,
    config: TrainConfig | None = None,
    *,
    device: str | torch.device | None = None,
    resume: bool = False,
    save_every_s: float = 300.0,
    progress: bool | None = None,
) -> Path:
    """Train a network and return the path of its weights.

    Parameters
    ----------
    library : str, Path or sequence of them
        Folders of shards from `library.simulate`.
    output : str or Path
        Folder for ``<kind>.safetensors``, ``checkpoint.safetensors`` and ``log.jsonl``.
    config : TrainConfig, optional
    device : str or torch.device, optional
        Default: the GPU if there is one.
    resume : bool
        Go on from the checkpoint in ``output``.
    save_every_s : float
        Seconds between checkpoints; an interrupted run leaves one too.
    progress : bool, optional
        Of reading; None: a bar in a terminal or a notebook.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no library, the split leaves nothing to train on, or the checkpoint is of
        another config or library.
    RuntimeError
        If the loss is not finite; the weights of the last checkpoint stay.
    """
    config = config or TrainConfig()
    data = CbleedData.read(library, config.screen, averaged=config.averaged, progress=progress)
    return train_on(data, output, config, device=device, resume=resume, save_every_s=save_every_s)


def train_on(
    data: CbleedData,
    output: str | Path,
    config: TrainConfig,
    *,
    device: str | torch.device | None = None,
    resume: bool = False,
    save_every_s: float = 300.0,
) -> Path:
    """Train on a library in memory; see `train`."""
    parts = split(data.labels, config.split)
    if not len(parts["train"]):
        raise ValueError(
            f"the split {config.split!r} leaves no pattern of this library to train on"
        )
    output, chosen = Path(output), pick_device(device)
    output.mkdir(parents=True, exist_ok=True)
    # Drawn before the run, so that the seed decides the first weights.
    torch.manual_seed(config.seed)
    trainer = Trainer(build_network(config.network), config, output, chosen)
    if resume:
        trainer.resume()
        said = weights.load(trainer.weights_path)[1]["origins"]
        if set(said) != set(data.origins):
            raise ValueError(f"{output} was trained on another library: resume with that one")
    stream = Stream(data.take(parts["train"]), config, chosen, trainer.step)
    if config.network.kind == "direct":
        for network in (trainer.network, trainer.average.module):
            network.mean.copy_(torch.from_numpy(stream.mean))
            network.scale.copy_(torch.from_numpy(stream.scale))
    metadata = {
        "training": asdict(config), "split_rule": SPLIT_RULE,
        "library": asdict(data.config) if data.origins else None,
        "origins": list(data.origins), "images": len(parts["train"]),
        "ranges": [data.labels.min(0).tolist(), data.labels.max(0).tolist()],
    }  # fmt: skip
    # Of all energies and kinds: the first ones are alike.
    some = np.random.default_rng(0).permutation(parts["validation"])[:_WATCHED]
    watched = data.images[torch.from_numpy(some)].to(chosen)
    try:
        _follow(trainer, stream, metadata, watched, save_every_s)
    except KeyboardInterrupt:
        trainer.save(trainer.described(metadata))
        logger.info("interrupted at step %d, which --resume goes on from", trainer.step)
        raise
    return trainer.save(trainer.described(metadata))


def _follow(
    trainer: Trainer, stream: Stream, metadata: dict[str, Any], images: torch.Tensor,
    save_every_s: float,
) -> None:  # fmt: skip
    def step(batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> dict[str, float]:
        loss = trainer.loss(*batch)
        trainer.descend(loss)
        if trainer.step in _SHOWN_AT:
            trainer.keep_reconstructions(images)
        return {"loss": float(loss.detach())}

    def watch() -> dict[str, float]:
        if not (len(images) and isinstance(trainer.network, Autoencoder)):
            return {}
        return {"watched": watched_loss(trainer.average.module, images)}

    trainer.network.train()
    trainer.follow(
        prefetched(stream), step, lambda: trainer.save(trainer.described(metadata)),
        save_every_s=save_every_s, watch=watch,
    )  # fmt: skip
    trainer.keep_reconstructions(images)


def read_reconstructions(folder: str | Path) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Read the images that a run kept, and their reconstructions by step.

    Parameters
    ----------
    folder : str or Path
        Output of `train`.

    Returns
    -------
    images : torch.Tensor, shape (n, H, W)
        Amplitudes.
    reconstructions : dict of torch.Tensor
        "step 100" -> the same images by the network at that step.
    """
    kept = weights.load(Path(folder) / "reconstructions.safetensors")[0]
    seen = kept.pop("seen")
    return seen, {f"step {int(name.split()[1])}": kept[name] for name in sorted(kept)}


def sweep(
    library: str | Path | Sequence[str | Path],
    output: str | Path,
    config: TrainConfig | None = None,
    *,
    sizes: Sequence[int] = LATENT_SIZES,
    device: str | torch.device | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> dict[int, float]:
    """Train an autoencoder for each latent size, and return their losses on held-out images.

    Each has a folder ``latent-<size>`` in ``output``; ``sweep.json`` there holds the losses, see
    `watched_loss`. A size that is finished is not trained again where ``resume`` is set.

    Raises
    ------
    ValueError
        If the split holds out nothing to measure on.
    """
    config = config or TrainConfig()
    data = CbleedData.read(library, config.screen, averaged=config.averaged, progress=progress)
    held_out = split(data.labels, config.split)["validation"]
    if not len(held_out):
        raise ValueError("the library has no validation images to measure the latent sizes on")
    path = Path(output) / "sweep.json"
    found = {}
    for size in sizes:
        folder = Path(output) / f"latent-{size}"
        one = replace(config, network=replace(config.network, latent=size))
        broken_off = resume and (folder / "checkpoint.safetensors").exists()
        written = train_on(data, folder, one, device=device, resume=broken_off)
        images = data.images[torch.from_numpy(held_out)]
        found[str(size)] = watched_loss(load_network(written), images)
        path.write_text(json.dumps(found, indent=1))
        logger.info("latent size %d: loss %.3e above the images' entropy", size, found[str(size)])
    return {int(size): loss for size, loss in found.items()}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``py4dstem-ml train cbleed``."""
    defaults = TrainConfig()
    add_run_arguments(parser, defaults)
    parser.add_argument("--library", required=True, nargs="+", help="folders of shards")
    parser.add_argument("--network", choices=("autoencoder", "direct"), default="autoencoder")
    parser.add_argument("--latent", type=int, default=defaults.network.latent)
    parser.add_argument(
        "--channels",
        type=int,
        nargs="+",
        default=defaults.network.channels,
        help="of the convolutions, each followed by pooling",
    )
    parser.add_argument(
        "--sweep", type=int, nargs="*", metavar="SIZE",
        help=f"train these latent sizes; default {' '.join(map(str, LATENT_SIZES))}",
    )  # fmt: skip
    parser.add_argument("--split", choices=SPLITS, default=defaults.split)
    parser.add_argument("--between", type=float, help="share; default 0.75, 0 with split paper")
    parser.add_argument("--averaged", action="store_true", help="both tilts of buckled dimers")
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)


def run(args: Namespace) -> None:
    """Run ``py4dstem-ml train cbleed``."""
    between = args.between
    if between is None:
        between = 0.0 if args.split == "paper" else TrainConfig.between
    config = TrainConfig(
        network=NetworkSpec(
            kind=args.network, latent=args.latent, channels=tuple(args.channels)
        ),
        split=args.split, between=between, averaged=args.averaged, batch_size=args.batch_size,
        learning_rate=args.learning_rate, steps=args.steps, time_limit_s=args.time_limit,
        seed=args.seed,
    )  # fmt: skip
    if args.sweep is not None:
        sizes = args.sweep or LATENT_SIZES
        sweep(
            args.library, args.output, config, sizes=sizes, device=args.device, resume=args.resume
        )
        return
    path = train(args.library, args.output, config, device=args.device, resume=args.resume)
    logger.info("weights: %s", path)
