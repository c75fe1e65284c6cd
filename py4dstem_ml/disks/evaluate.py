"""How well peaks are found, on crystals that were not trained on: the paper's measures and ours.

The truth is a list of projected structure factors [row, col, weight] (`physics.patterns`), of
which those of 1e-3 of the strongest and more are counted. Peaks are matched one to one, closest
pairs first. As in Munshi et al. (npj Comput. Mater. 8 (2022) 254) the strongest peak of each list,
the direct beam, is left out and the intensities of each list are divided by their sum; then

    TP = matched predicted,  FP = 1 - TP = unmatched predicted,  FN = unmatched true intensity,
    accuracy = TP / (TP + FP + FN),   precision = TP / (TP + FP),   recall = 1 - FN.

A finder is any callable ``(patterns (b, h, w), probe (h, w)) -> list of (n, 3)``.
"""

from __future__ import annotations

import json
import logging
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree

from ..physics.multislice import multislice_patterns
from ..physics.patterns import Detector, probe_image, structure_factor_peaks
from ..physics.structures import CrystalTable
from ..progress import progress_bar
from ..shards import table_hash
from ..tables import Row, markdown_table
from .library import (
    ORIENTATION_KINDS,
    LibraryConfig,
    draw_crystals,
    draw_orientation,
    read_shard,
)
from .train import target_map

logger = logging.getLogger(__name__)

#: Weaker peaks than this fraction of the strongest are not part of the truth.
TRUTH_FLOOR = 1e-3
#: The paper's match radius in 1/Å, and ours in pixels.
MATCH_RADIUS = 0.05
MATCH_PIXELS = 1.0
#: Electrons in a pattern.
DOSES = (1e4, 1e5, 1e6)
#: Dose of the maps that are compared by SSIM.
MAP_DOSE = 1e5
#: Columns by which results are grouped, and the upper edges of their bins (None: by value).
GROUPS: dict[str, tuple[float, ...] | None] = {
    "semiangle_mrad": (1.5, 3.0),
    "thickness": (150.0, 250.0, 350.0),
    "dose": None,
    "kind": None,
    "truth_peaks": (50.0, 150.0, 400.0),
}

Finder = Callable[[npt.NDArray, npt.NDArray], list[npt.NDArray]]


# --- matching and scores -----------------------------------------------------------------------


def match_peaks(
    predicted: npt.NDArray, truth: npt.NDArray, radius: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pair predicted with true peaks, one to one, the closest pairs first.

    Parameters
    ----------
    predicted, truth : ndarray, shape (n, >= 2) and (m, >= 2)
        [row, col, ...] in pixels.
    radius : float
        Largest distance of a pair in pixels.

    Returns
    -------
    (ndarray, ndarray) of int, shape (k,)
        Indices into ``predicted`` and ``truth``.

    Examples
    --------
    >>> import numpy as np
    >>> match_peaks(np.array([[0, 0.4], [0, 1.2]]), np.array([[0, 1.0]]), 1.0)
    (array([1]), array([0]))
    """
    empty = np.zeros(0, dtype=np.int64)
    if len(predicted) == 0 or len(truth) == 0:
        return empty, empty
    near = cKDTree(predicted[:, :2]).sparse_distance_matrix(
        cKDTree(truth[:, :2]), radius, output_type="ndarray"
    )
    pairs = np.sort(near, order=["v", "i", "j"])
    free_predicted, free_truth = np.ones(len(predicted), bool), np.ones(len(truth), bool)
    matched = []
    for i, j in zip(pairs["i"].tolist(), pairs["j"].tolist(), strict=True):
        if free_predicted[i] and free_truth[j]:
            free_predicted[i] = free_truth[j] = False
            matched.append((i, j))
    if not matched:
        return empty, empty
    return tuple(np.array(matched, dtype=np.int64).T)  # type: ignore[return-value]


def score_peaks(predicted: npt.NDArray, truth: npt.NDArray, radius: float) -> dict[str, float]:
    """Score one pattern's peaks by the formulas at the head of this module.

    Parameters
    ----------
    predicted, truth : ndarray, shape (n, 3) and (m, 3)
        [row, col, intensity], intensity on any scale, the direct beam still in them.
    radius : float
        Match radius in pixels.

    Returns
    -------
    dict
        ``accuracy``, ``precision``, ``recall``; ``matched``, the number of pairs, with the sum of
        their squared distances ``square_error`` and ``median_error`` in pixels (NaN: no pair).
    """
    predicted, truth = _shares(predicted), _shares(truth)
    i, j = match_peaks(predicted, truth, radius)
    true_positive = float(predicted[i, 2].sum())
    false_positive = float(predicted[:, 2].sum()) - true_positive
    false_negative = float(truth[:, 2].sum() - truth[j, 2].sum())
    total = true_positive + false_positive + false_negative
    distance = np.linalg.norm(predicted[i, :2] - truth[j, :2], axis=1)
    return {
        # A pattern with nothing but the direct beam, and nothing claimed, is right.
        "accuracy": true_positive / total if total > 0 else 1.0,
        "precision": true_positive if len(predicted) else float(len(truth) == 0),
        "recall": 1.0 - false_negative,
        "matched": float(len(i)),
        "square_error": float((distance**2).sum()),
        "median_error": float(np.median(distance)) if len(i) else np.nan,
    }


def _shares(peaks: npt.NDArray) -> npt.NDArray[np.float64]:
    """Drop the strongest peak and let the intensities of the others sum to 1."""
    peaks = np.array(peaks[:, :3], dtype=float)
    if len(peaks):
        peaks = np.delete(peaks, np.argmax(peaks[:, 2]), axis=0)
    if len(peaks):
        peaks[:, 2] /= peaks[:, 2].sum()
    return peaks


# --- test sets ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PatternSet:
    """Patterns without noise, their truth, and what they are of.

    Attributes
    ----------
    name : str
    patterns : ndarray, shape (n, h, w)
        float32, sum 1.
    peaks : list of ndarray, shape (m, 3)
        [row, col, weight], the strongest 1, none below `TRUTH_FLOOR`.
    crystal, kind : ndarray of int, shape (n,)
        Row of the table of crystals, index of `library.ORIENTATION_KINDS`.
    thickness, semiangle_mrad, energy_ev, pixel_size : ndarray, shape (n,)
        Å, mrad, eV, 1/Å.
    """

    name: str
    patterns: npt.NDArray[np.float32]
    peaks: list[npt.NDArray]
    crystal: npt.NDArray[np.int64]
    kind: npt.NDArray[np.int64]
    thickness: npt.NDArray[np.float64]
    semiangle_mrad: npt.NDArray[np.float64]
    energy_ev: npt.NDArray[np.float64]
    pixel_size: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.patterns)

    def select(self, chosen: slice | Sequence[int] | npt.NDArray) -> PatternSet:
        """Return some of the patterns."""
        index = np.arange(len(self))[chosen]
        columns = {key: getattr(self, key)[index] for key in _COLUMNS}
        return replace(
            self, patterns=self.patterns[index], peaks=[self.peaks[i] for i in index], **columns
        )

    def by_probe(self) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """Yield the indices of patterns that share a vacuum probe, and the probe."""
        columns = np.stack([self.energy_ev, self.pixel_size, self.semiangle_mrad], axis=1)
        settings, which = np.unique(columns, axis=0, return_inverse=True)
        for number, (energy, pixel_size, angle) in enumerate(settings):
            detector = Detector(self.patterns.shape[1:], float(pixel_size))
            probe = probe_image(detector, float(angle), float(energy)).numpy()
            yield np.flatnonzero(which.ravel() == number), probe


_COLUMNS = ("crystal", "kind", "thickness", "semiangle_mrad", "energy_ev", "pixel_size")


def library_set(folder: str | Path, *, part: str = "test", shards: int | None = None) -> PatternSet:
    """Read shards of `library.simulate` (the Bloch engine) as a set.

    Parameters
    ----------
    folder : str or Path
    part : {"test", "validation", "train"}
        The latter two to tune thresholds on, never to test.
    shards : int, optional
        Only the last so many.

    Raises
    ------
    FileNotFoundError
        If the folder holds no shard of that part.
    """
    paths = sorted(Path(folder).glob(f"{part}-*.h5"))[-(shards or 0) :]
    if not paths:
        raise FileNotFoundError(
            f"no shard {part}-*.h5 in {folder}; make them with "
            f"'py4dstem-ml simulate disks --part {part} --output {folder}'"
        )
    loaded = [read_shard(path) for path in paths]
    patterns = np.concatenate([shard.patterns for shard in loaded])
    columns = {
        key: np.concatenate(
            [np.broadcast_to(getattr(shard, key), len(shard.peaks)) for shard in loaded]
        )
        for key in _COLUMNS
    }
    peaks = [_truth(peaks) for shard in loaded for peaks in shard.peaks]
    return PatternSet("bloch", _unit(patterns), peaks, **columns)


def _unit(patterns: npt.NDArray) -> npt.NDArray[np.float32]:
    return (patterns / patterns.sum(axis=(1, 2), keepdims=True)).astype(np.float32)


def _truth(peaks: npt.NDArray) -> npt.NDArray[np.float64]:
    peaks = np.array(peaks, dtype=float)
    peaks[:, 2] /= peaks[:, 2].max()
    return peaks[peaks[:, 2] >= TRUTH_FLOOR]


def multislice_set(
    structures: str | Path,
    *,
    crystals: int = 36,
    semiangles_mrad: Sequence[float] = (1.0, 2.0, 4.0),
    thicknesses: Sequence[float] = (100.0, 200.0, 300.0, 400.0),
    energy_ev: float = 200e3,
    pixel_size: tuple[float, float] = (0.018, 0.022),
    size: int = 128,
    seed: int = 0,
    device: str = "cpu",
    progress: bool | None = None,
) -> PatternSet:
    """Simulate the test set of the other simulator: held-out crystals by multislice.

    Parameters
    ----------
    structures : str or Path
        Table of crystals, of which the part "test" is drawn.
    crystals : int
        Different ones; a third each along a zone axis, tilted from one, and at random.
    semiangles_mrad, thicknesses : sequence of float
        Each crystal is simulated at all of them; thicknesses in Å, ascending.
    energy_ev : float
    pixel_size : (float, float)
        1/Å, uniform.
    size : int
        Pixels of a side.
    seed : int
    device : str
    progress : bool, optional
    """
    rng = np.random.default_rng([seed, 2])
    table = CrystalTable(structures)
    drawn = dict.fromkeys(draw_crystals(table, "test", 20 * crystals, rng).tolist())
    columns: dict[str, list] = {key: [] for key in _COLUMNS}
    patterns, peak_lists = [], []
    chosen = list(drawn)[:crystals]
    for number, index in enumerate(
        progress_bar(chosen, description="multislice", progress=progress)
    ):
        kind = number % 3
        config = LibraryConfig(kind_weights=tuple(float(k == kind) for k in range(3)))
        crystal = table[index]
        _, orientation = draw_orientation(crystal, config, rng)
        detector = Detector((size, size), float(rng.uniform(*pixel_size)))
        images = multislice_patterns(
            crystal, orientation, detector, semiangles_mrad, energy_ev, thicknesses, device=device
        )
        peaks = structure_factor_peaks(crystal, orientation, energy_ev, detector).numpy()
        for angle, series in zip(semiangles_mrad, images.numpy(), strict=True):
            for thickness, image in zip(thicknesses, series, strict=True):
                patterns.append(image)
                peak_lists.append(_truth(peaks))
                values = (index, kind, thickness, angle, energy_ev, detector.pixel_size)
                for key, value in zip(_COLUMNS, values, strict=True):
                    columns[key].append(value)
    arrays = {key: np.array(values) for key, values in columns.items()}
    return PatternSet("multislice", _unit(np.array(patterns)), peak_lists, **arrays)


def write_arrays(path: str | Path, origin: Mapping[str, Any], **arrays: Any) -> None:
    """Write an ``.npz``, whole or not at all, with what it was made from."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        np.savez_compressed(unfinished, origin=np.array(json.dumps(origin)), **arrays)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def check_origin(path: str | Path, file: Mapping[str, Any], origin: Mapping[str, Any]) -> None:
    """Refuse arrays of `write_arrays` that were made from something else.

    Raises
    ------
    ValueError
        Naming what differs.
    """
    stored = json.loads(str(file["origin"])) if "origin" in file else {}
    wanted = json.loads(json.dumps(origin))
    differing = sorted(key for key in wanted if stored.get(key) != wanted[key])
    if differing:
        raise ValueError(
            f"{path} was made from another {', '.join(differing)}: delete it, or choose another "
            "output folder"
        )


def save_set(
    path: str | Path, patterns: PatternSet, origin: Mapping[str, Any] | None = None
) -> None:
    """Write a set to an ``.npz``; ``origin`` is what it was made from."""
    columns = {key: getattr(patterns, key) for key in ("name", "patterns", *_COLUMNS)}
    offsets = np.cumsum([0, *map(len, patterns.peaks)])
    peaks = np.concatenate(patterns.peaks)
    write_arrays(path, origin or {}, peaks=peaks, offsets=offsets, **columns)


def load_set(path: str | Path, origin: Mapping[str, Any] | None = None) -> PatternSet:
    """Read a set that `save_set` wrote; one of another origin is refused."""
    with np.load(path, allow_pickle=False) as file:
        check_origin(path, file, origin or {})
        values = {field.name: file[field.name] for field in fields(PatternSet)}
        peaks = np.split(file["peaks"], file["offsets"][1:-1])
    return PatternSet(**{**values, "name": str(values["name"]), "peaks": peaks})


def stored_set(
    path: str | Path, simulate: Callable[[], PatternSet], origin: Mapping[str, Any] | None = None
) -> PatternSet:
    """Read a set, or simulate it and write it where there is none; see `load_set`."""
    if not Path(path).exists():
        logger.info("simulating %s", path)
        save_set(path, simulate(), origin)
    return load_set(path, origin)


def counted(patterns: PatternSet, index: int, dose: float, seed: int = 0) -> npt.NDArray:
    """Return one pattern with Poisson noise, float32; the same for the same arguments."""
    rng = np.random.default_rng([seed, index, int(dose)])
    return rng.poisson(patterns.patterns[index].astype(float) * dose).astype(np.float32)


# --- rows and tables ---------------------------------------------------------------------------


def evaluate_finder(
    finder: Finder,
    patterns: PatternSet,
    *,
    doses: Sequence[float] = DOSES,
    seed: int = 0,
    progress: bool | None = None,
) -> list[Row]:
    """Score a finder on every pattern of a set, at every dose.

    Returns
    -------
    list of dict
        A row for each pattern and dose: what the pattern is of, `score_peaks` at the paper's
        radius, and ``accuracy_1px``, ``recall_1px`` at `MATCH_PIXELS`.
    """
    rows = []
    groups = list(patterns.by_probe())
    for indices, probe in progress_bar(groups, description="patterns", progress=progress):
        for dose in doses:
            images = np.stack([counted(patterns, int(i), dose, seed) for i in indices])
            for i, peaks in zip(indices, finder(images, probe), strict=True):
                rows.append({**_described(patterns, int(i)), "dose": dose, **_scores(
                    peaks, patterns.peaks[i], MATCH_RADIUS / patterns.pixel_size[i]
                )})  # fmt: skip
    return rows


def _scores(peaks: npt.NDArray, truth: npt.NDArray, radius: float) -> dict[str, float]:
    near = score_peaks(peaks, truth, MATCH_PIXELS)
    return {
        **score_peaks(peaks, truth, radius),
        "accuracy_1px": near["accuracy"],
        "recall_1px": near["recall"],
    }


def _described(patterns: PatternSet, i: int) -> Row:
    return {
        "set": patterns.name,
        "crystal": int(patterns.crystal[i]),
        "kind": ORIENTATION_KINDS[int(patterns.kind[i])],
        "thickness": float(patterns.thickness[i]),
        "semiangle_mrad": float(patterns.semiangle_mrad[i]),
        "truth_peaks": len(patterns.peaks[i]),
    }


def evaluate_maps(
    network: torch.nn.Module,
    patterns: PatternSet,
    *,
    dose: float = MAP_DOSE,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool | None = None,
) -> list[Row]:
    """Compare a network's maps with the truth's by SSIM (7 x 7 pixels, range of the truth).

    Returns
    -------
    list of dict
        A row for each pattern: ``ssim`` of the squared maps, which show |V_g| as the paper's do,
        and ``ssim_root`` of the maps as they leave the network.
    """
    from skimage.metrics import structural_similarity

    device = next(network.parameters()).device
    rows = []
    groups = list(patterns.by_probe())
    for indices, probe in progress_bar(groups, description="maps", progress=progress):
        disk = torch.from_numpy(probe).to(device)
        for some in np.array_split(indices, -(-len(indices) // batch_size)):
            images = np.stack([counted(patterns, int(i), dose, seed) for i in some])
            with torch.inference_mode():
                maps = network(torch.from_numpy(images).to(device), disk).float().cpu().numpy()
            for i, found in zip(some, maps, strict=True):
                peaks = torch.from_numpy(patterns.peaks[i]).float()[None]
                truth = target_map(peaks, found.shape)[0].numpy()
                pairs = {"ssim": (found**2, truth**2), "ssim_root": (found, truth)}
                rows.append({**_described(patterns, int(i)), "dose": dose, **{
                    key: float(structural_similarity(a, b, data_range=float(np.ptp(b))))
                    for key, (a, b) in pairs.items()
                }})  # fmt: skip
    return rows


def crystal_means(rows: Iterable[Row], column: str) -> dict[int, float]:
    """Average a column over the rows of each crystal."""
    values: dict[int, list[float]] = {}
    for row in rows:
        values.setdefault(row["crystal"], []).append(row[column])
    return {crystal: float(np.nanmean(column)) for crystal, column in values.items()}


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """Return mean and standard error; the error of fewer than two values is NaN."""
    array = np.array([value for value in values if np.isfinite(value)])
    if len(array) == 0:
        return np.nan, np.nan
    error = array.std(ddof=1) / len(array) ** 0.5 if len(array) > 1 else np.nan
    return float(array.mean()), float(error)


def summarise(rows: Sequence[Row]) -> Row:
    """Average rows of `evaluate_finder` or `evaluate_maps`, every crystal counting the same.

    Returns
    -------
    dict
        Each score with its standard error over crystals as ``<score>_se``; ``rms_px`` over all
        pairs, ``median_px`` as the mean of the patterns' medians; the numbers of patterns and
        crystals.
    """
    summary: Row = {"patterns": len(rows), "crystals": len({row["crystal"] for row in rows})}
    for column in _AVERAGED:
        if rows and column in rows[0]:
            means = crystal_means(rows, column)
            summary[column], summary[f"{column}_se"] = mean_and_error(means.values())
    if rows and "matched" in rows[0]:
        matched = sum(row["matched"] for row in rows)
        squares = sum(row["square_error"] for row in rows)
        summary["rms_px"] = (squares / matched) ** 0.5 if matched else np.nan
        medians = [row["median_error"] for row in rows]
        summary["median_px"] = mean_and_error(medians)[0]
    return summary


_AVERAGED = (
    "accuracy", "precision", "recall", "accuracy_1px", "recall_1px", "ssim", "ssim_root",
)  # fmt: skip


def grouped(rows: Sequence[Row], column: str) -> dict[str, list[Row]]:
    """Sort rows into the groups of one of `GROUPS`."""
    edges = GROUPS[column]
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        value = row[column]
        key = value if edges is None else int(np.searchsorted(edges, value))
        groups.setdefault(key, []).append(row)
    return {_label(key, edges): groups[key] for key in sorted(groups)}


def _label(key: Any, edges: tuple[float, ...] | None) -> str:
    if edges is None:
        return key if isinstance(key, str) else f"{key:g}"
    if key == 0:
        return f"up to {edges[0]:g}"
    if key == len(edges):
        return f"above {edges[-1]:g}"
    return f"{edges[key - 1]:g} to {edges[key]:g}"


def paired_gain(rows: Sequence[Row], reference: Sequence[Row], column: str) -> tuple[float, float]:
    """Return mean and standard error over crystals of the difference of a score."""
    ours, theirs = crystal_means(rows, column), crystal_means(reference, column)
    return mean_and_error(ours[crystal] - theirs[crystal] for crystal in ours if crystal in theirs)


COLUMNS = (
    "method", "accuracy", "accuracy_1px", "precision", "recall", "recall_1px",
    "rms_px", "median_px", "patterns", "crystals",
)  # fmt: skip


def accuracy_tables(results: dict[str, Sequence[Row]]) -> str:
    """Write the tables of one set as markdown: overall, and by every group.

    Parameters
    ----------
    results : dict
        Method -> its rows from `evaluate_finder`.
    """
    overall = [{"method": method, **summarise(rows)} for method, rows in results.items()]
    parts = [markdown_table(overall, COLUMNS)]
    for column in GROUPS:
        lines = [
            {"method": method, column: label, **summarise(some)}
            for method, rows in results.items()
            for label, some in grouped(rows, column).items()
        ]
        shown = (column, "method", "accuracy", "accuracy_1px", "recall", "rms_px", "patterns")
        lines.sort(key=lambda line, c=column: _order(line[c]))
        parts.append(f"By {column}:\n\n" + markdown_table(lines, shown))
    return "\n\n".join(parts)


def _order(label: str) -> tuple[bool, float, str]:
    """Sort labels of bins and values as numbers, lowest first."""
    numbers = [float(word) for word in label.split() if word[0].isdigit()]
    return label.startswith("above"), numbers[-1] if numbers else 0.0, label


def map_table(results: dict[str, Sequence[Row]]) -> str:
    """Write SSIM on a zone axis and off it as markdown; ``results`` from `evaluate_maps`."""
    lines = []
    for method, rows in results.items():
        line: Row = {"method": method}
        for where, on_zone in (("zone", True), ("off zone", False)):
            some = summarise([row for row in rows if (row["kind"] == "zone") == on_zone])
            for column in ("ssim", "ssim_root"):
                line[f"{column}, {where}"] = some.get(column, np.nan)
                line[f"{column}, {where}_se"] = some.get(f"{column}_se", np.nan)
        lines.append(line)
    columns = [f"{c}, {w}" for c in ("ssim", "ssim_root") for w in ("zone", "off zone")]
    return markdown_table(lines, ["method", *columns])


# --- the command -------------------------------------------------------------------------------


def network_finder(network: torch.nn.Module, **options: Any) -> Finder:
    """Return a network as a finder, with the defaults that users get.

    Parameters
    ----------
    network : torch.nn.Module
    **options
        Of `predict.BraggDiskFinder`.
    """
    from .predict import BraggDiskFinder

    def find(patterns: npt.NDArray, probe: npt.NDArray) -> list[npt.NDArray]:
        return BraggDiskFinder(probe, model=network, **options).find(patterns)

    return find


def model_names(models: Iterable[str]) -> dict[str, str]:
    """Return weights, given by name or file, by what a table calls them.

    Files of one name are told apart by their folders.

    Raises
    ------
    ValueError
        If that does not tell them apart.

    Examples
    --------
    >>> list(model_names(["unet.v1", "a/net.safetensors", "b/net.safetensors"]))
    ['unet.v1', 'a/net', 'b/net']
    """
    models = list(models)
    short = [Path(model).name.removesuffix(".safetensors") for model in models]
    named = {
        (name if short.count(name) == 1 else str(Path(model).parent.name / Path(name))): model
        for name, model in zip(short, models, strict=True)
    }
    if len(named) < len(models):
        raise ValueError(f"two of the models have the same name: {', '.join(models)}")
    return named


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``py4dstem-ml evaluate disks``."""
    parser.add_argument("--library", help="folder with shards of the part 'test'")
    parser.add_argument("--structures", help="table of crystals (.npz), for the multislice set")
    parser.add_argument("--output", required=True, help="folder for test sets, tables and scores")
    parser.add_argument("--models", nargs="+", help="names or files; default: the default weights")
    parser.add_argument("--crystals", type=int, default=36, help="of the multislice set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="default: the GPU if there is one")


def run(args: Namespace) -> str:
    """Run ``py4dstem-ml evaluate disks``."""
    from ..compute import pick_device
    from ..weights import default_name
    from .network import load_network

    output = Path(args.output)
    device = pick_device(args.device)
    networks = {
        name: load_network(model, device)
        for name, model in model_names(args.models or [default_name("disks")]).items()
    }
    parts, scores = [], {}
    for patterns in evaluation_sets(
        args.library, args.structures, output, args.crystals, args.seed
    ):
        found = {
            name: evaluate_finder(network_finder(network, device=device), patterns, seed=args.seed)
            for name, network in networks.items()
        }
        maps = {name: evaluate_maps(network, patterns) for name, network in networks.items()}
        parts += [f"## {patterns.name}", accuracy_tables(found), map_table(maps)]
        scores[patterns.name] = {"peaks": found, "maps": maps}
    return write_report(output, "disks", parts, scores)


def evaluation_sets(
    library: str | Path | None, structures: str | Path | None, output: Path, crystals: int,
    seed: int,
) -> list[PatternSet]:  # fmt: skip
    """Return the sets that can be had: the library's test part, and the multislice set.

    The latter is simulated once and stored in ``output``.

    Raises
    ------
    ValueError
        If neither can, or if what is stored was made from another table of crystals.
    """
    sets = []
    if library is not None:
        sets.append(library_set(library))
    path = output / f"multislice-{crystals}-{seed}.npz"
    if structures is not None or path.exists():
        origin = {"crystals": crystals, "seed": seed}
        origin |= {} if structures is None else {"table": table_hash(structures)}
        sets.append(
            stored_set(
                path, lambda: multislice_set(structures, crystals=crystals, seed=seed), origin
            )
        )
    if not sets:
        raise ValueError("nothing to evaluate on: give --library, --structures or both")
    return sets


def write_report(output: Path, name: str, parts: Sequence[str], scores: object) -> str:
    """Write ``<name>.md`` and ``<name>.json`` into a folder and return the text."""
    output.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(parts) + "\n"
    (output / f"{name}.md").write_text(text, "utf-8")
    (output / f"{name}.json").write_text(json.dumps(scores), "utf-8")
    return text
