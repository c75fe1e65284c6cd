"""Train a LACBED network from a library: regression, the conditional GAN, the autoencoder.

A broken-off run goes on with ``--resume``; with ``--time-limit`` the learning rate follows the
clock, so that any budget ends in finished weights.
"""

from __future__ import annotations

import logging
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import weights
from ..compute import mixed_precision, pick_device
from ..physics.structures import prototype_class
from ..replay import ReplayedStep, replayable
from ..training import Run, add_run_arguments
from .dataset import SPLIT_RULE, Batch, LacbedData, batch_of, split_materials
from .natural import conditions
from .network import SPECS, build_network, direction_of, load_network, save_network
from .pix2pix import Discriminators, discriminator_loss, generator_loss, normalised
from .scores import at_best_origin, likeness, pearson

logger = logging.getLogger(__name__)

#: Weight of the loss at the stored origin, beside that at the best one.
_AT_OWN_ORIGIN = 0.3
#: Weights of feature matching and of the plain difference in the conditional GAN (pix2pixHD's 10;
#: the difference stands for its perceptual loss, whose network is trained on photographs).
_MATCHING, _PLAIN = 10.0, 10.0
#: Weight of the latent numbers' divergence from a normal distribution.
_DIVERGENCE = 1e-3
#: What is kept of the run that a run starts from.
_EARLIER = ("sha256", "patterns_seen", "seconds", "earlier")
#: Crystals that are drawn together to watch a run.
_WATCHED = 256


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained; written beside its weights.

    Attributes
    ----------
    network : str
        A name of `network.SPECS`.
    adversarial : bool
        Train a pix2pix generator against discriminators; False: by the plain difference alone.
    batch_size : int
    learning_rate, weight_decay, clip : float
        AdamW; the gradient's norm is clipped.
    warmup : float
        Share of the run over which the learning rate rises; then it falls as a cosine.
    averaging : float
        Decay of the exponential average of the weights, which is what is saved.
    evenness : float
        Crystals are drawn by (size of their prototype) ** -evenness.
    noise : float
        Greatest noise on patterns that are read, as a share of their standard deviation.
    steps : int
        Length of the run, if no time limit ends it.
    time_limit_s : float or None
    seed : int
    start_from : str or None
        Weights of the same network, by name or file, to begin with instead of random ones.
    """

    network: str = "linenet.forward.compact"
    adversarial: bool = True
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    clip: float = 1.0
    warmup: float = 0.02
    averaging: float = 0.995
    evenness: float = 0.5
    noise: float = 0.1
    steps: int = 100_000
    time_limit_s: float | None = None
    seed: int = 0
    start_from: str | None = None


class Stream:
    """Endless random batches of some crystals of a library, each at a random thickness."""

    def __init__(
        self, data: LacbedData, members: np.ndarray, config: TrainConfig, step: int = 0
    ) -> None:
        self.data, self.members, self.config = data, members, config
        self.rng = np.random.default_rng([config.seed, step])
        classes = [prototype_class(name) for name in data.prototype[members].tolist()]
        sizes = Counter(classes)
        share = np.array([float(sizes[name]) ** -config.evenness for name in classes])
        self.share = np.cumsum(share / share.sum())

    def __iter__(self) -> Iterator[Batch]:
        size, thicknesses = self.config.batch_size, len(self.data.thicknesses)
        while True:
            drawn = np.searchsorted(self.share, self.rng.random(size)).clip(max=len(self.share) - 1)
            chosen = self.members[drawn]
            number = torch.from_numpy(self.rng.integers(thicknesses, size=size))
            batch = batch_of(self.data, chosen, number)
            turned = torch.from_numpy(self.rng.random(size) < 0.5)[:, None, None]
            pictures = (batch.u, batch.pattern, batch.few)
            yield Batch(*(torch.where(turned, x.mT, x) for x in pictures), batch.tau)


def relative_difference(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the mean of |found - wanted| over the standard deviation of each wanted picture."""
    scale = wanted.std((1, 2), keepdim=True).clamp(min=1e-6)
    return ((found - wanted).abs() / scale).mean()


def picture_loss(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Relative difference, and what is missing of the correlation."""
    return relative_difference(found, wanted) + (1.0 - pearson(found, wanted)).mean()


def potential_loss(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """`picture_loss` mostly at the best origin, which a pattern does not show."""
    moved = at_best_origin(wanted, found)
    own = picture_loss(found, wanted)
    return (1.0 - _AT_OWN_ORIGIN) * picture_loss(found, moved) + _AT_OWN_ORIGIN * own


class Trainer(Run):
    """A run of a LACBED network."""

    replays = True

    def __init__(
        self, config: TrainConfig, output: Path, device: torch.device, pixels: int
    ) -> None:
        torch.manual_seed(config.seed)
        network = build_network(config.network, pixels).to(memory_format=torch.channels_last)
        super().__init__(network, config, output, device)
        self.direction = direction_of(config.network)
        self.kind = config.network.split(".")[0]
        self.judges: Discriminators | None = None
        if self.kind == "pix2pix" and config.adversarial:
            self.judges = Discriminators().to(device)
            self.judging = torch.optim.Adam(
                self.judges.parameters(), betas=(0.5, 0.999), **replayable(2e-4, device)
            )
        self._replayed = ReplayedStep(self._step_on_gpu, device)

    @property
    def weights_path(self) -> Path:
        """Where the averaged weights are written."""
        return self.output / f"{self.config.network}.safetensors"

    def train_step(self, batch: Batch) -> torch.Tensor:
        """Take one step and return the loss.

        Raises
        ------
        RuntimeError
            On a CPU, if the loss or its gradient is not finite; no weight has changed then. On a
            GPU the loss is not looked at, and is not finite in either case.
        """
        if self.device.type != "cuda":
            loss = self._loss(batch)
            self.descend(loss)
            return loss.detach()
        self.set_rate()
        loss = self._replayed(batch)
        self.count_step()
        return loss

    def _step_on_gpu(self, batch: Batch) -> torch.Tensor:
        loss = self._loss(batch)
        norm = self.gradient(loss)
        self.optimizer.step()
        return loss.detach() + 0.0 * norm

    def _loss(self, batch: Batch) -> torch.Tensor:
        """The loss of a batch; discriminators take their own step for it."""
        forward = self.direction == "forward"
        given, *told = batch.given_to(self.network)
        wanted = batch.pattern if forward else batch.u
        if not forward:
            given = self._noisy(given)
        if self.kind == "vae":
            loss = self._autoencoder_loss(given, wanted, batch.tau)
        else:
            with mixed_precision(self.device):
                found = self.network(given, *told)
            if self.kind == "linenet":
                loss = (picture_loss if forward else potential_loss)(found, wanted)
            else:
                loss = self._pix2pix_loss(given, found, wanted, batch)
        return loss

    def _noisy(self, patterns: torch.Tensor) -> torch.Tensor:
        scale = patterns.std((1, 2), keepdim=True) * torch.rand_like(patterns[:, :1, :1])
        return patterns + self.config.noise * scale * torch.randn_like(patterns)

    def _autoencoder_loss(
        self, u: torch.Tensor, wanted: torch.Tensor, tau: torch.Tensor
    ) -> torch.Tensor:
        with mixed_precision(self.device):
            mean, log_variance = self.network.latent(u)
            latent = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
            found = self.network.decoded(latent, u.std((1, 2)), tau)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1).mean()
        return 0.5 * (1.0 - pearson(found, wanted)).mean() + _DIVERGENCE * divergence

    def _pix2pix_loss(
        self, given: torch.Tensor, found: torch.Tensor, wanted: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        plain = relative_difference(found, wanted)
        if self.judges is None:
            return plain
        # What is judged has the wanted picture's mean 0 and deviation 1.
        middle = wanted.mean((1, 2), keepdim=True)
        scale = wanted.std((1, 2), keepdim=True).clamp(min=1e-6)
        seen, real = normalised(given), (wanted - middle) / scale
        fake = (found - middle) / scale
        told = conditions(batch.tau, batch.u.std((1, 2)))
        with mixed_precision(self.device):
            judged = self.judges(seen, real, told)
            loss = discriminator_loss(judged, self.judges(seen, fake.detach(), told))
        self.judging.zero_grad(set_to_none=True)
        loss.backward()
        self.judging.step()
        self.judges.requires_grad_(False)
        with mixed_precision(self.device):
            with torch.no_grad():
                judged = self.judges(seen, real, told)
            loss = generator_loss(judged, self.judges(seen, fake, told), _MATCHING)
        self.judges.requires_grad_(True)
        return loss + _PLAIN * plain

    def save(self, metadata: dict[str, Any]) -> Path:
        """Write the averaged weights, and all that a resumed run needs."""
        save_network(self.average.module, self.weights_path, metadata)
        self.save_checkpoint()
        if self.judges is not None:
            weights.save(self._judges_path, self.judges.state_dict(), {})
        return self.weights_path

    def start_from(self, name_or_path: str) -> dict[str, Any]:
        """Begin with trained weights; return what is said of them.

        Raises
        ------
        ValueError
            If they are of another network, or were trained under another split.
        """
        trained = load_network(name_or_path)
        if trained.spec != self.network.spec or trained.name != self.network.name:
            raise ValueError(f"{name_or_path} are not weights of a {self.config.network}")
        if trained.metadata.get("split_rule") != SPLIT_RULE:
            raise ValueError(f"{name_or_path} was trained under another split of the materials")
        self.network.load_state_dict(trained.state_dict())
        self.average.module.load_state_dict(trained.state_dict())
        return trained.metadata

    def resume(self) -> None:
        """Go on from the checkpoint; the discriminators' optimiser starts anew."""
        super().resume()
        if self.judges is not None:
            self.judges.load_state_dict(weights.load(self._judges_path)[0])

    @property
    def _judges_path(self) -> Path:
        return self.output / "discriminators.safetensors"


def watched_likeness(
    network: nn.Module, data: LacbedData, members: np.ndarray, device: torch.device
) -> float:
    """Return the mean R of a network on some crystals, over all thicknesses."""
    network.eval()
    values = []
    chosen = members[:: max(1, len(members) // _WATCHED)]
    for number in range(len(data.thicknesses)):
        thickness = torch.full((len(chosen),), number)
        batch = batch_of(data, chosen, thickness)
        batch = batch.to(device)
        with torch.no_grad(), mixed_precision(device):
            found = network(*batch.given_to(network))
        forward = network.direction == "forward"
        wanted = batch.pattern if forward else at_best_origin(batch.u, found)
        values.append(likeness(found.float(), wanted))
    return float(torch.stack(values).mean())


def train(
    library: str | Path | list[str],
    output: str | Path,
    config: TrainConfig,
    *,
    device: str | torch.device | None = None,
    resume: bool = False,
    save_every_s: float = 300.0,
) -> Path:
    """Train a LACBED network and return the path of its weights.

    Parameters
    ----------
    library : str, Path or list of them
        Folders of shards from `library.simulate`.
    output : str or Path
        Folder for ``<network>.safetensors``, ``checkpoint.safetensors`` and ``log.jsonl``.
    config : TrainConfig
    device : str or torch.device, optional
        Default: the GPU if there is one.
    resume : bool
        Go on from the checkpoint in ``output``.
    save_every_s : float
        Seconds between checkpoints; an interrupted run leaves one too.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no library, or the checkpoint is of another config.
    RuntimeError
        If the loss is not finite; the weights of the last checkpoint stay.
    """
    data = LacbedData.read(library)
    parts = split_materials(data.formula, data.prototype)
    output, chosen = Path(output), pick_device(device)
    output.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, output, chosen, data.potential.shape[-1])
    if trainer.network.spec.half_width != data.half_width:
        raise ValueError(
            f"the library's patterns reach {data.half_width:g} a* from the axis, those of "
            f"{config.network} {trainer.network.spec.half_width:g}"
        )
    earlier: dict[str, Any] = {}
    if config.start_from is not None:
        earlier = trainer.start_from(config.start_from)
    if resume:
        trainer.resume()
    torch.manual_seed(int(np.random.SeedSequence([config.seed, trainer.step]).generate_state(1)[0]))
    metadata = {
        "training": {**asdict(config), "start_from": earlier.get("sha256")},
        "split_rule": SPLIT_RULE, "energy_ev": data.energy_ev, "absorption": data.absorption,
        "range_a": [float(data.a[parts["train"]].min()), float(data.a[parts["train"]].max())],
        "thicknesses": list(data.thicknesses), "crystals": len(parts["train"]),
        "earlier": {key: earlier[key] for key in _EARLIER if key in earlier},
    }  # fmt: skip
    stream = Stream(data, parts["train"], config, trainer.step)
    try:
        _follow(trainer, stream, metadata, parts["validation"], save_every_s)
    except KeyboardInterrupt:
        trainer.save(trainer.described(metadata))
        logger.info("interrupted at step %d, which --resume goes on from", trainer.step)
        raise
    return trainer.save(trainer.described(metadata))


def _follow(
    trainer: Trainer, stream: Stream, metadata: dict[str, Any], watched: np.ndarray,
    save_every_s: float,
) -> None:  # fmt: skip
    def step(batch: Batch) -> dict[str, torch.Tensor]:
        return {"loss": trainer.train_step(batch)}

    def save() -> None:
        trainer.save(trainer.described(metadata))
        if len(watched):
            average = trainer.average.module
            value = watched_likeness(average, stream.data, watched, trainer.device)
            trainer.log(watched=value)
            logger.info("R %.4f on the validation crystals", value)

    trainer.network.train()
    trainer.follow(stream, step, save, save_every_s=save_every_s)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``py4dstem-ml train lacbed``."""
    defaults = TrainConfig()
    add_run_arguments(parser, defaults)
    parser.add_argument("--library", required=True, nargs="+", help="folders of shards")
    parser.add_argument("--network", choices=sorted(SPECS), default=defaults.network)
    parser.add_argument(
        "--plain", action="store_true", help="a pix2pix generator without discriminators"
    )
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--start-from", help="trained weights to begin with")


def run(args: Namespace) -> None:
    """Run ``py4dstem-ml train lacbed``."""
    config = TrainConfig(
        network=args.network, adversarial=not args.plain, batch_size=args.batch_size,
        learning_rate=args.learning_rate, steps=args.steps, time_limit_s=args.time_limit,
        seed=args.seed, start_from=args.start_from,
    )  # fmt: skip
    path = train(args.library, args.output, config, device=args.device, resume=args.resume)
    logger.info("weights: %s", path)
