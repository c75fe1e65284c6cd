"""Predictions of the network for peak lists: batches, bags of any size, calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..compute import mixed_precision
from .calibration import sharpened
from .crystal_classes import SYSTEM_OF_GROUP
from .lists import BraggLists, place_within
from .network import PeakSetNet, Reading
from .prediction import CrystalPrediction, read_in_blocks, top_two

#: Lists that go through the network together.
_LISTS_AT_ONCE = 512
#: Lists that are pooled by attention together: the training knew up to 12. More are pooled in
#: parts, whose probabilities are averaged.
_BAG = 16
#: Of a Laplace distribution of mean error b, half the width of the central 68 % is 1.14 b.
_CENTRAL = 1.14


@dataclass(frozen=True, eq=False)
class PeakSetReader:
    """The network of one weights file, as `RadialForests` are the forests of one.

    Examples
    --------
    >>> reader = PeakSetReader(load_network("peakset.v2"))  # doctest: +SKIP
    >>> reader.read(lists).system  # doctest: +SKIP
    """

    network: PeakSetNet

    @property
    def metadata(self) -> dict:
        """What was said of the weights when they were saved."""
        return self.network.metadata

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
            Without effect: they cost a network nothing.
        """
        return read_in_blocks(lists, system, self._read, size=_LISTS_AT_ONCE)

    def _read(self, lists: BraggLists, system: npt.NDArray[np.int64] | None) -> CrystalPrediction:
        embedded, _ = self._embedded(lists)
        return self._prediction(self._run(self.network.read, embedded), "single", system)

    def pool(self, lists: BraggLists, bag: npt.NDArray[np.int64]) -> CrystalPrediction:
        """Read bags of lists of one crystal each; ``bag`` says which each list is in."""
        part, owner = _parts(bag)
        order = np.argsort(part, kind="stable")
        starts = np.searchsorted(part[order], np.arange(len(owner) + 1))
        readings = []
        step = _LISTS_AT_ONCE // _BAG
        for first in range(0, len(owner), step):
            last = min(first + step, len(owner))
            rows = order[starts[first] : starts[last]]
            embedded, features = self._embedded(lists.take(rows))
            place = part[rows] - first
            rank = place_within(np.diff(starts[first : last + 1]))
            index = torch.zeros(last - first, _BAG, dtype=torch.int64)
            present = torch.zeros(last - first, _BAG)
            index[place, rank], present[place, rank] = torch.arange(len(rows)), 1.0
            index, present = index.to(embedded.device), present.to(embedded.device)
            bags = (embedded[index], features[index], present)
            readings.append(self._run(self.network.pool, *bags))
        joined = Reading(*(torch.cat(values) for values in zip(*readings, strict=True)))
        return self._prediction(_averaged(joined, owner), "pooled")

    def _embedded(self, lists: BraggLists) -> tuple[torch.Tensor, torch.Tensor]:
        peaks = lists.by_intensity().padded(self.network.spec.invariants.spots)
        device = next(self.network.parameters()).device
        features = self._run(self.network.features, torch.from_numpy(peaks).to(device))
        return self._run(self.network.embed, features), features

    def _run(self, function: Callable, *tensors: torch.Tensor) -> Any:
        with torch.inference_mode(), mixed_precision(tensors[0].device):
            return function(*tensors)

    def _prediction(
        self, reading: Reading, of: str, system: npt.NDArray[np.int64] | None = None
    ) -> CrystalPrediction:
        found = CrystalPrediction.nothing(len(reading.system))
        found.valid[:] = True
        sharpness = float(self.metadata.get("calibration", {}).get(of, 1.0))
        found.probabilities = sharpened(reading.system.exp().cpu().numpy(), sharpness)
        found.confidence, found.difference = top_two(found.probabilities)
        system = found.system.astype(np.int64) if system is None else system
        rows = np.arange(len(system))
        outside = system[:, None] != SYSTEM_OF_GROUP
        group = np.where(outside, -np.inf, reading.group.cpu().numpy())
        found.space_group[:] = 1 + group.argmax(1)
        confidence, difference = top_two(np.exp(group))
        found.space_group_confidence, found.space_group_difference = confidence, difference
        found.lattice = np.exp(reading.lattice.cpu().numpy()[rows, system])
        spread = _CENTRAL * np.exp(reading.spread.cpu().numpy()[rows, system])
        found.lattice_spread = found.lattice * spread
        found.mixed = reading.mixed.sigmoid().cpu().numpy()
        return found


def _parts(bag: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], torch.Tensor]:
    """Split bags into parts of even size, `_BAG` at most.

    Returns the part that each list is in, and the bag of each part. Neighbours go to different
    parts, so that each sees the whole bag.
    """
    part = np.empty(len(bag), dtype=np.int64)
    owner: list[int] = []
    order = np.argsort(bag, kind="stable")
    starts = np.flatnonzero(np.diff(bag[order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        count = -(-len(rows) // _BAG)
        part[rows] = len(owner) + np.arange(len(rows)) % count
        owner += [int(bag[rows[0]])] * count
    return part, torch.tensor(owner)


def _averaged(reading: Reading, owner: torch.Tensor) -> Reading:
    """Average the readings of the parts of each bag: probabilities, and logarithms of lengths."""
    bags = int(owner.max()) + 1
    owner = owner.to(reading.system.device)
    count = torch.bincount(owner, minlength=bags).float()

    def mean(values: torch.Tensor) -> torch.Tensor:
        total = values.new_zeros(bags, *values.shape[1:]).index_add_(0, owner, values)
        return total / count.reshape(-1, *[1] * (values.dim() - 1))

    return Reading(
        mean(reading.system.exp()).log(), mean(reading.group.exp()).log(), mean(reading.lattice),
        mean(reading.spread), mean(reading.mixed.sigmoid()).logit(),
    )  # fmt: skip
