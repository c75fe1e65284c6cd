"""Training steps on a GPU that are recorded once, then replayed without what Python costs.

Small networks spend their time in launching kernels: replayed, their steps are two to four times
as fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

#: Steps before one is recorded, in which libraries choose their kernels.
_ORDINARY = 3

T = TypeVar("T")


class ReplayedStep(Generic[T]):
    """A training step on a GPU: the first few are ordinary ones, the next is recorded.

    Parameters
    ----------
    step : callable
        Takes a step with a batch and returns its loss, all on the GPU: it must not read a number
        back, and its optimisers have the options of `replayable`.
    device : torch.device
    """

    def __init__(self, step: Callable[[T], torch.Tensor], device: torch.device) -> None:
        self._step, self._device = step, device
        self._batch: T | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._taken = 0

    def __call__(self, batch: T) -> torch.Tensor:
        """Take the step with a batch, and return its loss.

        Raises
        ------
        ValueError
            If the batch has other shapes than the first.
        """
        self._receive(batch)
        self._taken += 1
        if self._taken <= _ORDINARY:
            return self._aside(lambda: self._step(self._batch))
        if self._graph is None:
            self._aside(self._record)
        self._graph.replay()
        return self._loss.clone()

    def _receive(self, batch: T) -> None:
        """Copy a batch to where the recorded step finds it."""
        if self._batch is None:
            self._batch = type(batch)(
                *(value.to(self._device, copy=True) for value in vars(batch).values())
            )
            return
        for name, mine in vars(self._batch).items():
            value = getattr(batch, name)
            if value.shape != mine.shape:
                raise ValueError(
                    f"a replayed step takes {name} of the shape {tuple(mine.shape)}, as the first "
                    f"batch had, not {tuple(value.shape)}"
                )
            mine.copy_(value)

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            self._loss = self._step(self._batch)
        self._graph = graph

    def _aside(self, work: Callable[[], Any]) -> Any:
        """Work on a stream of its own, as what is recorded must be, and what prepares it."""
        here = torch.cuda.current_stream(self._device)
        if self._taken == 1:
            self._stream = torch.cuda.Stream(self._device)
        self._stream.wait_stream(here)
        # Batches of a run are of one size: what cuDNN finds fastest once stays so.
        before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        try:
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                found = work()
        finally:
            torch.backends.cudnn.benchmark = before
        here.wait_stream(self._stream)
        return found


def replayable(learning_rate: float, device: torch.device) -> dict[str, Any]:
    """Return the options of an optimiser whose steps can be replayed; on a CPU just its rate."""
    if device.type != "cuda":
        return {"lr": learning_rate}
    rate = torch.tensor(learning_rate, device=device)
    return {"lr": rate, "fused": True, "capturable": True}
