"""What all training runs share: schedule, average of weights, checkpoints, log, prefetching."""

from __future__ import annotations

import json
import logging
import math
import time
from argparse import ArgumentParser
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from . import weights
from .replay import replayable

if TYPE_CHECKING:
    from typing import Self

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Steps between lines of the log.
_REPORTED = 100

#: What a resumed run may change.
_LENGTH = ("steps", "time_limit_s")


class TensorBatch:
    """What dataclasses of tensors share."""

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device."""
        return type(self)(*(value.to(device) for value in vars(self).values()))


class RunConfig(Protocol):
    """What a run needs to know; see `disks.train.TrainConfig`."""

    learning_rate: float
    weight_decay: float
    clip: float
    warmup: float
    averaging: float
    steps: int
    time_limit_s: float | None
    seed: int


class Run:
    """The state of a run: network, its average, optimiser, step and seconds spent.

    Parameters
    ----------
    network : torch.nn.Module
    config : RunConfig
        A dataclass.
    output : Path
        Folder for ``checkpoint.safetensors`` and ``log.jsonl``.
    device : torch.device
    """

    #: Whether steps on a GPU are recorded and replayed, see `replay`.
    replays: ClassVar[bool] = False

    def __init__(self, network: nn.Module, config: Any, output: Path, device: torch.device) -> None:
        self.config, self.output, self.device = config, output, device
        self.network = network.to(device)
        self.average = torch.optim.swa_utils.AveragedModel(self.network, use_buffers=True)
        rate = config.learning_rate
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), weight_decay=config.weight_decay,
            **(replayable(rate, device) if self.replays else {"lr": rate}),
        )  # fmt: skip
        self.step, self.seconds = 0, 0.0

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        by_step = self.step / self.config.steps
        if self.config.time_limit_s is None:
            return by_step
        return max(by_step, self.seconds / self.config.time_limit_s)

    def learning_rate(self) -> float:
        """Return the rate at this point of the run: a rise, then a cosine."""
        warmup = self.config.warmup
        if self.progress < warmup:
            return self.config.learning_rate * max(self.progress, 1e-4) / warmup
        phase = min(1.0, (self.progress - warmup) / (1.0 - warmup))
        return self.config.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * phase)))

    def descend(self, loss: torch.Tensor) -> None:
        """Take one step against a loss.

        Raises
        ------
        RuntimeError
            If the loss or its gradient is not finite; no weight has changed then.
        """
        self.set_rate()
        norm = self.gradient(loss)
        # The gradient is the mean over all processes: they stop together.
        self._refuse_infinite(float(loss.detach()), float(norm))
        self.optimizer.step()
        self.count_step()

    def set_rate(self) -> None:
        """Give the optimiser the learning rate of this point of the run."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(self.learning_rate())
            else:
                group["lr"] = self.learning_rate()

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        """Compute the gradient of a loss, clip it, and return what its norm was."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)

    @torch.no_grad()
    def count_step(self) -> None:
        """Count a step that was taken, and move the average.

        It moves quickly at first, so that it soon forgets the random start.
        """
        share = max(1.0 - self.config.averaging, 9.0 / (10.0 + self.step)) if self.step else 1.0
        floating, others = self._averaged
        torch._foreach_lerp_(*floating, share)
        for mine, new in zip(*others, strict=True):
            mine.copy_(new)
        self.average.n_averaged += 1
        self.step += 1

    @cached_property
    def _averaged(self) -> tuple[tuple[list[torch.Tensor], list[torch.Tensor]], ...]:
        """Averages and what they follow: floating-point tensors, and others."""
        pairs = [
            [*chain(module.parameters(), module.buffers())]
            for module in (self.average.module, self.network)
        ]
        kinds = ([], []), ([], [])
        for mine, new in zip(*pairs, strict=True):
            averages, news = kinds[0 if mine.is_floating_point() else 1]
            averages.append(mine)
            news.append(new)
        return kinds

    def _refuse_infinite(self, loss: float, norm: float | None = None) -> None:
        if not math.isfinite(loss + (norm or 0.0)):
            gradient = "" if norm is None else f", its gradient's norm {norm:g}"
            raise RuntimeError(
                f"the loss is {loss:g} at step {self.step}{gradient}: the weights in {self.output} "
                "are those of the last checkpoint; start again with a lower learning rate"
            )

    def follow(
        self,
        batches: Iterable[T],
        step: Callable[[T], dict[str, float | torch.Tensor]],
        save: Callable[[], Any],
        *,
        save_every_s: float,
        watch: Callable[[], dict[str, float]] = dict,
        writes: bool = True,
        clock: Callable[[float], float] = float,
    ) -> None:
        """Take steps until the run is done; log their mean losses, and save from time to time.

        Parameters
        ----------
        batches : iterable
            Endless.
        step : callable
            Takes one step with a batch and returns its losses by name. On a GPU these are best
            left there, as tensors: they are read when they are logged.
        save : callable
        save_every_s : float
        watch : callable
            Returns further values for each line of the log.
        writes : bool
            False: another process logs and saves.
        clock : callable
            Makes of this process's seconds those that all go by.

        Raises
        ------
        RuntimeError
            If a loss is not finite; nothing is saved after it.
        """
        started, saved = time.monotonic() - self.seconds, time.monotonic()
        losses: list[dict[str, float | torch.Tensor]] = []
        try:
            for batch in batches:
                if self.progress >= 1.0:
                    break
                losses.append(step(batch))
                self.seconds = clock(time.monotonic() - started)
                if self.step % _REPORTED == 0:
                    means = self._means(losses)
                    if writes:
                        self._report({**means, **watch()})
                    losses = []
                if writes and time.monotonic() - saved > save_every_s:
                    self._means(losses)
                    save()
                    saved = time.monotonic()
        finally:  # an interrupted run is saved, too
            self._means(losses)

    def _means(self, losses: list[dict[str, float | torch.Tensor]]) -> dict[str, float]:
        """Mean losses by name, which must be finite."""
        names = losses[0] if losses else ()
        means = {name: float(np.mean([float(row[name]) for row in losses])) for name in names}
        self._refuse_infinite(sum(means.values()))
        return means

    def _report(self, values: dict[str, float]) -> None:
        self.log(**values)
        logger.info(
            "step %d, %.0f s, %s, %.0f %% done", self.step, self.seconds,
            ", ".join(f"{name} {value:.4g}" for name, value in values.items()),
            100 * self.progress,
        )  # fmt: skip

    def described(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """Return what is said of weights, and how long and on how many patterns they were trained.

        The config has a ``batch_size``.
        """
        seen = self.step * self.config.batch_size
        return {**metadata, "patterns_seen": seen, "seconds": round(self.seconds)}

    def log(self, **losses: float) -> None:
        """Add a line to ``log.jsonl``."""
        row = {
            "step": self.step, "seconds": round(self.seconds, 1), **losses,
            "learning_rate": self.learning_rate(),
        }  # fmt: skip
        with (self.output / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def save_checkpoint(self) -> None:
        """Write all that a resumed run needs."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
        tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        weights.save(
            self.output / "checkpoint.safetensors", tensors,
            {"step": self.step, "seconds": self.seconds, "config": asdict(self.config)},
        )  # fmt: skip

    def resume(self) -> None:
        """Go on from the checkpoint of the output folder.

        Raises
        ------
        ValueError
            If it was made with another config; only the length of the run may differ.
        """
        tensors, state = weights.load(self.output / "checkpoint.safetensors")
        config = json.loads(json.dumps(asdict(self.config)))  # tuples as the file has them
        differing = [
            f"{name} ({state['config'].get(name)} in the checkpoint, not {value})"
            for name, value in config.items()
            if name not in _LENGTH and state["config"].get(name) != value
        ]
        if differing:
            raise ValueError(f"{self.output} cannot be resumed with another {', '.join(differing)}")
        groups: dict[str, dict[str, torch.Tensor]] = {"network": {}, "average": {}}
        optimizer_state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            part, rest = key.split(".", 1)
            if part == "optimizer":
                index, name = rest.split(".", 1)
                optimizer_state.setdefault(int(index), {})[name] = value
            else:
                groups[part][rest] = value
        self.network.load_state_dict(groups["network"])
        self.average.load_state_dict(groups["average"])
        optimizer = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**optimizer, "state": optimizer_state})
        for parameter, moments in self.optimizer.state.items():
            for name, value in moments.items():
                if value.shape == parameter.shape:  # in its memory format, which files do not keep
                    moments[name] = torch.empty_like(parameter).copy_(value)
        self.step, self.seconds = int(state["step"]), float(state["seconds"])


def add_run_arguments(parser: ArgumentParser, defaults: RunConfig) -> None:
    """Declare the options of a command that all runs have."""
    parser.add_argument("--output", required=True, help="folder for weights, checkpoint and log")
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--time-limit", type=float, help="seconds; the run ends in time")
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")


def prefetched(items: Iterable[T], ahead: int = 4) -> Generator[T, None, None]:
    """Yield items that another thread makes, while these are worked on.

    Each of the two has half of torch's threads meanwhile.

    Parameters
    ----------
    items : iterable
        May be endless; an error of its is raised here.
    ahead : int
        Items that wait at most.

    Examples
    --------
    >>> list(prefetched(range(3)))
    [0, 1, 2]
    """
    iterator, end = iter(items), object()
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, iterator, end) for _ in range(ahead))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, iterator, end))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)
