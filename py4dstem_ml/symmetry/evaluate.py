"""Measure models on held-out material: the paper's table, ours, and what real lists do to them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from ..physics.structures import cached_table
from ..progress import progress_bar
from ..tables import Row, markdown_table
from .calibration import calibration_error
from .crystal_classes import SYSTEMS
from .dataset import (
    SPLIT_RULES,
    HeldOutLists,
    Labels,
    ListSet,
    SplitName,
    one_a_zone,
    split_materials,
)
from .lists import BraggLists, normalised
from .predict import load_model
from .prediction import MIN_PEAKS, CrystalPrediction, Model

_ENERGY = 300e3
#: Share of a pattern's intensity that a second grain has.
_SECOND = 0.3
_TRICLINIC = SYSTEMS.index("triclinic")
#: What the paper reports (PR Materials 8, 093802), at 300 kV and 20 nm under its own split, where
#: formulas and prototypes are shared between train and test.
_PAPER_ACCURACY: tuple[Row, ...] = (
    {
        "read": "single", "n": 859656, "6 systems": 0.67, "7 systems": 0.63,
        "confidence right": 0.55, "confidence wrong": 0.38,
    },
    {
        "read": "zones", "n": 8549, "6 systems": 0.79, "confidence right": 0.88,
        "confidence wrong": 0.66,
    },
)  # fmt: skip
_PAPER_BY_SYSTEM: dict[str, Row] = {
    "cubic": {"group, single": "0.9", "|da| Å, single": 0.03, "|da| Å, zones": 0.02},
    **{
        name: {
            "group, single": "0.5-0.7", "group, zones": "0.7-0.9", "|da| Å, single": 0.1,
            "|da| Å, zones": 0.067, "|dc| Å, single": c_single, "|dc| Å, zones": c_zones,
        }
        for name, c_single, c_zones in (
            ("hexagonal", "0.26", 0.14), ("trigonal", "0.5-0.6", 0.40),
            ("tetragonal", "0.5-0.6", 0.26),
        )
    },
    "orthorhombic": {"group, zones": 0.40, "group if right, zones": 0.56},
    "monoclinic": {"group, zones": 0.45, "group if right, zones": 0.63},
}  # fmt: skip


def without_spots(share: float, seed: int = 0) -> Callable[[BraggLists, npt.NDArray], BraggLists]:
    """Return what loses a share of the spots of each list, at random, but no list all of them."""

    def disturb(lists: BraggLists, bag: npt.NDArray) -> BraggLists:
        kept = np.random.default_rng(seed).random(len(lists.peaks)) >= share
        few = np.bincount(lists.owner, kept, len(lists)) < MIN_PEAKS
        return lists.keep(kept | few[lists.owner])

    return disturb


def with_spurious(share: float, seed: int = 0) -> Callable[[BraggLists, npt.NDArray], BraggLists]:
    """Return what adds spots anywhere within 2 1/Å, of the intensity of one of the list's own."""

    def disturb(lists: BraggLists, bag: npt.NDArray) -> BraggLists:
        rng = np.random.default_rng(seed)
        copied = np.flatnonzero(rng.random(len(lists.peaks)) < share)
        q = 2.0 * np.sqrt(rng.random(len(copied)))
        angle = 2.0 * np.pi * rng.random(len(copied))
        added = np.column_stack([q * np.cos(angle), q * np.sin(angle), lists.peaks[copied, 2]])
        owner = np.concatenate([lists.owner, lists.owner[copied]])
        order = np.argsort(owner, kind="stable")
        peaks = np.concatenate([lists.peaks, added.astype(lists.peaks.dtype)])[order]
        counts = np.bincount(owner, minlength=len(lists))
        return BraggLists(peaks, np.concatenate([[0], np.cumsum(counts)]))

    return disturb


def miscalibrated(error: float, seed: int = 0) -> Callable[[BraggLists, npt.NDArray], BraggLists]:
    """Return what makes the pixel of each crystal's lists larger or smaller by this share."""

    def disturb(lists: BraggLists, bag: npt.NDArray) -> BraggLists:
        sign = np.random.default_rng(seed).choice([-1.0, 1.0], int(bag.max()) + 1)
        peaks = lists.peaks.copy()
        peaks[:, :2] *= (1.0 + error * sign[bag])[lists.owner, None]
        return BraggLists(peaks, lists.offsets)

    return disturb


def with_second_grain(
    share: float, seed: int = 0
) -> Callable[[BraggLists, npt.NDArray], BraggLists]:
    """Return what adds another list's spots to each, with this share of the intensity."""

    def disturb(lists: BraggLists, bag: npt.NDArray) -> BraggLists:
        first = normalised(lists)
        second = first.take(np.random.default_rng(seed).permutation(len(lists)))
        parts = [
            np.concatenate([first[i] * [1, 1, 1 - share], second[i] * [1, 1, share]])
            for i in range(len(lists))
        ]
        return BraggLists.pack(parts)

    return disturb


def conditions(lists: ListSet, labels: Labels) -> dict[str, HeldOutLists]:
    """Return the paper's test, 300 kV and 20 nm, its disturbances, and other conditions."""
    of_paper = lists.energy_ev == _ENERGY
    clean = HeldOutLists.of(one_a_zone(lists.take(of_paper), 200.0), labels)
    tests = {
        "300 kV, 20 nm": clean,
        "80 to 200 kV, 20 nm": HeldOutLists.of(one_a_zone(lists.take(~of_paper), 200.0), labels),
        "5 to 100 nm": HeldOutLists.of(one_a_zone(lists, (50.0, 1000.0)), labels),
        "one axis, tilts and thicknesses": HeldOutLists.of(lists.take(lists.axis == 0), labels),
        "30 % of spots missing": clean.disturbed(without_spots(0.3)),
        "20 % spurious spots": clean.disturbed(with_spurious(0.2)),
        "calibration off by 2 %": clean.disturbed(miscalibrated(0.02)),
    }
    return {name: test for name, test in tests.items() if len(test.bag)}


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model reads of a test, list by list and crystal by crystal."""

    test: HeldOutLists
    single: CrystalPrediction
    zones: CrystalPrediction

    @classmethod
    def of(cls, model: Model, test: HeldOutLists) -> Scores:
        """Let a model read a test."""
        return cls(test, model.read(test.lists), model.pool(test.lists, test.bag))

    def of_kind(self, kind: str) -> tuple[CrystalPrediction, npt.NDArray[np.int64]]:
        """Return the predictions "single" or "zones", and the crystal of each."""
        if kind == "single":
            return self.single, self.test.bag
        return self.zones, np.arange(len(self.test.system))


def accuracy(
    found: CrystalPrediction, truth: npt.NDArray[np.int64], *, triclinic: bool
) -> tuple[float, float]:
    """Return plain and balanced accuracy.

    Without triclinic, neither such crystals count nor such calls.
    """
    probabilities = found.probabilities
    if not triclinic:
        probabilities = probabilities[truth != _TRICLINIC, :_TRICLINIC]
        truth = truth[truth != _TRICLINIC]
    right = probabilities.argmax(1) == truth
    return float(right.mean()), float(np.mean([right[truth == s].mean() for s in np.unique(truth)]))


def accuracy_rows(name: str, condition: str, scores: Scores) -> list[dict]:
    """Return a row of the table for single lists and one for ten zones."""
    rows = []
    for kind in ("single", "zones"):
        found, crystal = scores.of_kind(kind)
        truth = scores.test.system[crystal]
        six, seven = (accuracy(found, truth, triclinic=t) for t in (False, True))
        right = found.system == truth
        rows.append({
            "model": name, "condition": condition, "read": kind, "n": len(truth),
            "6 systems": six[0], "balanced": six[1], "7 systems": seven[0], "balanced 7": seven[1],
            "confidence right": _mean(found.confidence[right]),
            "confidence wrong": _mean(found.confidence[~right]),
            "calibration error": calibration_error(found.probabilities, truth),
        })  # fmt: skip
    return rows


def confusion(found: CrystalPrediction, truth: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the share of calls of each system among the lists of each, shape (7, 7)."""
    counts = np.zeros((len(SYSTEMS), len(SYSTEMS)))
    np.add.at(counts, (truth, found.system), 1)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def system_rows(name: str, scores: Scores) -> list[dict]:
    """Return space group and lattice by system, over what is called that system as in the paper."""
    rows = []
    for number, system in enumerate(SYSTEMS):
        row: dict = {"model": name, "called": system}
        for kind in ("single", "zones"):
            found, crystal = scores.of_kind(kind)
            called = found.system == number
            right = called & (scores.test.system[crystal] == number)
            group = found.space_group == scores.test.group[crystal]
            errors = np.abs(found.lattice - scores.test.lattice[crystal])
            row |= {
                f"precision, {kind}": _mean(right[called]), f"group, {kind}": _mean(group[called]),
                f"group if right, {kind}": _mean(group[right]),
                **{
                    f"|d{axis}| Å, {kind}": _median(errors[called, i])
                    for i, axis in enumerate("abc")
                },
            }  # fmt: skip
        rows.append(row)
    return rows


def _mean(values: npt.NDArray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _median(values: npt.NDArray) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def second_grain_row(name: str, scores: Scores, mixed: CrystalPrediction) -> dict:
    """Return how well patterns with a second grain are told from those without.

    Parameters
    ----------
    name : str
    scores : Scores
        Of patterns of one grain.
    mixed : CrystalPrediction
        Of patterns of two.
    """
    one, two = scores.single.mixed, mixed.mixed
    rank = rankdata(np.concatenate([one, two])) - 1.0  # ties count half
    above = rank[len(one) :].sum() - len(two) * (len(two) - 1) / 2
    return {
        "model": name, "flagged, two grains": float((two > 0.5).mean()),
        "flagged, one grain": float((one > 0.5).mean()),
        "two above one": float(above / (len(one) * len(two))),
    }  # fmt: skip


def report(models: Mapping[str, Model], tests: Mapping[str, HeldOutLists]) -> str:
    """Return the tables of some models, as markdown."""
    first = next(iter(tests))
    rows, by_system, matrices, grains = [], [], [], []
    for name, model in models.items():
        for condition, test in progress_bar(tests.items(), description=name):
            scores = Scores.of(model, test)
            rows += accuracy_rows(name, condition, scores)
            if condition == first:
                by_system += system_rows(name, scores)
                matrices += [_matrix(name, kind, scores) for kind in ("single", "zones")]
                if not np.isnan(scores.single.mixed).any():
                    two = test.disturbed(with_second_grain(_SECOND)).lists
                    grains.append(second_grain_row(name, scores, model.read(two)))
    columns, system_columns = list(rows[0]), list(by_system[0])
    rows += [{"model": "paper", "condition": "its split", **row} for row in _PAPER_ACCURACY]
    by_system += [
        {"model": "paper", "called": name, **row} for name, row in _PAPER_BY_SYSTEM.items()
    ]
    parts = ["### Crystal system", markdown_table(rows, columns)]
    parts += [f"### Space group and lattice, {first}", markdown_table(by_system, system_columns)]
    if grains:
        head = f"### Second grain, {100 * _SECOND:.0f} % of the intensity; flagged above 0.5"
        parts += [head, markdown_table(grains, list(grains[0]))]
    return "\n\n".join([*parts, *matrices])


def _matrix(name: str, kind: str, scores: Scores) -> str:
    found, crystal = scores.of_kind(kind)
    shares = confusion(found, scores.test.system[crystal])
    rows = [
        {"true": system, **dict(zip(SYSTEMS, row.tolist(), strict=True))}
        for system, row in zip(SYSTEMS, shares, strict=True)
    ]
    return f"### Called, as a share of what is true: {name}, {kind}\n\n" + markdown_table(
        rows, ["true", *SYSTEMS]
    )


def describe(model: Model) -> str:
    """Return what a model was trained on, in a line."""
    data = model.metadata
    training = data.get("training", {})
    return (
        f"trained on {data.get('trained_lists', 0):,} lists of "
        f"{data.get('trained_materials', 0):,} crystals, "
        f"{training.get('split', 'unknown')} split, {data.get('seconds', 0):,} s"
    )


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``py4dstem-ml evaluate symmetry``."""
    parser.add_argument("--library", required=True, help="folder of shards")
    parser.add_argument("--structures", required=True, help="table of crystals (.npz)")
    parser.add_argument("--model", nargs="+", required=True, help="names or files of weights")
    parser.add_argument("--split", choices=("strict", "paper"), default="strict")
    parser.add_argument("--materials", type=int, help="crystals of the test part; default: all")
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--output", type=Path, help="write the tables here, too")
    parser.add_argument("--figure", type=Path, help="draw how reliable the probabilities are")


def run(args: Namespace) -> str:
    """Run ``py4dstem-ml evaluate symmetry``."""
    table = cached_table(args.structures)
    materials = np.random.default_rng(0).permutation(split_materials(table, args.split)["test"])
    models = {str(name): load_model(name, args.device) for name in args.model}
    for name, model in models.items():
        refuse_other_split(name, model, args.split)
    lists = ListSet.read(args.library, materials[: args.materials])
    tests = conditions(lists, Labels.of(table))
    head = [f"{args.split} split, {len(np.unique(lists.material)):,} crystals"]
    head += [f"- {name}: {describe(model)}" for name, model in models.items()]
    text = "\n\n".join(["\n".join(head), report(models, tests)])
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text + "\n", "utf-8")
    if args.figure:
        _draw(models, next(iter(tests.values())), args.figure)
    return text


def _draw(models: Mapping[str, Model], test: HeldOutLists, path: Path) -> None:
    from matplotlib import pyplot

    from .plot import plot_reliability

    fig, ax = pyplot.subplots(layout="constrained")
    for name, model in models.items():
        scores = Scores.of(model, test)
        for kind in ("single", "zones"):
            found, crystal = scores.of_kind(kind)
            truth = test.system[crystal]
            plot_reliability(found.probabilities, truth, ax, name=f"{name}, {kind}")
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=120)
    pyplot.close(fig)


def refuse_other_split(name: str, model: Model, split: SplitName) -> None:
    """Refuse a model that saw some of the split's test crystals.

    Raises
    ------
    ValueError
        If it was trained under another split, or another version of it.
    """
    trained = model.metadata.get("training", {}).get("split")
    rule = model.metadata.get("split_rule", 1)
    if trained != split or rule != SPLIT_RULES[split]:
        raise ValueError(
            f"{name} was trained under the split {trained!r}, version {rule}: its test crystals "
            f"under {split!r}, version {SPLIT_RULES[split]}, were seen in training"
        )
