"""Measure LACBED networks on crystals they never saw: the papers' table and ours.

Two kinds of crystals are held out (`dataset.split_materials`): of prototypes that were never
trained on, and new formulas of known prototypes, which is what the papers' random folds come to.
Beside the networks stand the nearest neighbour among the crystals that they were trained on, and
the papers' own figures.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr
from torch import nn

from ..compute import mixed_precision, pick_device
from ..progress import progress_bar
from ..tables import Row, markdown_table
from .bragg_lines import unfolded
from .dataset import SPLIT_RULE, Batch, LacbedData, batch_of, split_materials
from .network import load_network
from .pix2pix import normalised
from .predict import PotentialPredictor
from .refine import refine_potential
from .scores import at_best_origin, likeness, squared_error

#: arXiv 2503.02852: R at 50 nm is figure 1's; those of other thicknesses are of examples that the
#: authors call near the mean. MSE as in the caption of figure 4; the text says a tenth, which does
#: not agree with R. The inverse's MSE is as printed, and may be a tenth of what is meant, too.
_PAPER_FORWARD: tuple[Row, ...] = (
    {"method": "cGAN, paper", "t nm": 50, "R mean": 0.966, "R median": 0.993, "MSE": 0.00815},
    {"method": "cGAN, paper, one example", "t nm": 100, "R mean": 0.926},
    {"method": "cGAN, paper, one example", "t nm": 150, "R mean": 0.903},
    {"method": "cGAN, paper, one example", "t nm": 200, "R mean": 0.766},
)
_PAPER_INVERSE: tuple[Row, ...] = tuple(
    {"method": "cGAN, paper", "t nm": nm, "MSE": mse}
    for nm, mse in ((50, 2.5e-4), (100, 2.3e-4), (150, 2.4e-4), (200, 2.4e-4))
)
_AT_ONCE = 64
#: Weights of depth and strength beside the picture, of which the neighbour takes the best.
_BESIDE = (0.0, 0.1, 0.3, 1.0)

#: Pictures of crystals (b,) at a thickness number, from a batch in natural units.
Method = Callable[[Batch, npt.NDArray[np.int64], int], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Scores:
    """Of each crystal at each thickness, shape (n, t): R and MSE, at the best origin also.

    For patterns, which have an origin, both are the same.
    """

    likeness: npt.NDArray[np.float32]
    error: npt.NDArray[np.float32]
    likeness_free: npt.NDArray[np.float32]
    error_free: npt.NDArray[np.float32]


def with_network(network: nn.Module) -> Method:
    """Return the method that a network is."""
    device = next(network.parameters()).device

    def method(batch: Batch, chosen: npt.NDArray[np.int64], number: int) -> torch.Tensor:
        given = [value.to(device) for value in batch.given_to(network)]
        with torch.no_grad(), mixed_precision(device):
            return network(*given).float().cpu()

    return method


def few_beams(batch: Batch, chosen: npt.NDArray[np.int64], number: int) -> torch.Tensor:
    """The bright fields of few beams that the line network mends."""
    return unfolded(batch.few)


class Neighbour:
    """The picture of the training crystal whose given picture is the most alike.

    Pictures are compared with mean 0 and deviation 1, and beside them the logarithm of the
    depth and, of potentials, of their strength, with the weight that serves validation best.

    Parameters
    ----------
    data : LacbedData
    members : ndarray of int
        The crystals to choose from.
    watched : ndarray of int
        Those that the weight is tuned on.
    direction : {"forward", "inverse"}
    """

    def __init__(
        self, data: LacbedData, members: npt.NDArray, watched: npt.NDArray, direction: str
    ) -> None:
        self.data, self.members, self.forward = data, members, direction == "forward"
        self.library: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        scores = []
        for weight in _BESIDE:
            self.weight = weight
            scores.append(measured(self, data, watched, direction, [0]).likeness_free.mean())
        self.weight = _BESIDE[int(np.argmax(scores))]

    def __call__(self, batch: Batch, chosen: npt.NDArray[np.int64], number: int) -> torch.Tensor:
        if number not in self.library:
            self.library[number] = self._keys(self.members, number)
        pictures, beside = self.library[number]
        mine, my_beside = self._key(batch)
        distance = 2.0 - 2.0 * (mine @ pictures.T) + self.weight * torch.cdist(
            my_beside, beside
        ).square()  # fmt: skip
        nearest = self.members[distance.argmin(1).numpy()]
        found = batch_of(self.data, nearest, torch.full((len(nearest),), number))
        return found.pattern if self.forward else found.u

    def _keys(self, members: npt.NDArray, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys = [
            self._key(batch_of(self.data, some, torch.full((len(some),), number)))
            for some in np.array_split(members, max(1, len(members) // 512))
        ]
        return torch.cat([one for one, _ in keys]), torch.cat([two for _, two in keys])

    def _key(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        picture = normalised(batch.u if self.forward else batch.pattern).flatten(1)
        beside = batch.tau.log()[:, None]
        if self.forward:
            beside = torch.cat([beside, batch.u.std((1, 2)).log()[:, None]], dim=1)
        return picture / picture.shape[1] ** 0.5, beside


def measured(
    method: Method,
    data: LacbedData,
    members: npt.NDArray[np.int64],
    direction: str,
    thicknesses: Sequence[int] | None = None,
    progress: bool | None = False,
) -> Scores:
    """Score a method on crystals of a library.

    Parameters
    ----------
    method : callable
    data : LacbedData
    members : ndarray of int
    direction : {"forward", "inverse"}
    thicknesses : sequence of int, optional
        Their numbers; default all.
    progress : bool, optional
        None: a bar in a terminal or a notebook.
    """
    numbers = range(len(data.thicknesses)) if thicknesses is None else thicknesses
    parts = [members[i : i + _AT_ONCE] for i in range(0, len(members), _AT_ONCE)]
    work = [(number, some) for number in numbers for some in parts]
    rows: dict[int, list[torch.Tensor]] = {number: [] for number in numbers}
    for number, some in progress_bar(work, description="measuring", progress=progress):
        batch = batch_of(data, some, torch.full((len(some),), number))
        found = method(batch, some, number)
        wanted = batch.pattern if direction == "forward" else batch.u
        free = wanted if direction == "forward" else at_best_origin(wanted, found)
        rows[number].append(torch.stack([
            likeness(found, wanted), squared_error(found, wanted),
            likeness(found, free), squared_error(found, free),
        ]))  # fmt: skip
    values = torch.stack([torch.cat(rows[number], dim=1) for number in numbers], dim=2).numpy()
    return Scores(*values)


def table(name: str, scores: Scores, data: LacbedData, direction: str) -> list[Row]:
    """Return a row for each thickness."""
    rows = []
    for number, thickness in enumerate(data.thicknesses):
        row: Row = {"method": name, "t nm": round(thickness / 10)}
        row |= _summary(scores.likeness[:, number], scores.error[:, number], "")
        if direction == "inverse":
            free = scores.likeness_free[:, number], scores.error_free[:, number]
            row |= _summary(*free, ", best origin")
        rows.append(row)
    return rows


def _summary(likenesses: npt.NDArray, errors: npt.NDArray, of: str) -> Row:
    return {
        f"R mean{of}": float(likenesses.mean()), f"R median{of}": float(np.median(likenesses)),
        f"MSE{of}": float(errors.mean()), f"MSE median{of}": float(np.median(errors)),
    }  # fmt: skip


def by_group(scores: Scores, spacegroup: npt.NDArray[np.int64]) -> list[Row]:
    """Return a row for each space group: crystals, and mean R at the thinnest and thickest."""
    rows = []
    for group in sorted(set(spacegroup.tolist())):
        these = scores.likeness_free[spacegroup == group]
        rows.append({
            "group": group, "n": len(these), "R, thinnest": float(these[:, 0].mean()),
            "R, thickest": float(these[:, -1].mean()),
        })  # fmt: skip
    return rows


def trusted(
    predictor: PotentialPredictor, data: LacbedData, members: npt.NDArray[np.int64],
    steps: int = 20, progress: bool | None = None,
) -> Row:  # fmt: skip
    """Return what the spread and the refinement of readings at the least thickness are worth.

    "rank of the spread" is Spearman's correlation between the spread of a reading, as a share of
    its deviation, and what is missing of R.
    """
    found = []
    for index in progress_bar(members.tolist(), description="refining", progress=progress):
        batch = batch_of(data, np.array([index]), torch.zeros(1, dtype=torch.int64))
        known = {"a": float(data.a[index]), "thickness": data.thicknesses[0]}
        pattern, true = batch.pattern[0].numpy(), data.potential[index : index + 1]
        read, spread = predictor.with_spread(pattern, energy_ev=data.energy_ev, **known)
        refined = refine_potential(
            read, pattern, energy_ev=data.energy_ev, half_width=data.half_width, steps=steps,
            progress=False, **known,
        )  # fmt: skip
        scores = [
            float(likeness(one, at_best_origin(true, one)))
            for one in (torch.from_numpy(x)[None] for x in (read, refined.potential))
        ]
        found.append((
            *scores, refined.likeness_before, refined.likeness, spread.mean() / read.std()
        ))  # fmt: skip
    before, after, pattern_before, pattern_after, spread = np.array(found).T
    return {
        "crystals": len(members), "R read": float(before.mean()), "R refined": float(after.mean()),
        "median R read": float(np.median(before)), "median R refined": float(np.median(after)),
        "R pattern, read": float(pattern_before.mean()),
        "R pattern, refined": float(pattern_after.mean()),
        "rank of the spread": float(spearmanr(spread, 1.0 - before).statistic),
    }  # fmt: skip


_FORWARD_COLUMNS = ("method", "t nm", "R mean", "R median", "MSE", "MSE median", "Z")
_INVERSE_COLUMNS = (
    "method", "t nm", "R mean", "R median", "MSE", "MSE median", "R mean, best origin",
    "R median, best origin", "MSE, best origin", "MSE median, best origin",
)  # fmt: skip
_PARTS = {
    "prototype": "Prototypes never trained on",
    "formula": "New formulas of known prototypes",
}


def evaluate(
    library: Sequence[str | Path],
    networks: Sequence[str],
    *,
    crystals: int | None = None,
    device: str | torch.device | None = None,
    neighbours: bool = True,
    refined: int = 0,
    progress: bool | None = None,
) -> str:
    """Return the tables, in markdown.

    Parameters
    ----------
    library : sequence of str or Path
        Folders of shards; the crystals held out are those of the training.
    networks : sequence of str
        Names or files of weights.
    crystals : int, optional
        At most so many of each part; default all.
    device : str or torch.device, optional
        Default: the GPU if there is one.
    neighbours : bool
        Measure the nearest neighbour, too.
    refined : int
        So many readings of the first inverse network are refined, too, half a minute each.
    progress : bool, optional
        None: a bar in a terminal or a notebook.

    Raises
    ------
    ValueError
        If weights were trained under another rule of splitting.
    """
    data = LacbedData.read(library, progress=progress)
    parts = split_materials(data.formula, data.prototype)
    loaded = {name: load_network(name, pick_device(device)) for name in networks}
    for name, network in loaded.items():
        if network.metadata.get("split_rule") != SPLIT_RULE:
            raise ValueError(
                f"{name} was trained under another split of the materials: it may have seen the "
                "crystals that it would be judged on"
            )
    lines: list[str] = []
    for direction in ("forward", "inverse"):
        methods: dict[str, Method] = {
            _title(name, network): with_network(network)
            for name, network in loaded.items() if network.direction == direction
        }  # fmt: skip
        if not methods:
            continue
        if direction == "forward":
            methods["few beams, no network"] = few_beams
        if neighbours:
            nearest = Neighbour(data, parts["train"], parts["validation"], direction)
            methods["nearest neighbour"] = nearest
        for part, title in _PARTS.items():
            members = parts[part][:crystals]
            scores = {
                name: measured(method, data, members, direction, progress=progress)
                for name, method in methods.items()
            }
            lines += _tables(f"{title}, {direction}", scores, data, members, direction)
    readers = [name for name, network in loaded.items() if network.direction == "inverse"]
    if refined and readers:
        chosen = parts["prototype"][:: max(1, len(parts["prototype"]) // refined)][:refined]
        row = trusted(
            PotentialPredictor(readers[0], device=device), data, chosen, progress=progress
        )
        lines += [f"\n### Spread and refinement, {readers[0]}\n", markdown_table([row], list(row))]
    return "\n".join(lines)


def _title(name: str, network: nn.Module) -> str:
    """A network's name, and whether its adversary was left out."""
    title = Path(name).name.removesuffix(".safetensors")
    training = network.metadata["training"]
    plain = title.startswith("pix2pix") and not training["adversarial"]
    return f"{title}, L1 only" if plain and "l1" not in title else title


def _tables(
    title: str, scores: dict[str, Scores], data: LacbedData, members: npt.NDArray, direction: str
) -> list[str]:
    forward = direction == "forward"
    rows = [row for name, one in scores.items() for row in table(name, one, data, direction)]
    for row in rows:
        row["Z"] = 1.0 - row["R mean"]
    rows += _PAPER_FORWARD if forward else _PAPER_INVERSE
    columns = _FORWARD_COLUMNS if forward else _INVERSE_COLUMNS
    groups = by_group(next(iter(scores.values())), data.spacegroup[members])
    return [
        f"\n### {title}: {len(members)} crystals\n", markdown_table(_rounded(rows), columns),
        f"\nBy space group, {next(iter(scores))}:\n",
        markdown_table(groups, ("group", "n", "R, thinnest", "R, thickest")),
    ]  # fmt: skip


def _rounded(rows: list[Row]) -> list[Row]:
    """Errors of a thousandth are written as powers of ten."""
    return [
        {k: f"{v:.2e}" if k.startswith("MSE") and v is not None else v for k, v in row.items()}
        for row in rows
    ]


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``py4dstem-ml evaluate lacbed``."""
    parser.add_argument("--library", required=True, nargs="+", help="folders of shards")
    parser.add_argument("--weights", required=True, nargs="+", help="names or files")
    parser.add_argument("--crystals", type=int, help="of each part at most; default: all")
    parser.add_argument("--refined", type=int, default=0, help="readings to be refined, too")
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--output", help="file for the tables")


def run(args: Namespace) -> str:
    """Run ``py4dstem-ml evaluate lacbed``."""
    text = evaluate(
        args.library, args.weights, crystals=args.crystals, refined=args.refined,
        device=args.device,
    )  # fmt: skip
    if args.output:
        Path(args.output).write_text(text)
    return text
