"""Probabilities that mean what they say: sharpened until they are right as often as they claim."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .crystal_classes import SYSTEMS
from .lists import place_within

if TYPE_CHECKING:
    from ..physics.structures import CrystalTable
    from .dataset import SplitName
    from .prediction import Model

logger = logging.getLogger(__name__)

#: Crystals of one prototype that models are calibrated on.
_OF_A_PROTOTYPE = 3


def calibrate(
    model: Model, library: str | Path, table: CrystalTable, split: SplitName
) -> dict[str, float]:
    """Return the powers that calibrate a model, for single lists and bags.

    Parameters
    ----------
    model : Model
        As yet uncalibrated.
    library, table, split
        What it was trained on. It is calibrated on the crystals that were kept for validation:
        neither trained on nor judged by. Where the library has none, the powers are 1.
    """
    from ..physics.structures import prototype_class
    from .dataset import HeldOutLists, Labels, ListSet, one_a_zone, split_materials

    labels = Labels.of(table)
    classes = np.array([prototype_class(name) for name in table.prototype.tolist()])
    kept = _few_of_each(split_materials(table, split)["validation"], classes)
    try:
        lists = ListSet.read(library, kept)
    except FileNotFoundError:
        logger.warning("%s has no crystals for validation: not calibrated", library)
        return {"single": 1.0, "pooled": 1.0}
    test = HeldOutLists.of(one_a_zone(lists, (50.0, 1000.0)), labels)
    # As many of each system as there are in the table, whatever the few prototypes happen to be.
    wanted, found = (np.bincount(s, minlength=len(SYSTEMS)) for s in (labels.system, test.system))
    weight = (wanted / np.maximum(found, 1))[test.system]
    single, pooled = model.read(test.lists), model.pool(test.lists, test.bag)
    of_list = test.system[test.bag]
    return {
        "single": best_sharpness(single.probabilities, of_list, weight[test.bag]),
        "pooled": best_sharpness(pooled.probabilities, test.system, weight),
    }


def _few_of_each(
    materials: npt.NDArray[np.int64], prototype: npt.NDArray[np.str_]
) -> npt.NDArray[np.int64]:
    """Up to `_OF_A_PROTOTYPE` crystals of each prototype: some have hundreds."""
    order = materials[np.argsort(prototype[materials], kind="stable")]
    names = prototype[order]
    starts = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1]]))
    place = place_within(np.diff(np.append(starts, len(order))))
    return np.sort(order[place < _OF_A_PROTOTYPE])


def sharpened(probabilities: npt.NDArray, sharpness: float) -> npt.NDArray[np.float32]:
    """Return probabilities to a power, normalised: how they are calibrated."""
    logs = sharpness * np.log(np.clip(probabilities, 1e-6, 1.0))
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def best_sharpness(
    probabilities: npt.NDArray, label: npt.NDArray, weight: npt.NDArray | None = None
) -> float:
    """Return the power for which the true labels, shape (n,), are likeliest."""
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(label))

    def loss(log_power: float) -> float:
        chosen = sharpened(probabilities, np.exp(log_power))[rows, label]
        return float(-np.average(np.log(np.clip(chosen, 1e-9, 1.0)), weights=weight))

    return float(np.exp(minimize_scalar(loss, bounds=(-2.5, 2.5), method="bounded").x))


def reliability(
    probabilities: npt.NDArray, label: npt.NDArray, bins: int = 10
) -> tuple[npt.NDArray, npt.NDArray, npt.NDArray]:
    """Return how often calls of a certain probability are right.

    Returns
    -------
    probability, accuracy, share : ndarray, shape (bins,)
        Mean probability of the called class, share of calls that are right (NaN where there is
        none), and share of all calls, in bins of equal width. The expected calibration error is
        the sum of share times the difference of the first two.
    """
    called = probabilities.max(1)
    right = probabilities.argmax(1) == label
    place = np.minimum((called * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    filled = np.where(count, count, 1)
    mean = np.where(count, np.bincount(place, called, bins) / filled, np.nan)
    accuracy = np.where(count, np.bincount(place, right, bins) / filled, np.nan)
    return mean, accuracy, count / max(1, len(label))


def calibration_error(probabilities: npt.NDArray, label: npt.NDArray) -> float:
    """Return the expected calibration error, see `reliability`."""
    mean, accuracy, share = reliability(probabilities, label)
    return float(np.nansum(share * np.abs(mean - accuracy)))
