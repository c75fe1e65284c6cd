"""The paper's table and ours: energies and displacements of patterns that were not trained on."""

from __future__ import annotations

import json
import logging
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import torch

from ..physics.leed.cbleed import beams_up_to, cbleed
from ..physics.leed.surfaces import silicon_001
from ..physics.threads import one_thread
from ..shards import shards_of
from ..tables import Row, markdown_table
from .augment import Disturbance, counted, disturbed
from .dataset import SPLIT_RULE, TARGETS, Between, CbleedData, Floats, split
from .fit import FitConfig, between_too, fit_regressors
from .images import Screen, normalised
from .intervals import LEVELS
from .library import PHYSICS
from .limits import cramer_rao
from .model import Reader
from .network import Direct, load_network
from .predict import CBLEEDRegressor
from .train import read_reconstructions

logger = logging.getLogger(__name__)

#: Images (n, H, W) of any sum to targets (n, 4).
Method = Callable[[torch.Tensor], Floats]

#: Electrons in a pattern; None is without noise.
COUNTS = (None, 1e6, 1e5, 1e4)
_COLUMNS = (
    "method", "counts", "energy MAE eV", "energy R2", "height MAE Å", "height R2", "length MAE Å",
    "length R2", "dimers right %",
)  # fmt: skip
#: What the paper says; its displacement is one number.
_PAPER: list[Row] = [
    {"method": "paper, KNN", "counts": "none", "energy MAE eV": 0.43},
    {"method": "paper, NuSVM (displacement)", "counts": "none", "height MAE Å": 0.010},
]
#: An expected absolute error, of a normal distribution's standard deviation.
_ABSOLUTE = float(np.sqrt(2 / np.pi))
#: Patterns that the Cramér-Rao limit is averaged over.
_LIMITED = 200
_AT_ONCE = 256
#: Patterns of surfaces that a reader does not know.
_UNKNOWN = 12


@dataclass(frozen=True, eq=False)
class Principal:
    """Principal components of amplitudes: the code that no network is needed for."""

    mean: torch.Tensor
    axes: torch.Tensor
    scale: npt.NDArray[np.float32]

    @classmethod
    def of(cls, images: torch.Tensor, size: int) -> Principal:
        """Fit to intensities (n, H, W)."""
        flat = normalised(images).flatten(1)
        torch.manual_seed(0)
        mean = flat.mean(0)
        axes = torch.pca_lowrank(flat - mean, min(size + 8, *flat.shape), center=False, niter=6)[2]
        axes = axes[:, :size]
        # One scale for all: the components keep their weights.
        scale = ((flat - mean) @ axes).std(0).max().clamp(min=1e-9)
        return cls(mean, axes, scale.numpy())

    def codes(self, images: torch.Tensor) -> npt.NDArray[np.float32]:
        """Return codes (n, size) of intensities."""
        return ((normalised(images).flatten(1) - self.mean) @ self.axes).numpy() / self.scale


def baselines(
    images: torch.Tensor, labels: Floats, sizes: Sequence[int] = (8, 32),
    config: FitConfig | None = None,
) -> dict[str, Method]:  # fmt: skip
    """Return principal components with neighbours and support vectors, fitted to patterns."""
    config = replace(config or FitConfig(), regressors=("neighbours", "svr"))
    found: dict[str, Method] = {}
    for size in sizes:
        principal = Principal.of(images, size)
        fitted = fit_regressors(principal.codes(images), labels, config, progress=False)
        for name, regressor in fitted.items():
            found[f"PCA-{size}, {name}"] = lambda given, p=principal, r=regressor: r.predict(
                p.codes(given)
            )
    return found


def scores(found: Floats, truth: Floats) -> Row:
    """Return mean absolute errors and R^2 of the targets, and how many dimers are right."""
    row: Row = {}
    for t, (name, unit) in enumerate((("energy", "eV"), ("height", "Å"), ("length", "Å"))):
        error = found[:, t] - truth[:, t]
        spread = truth[:, t] - truth[:, t].mean()
        row[f"{name} MAE {unit}"] = float(np.abs(error).mean())
        whole = float((spread**2).sum())
        row[f"{name} R2"] = 1 - float((error**2).sum()) / whole if whole > 0 else None
    buckled = TARGETS.index("buckled")
    right = (found[:, buckled] > 0.5) == (truth[:, buckled] > 0.5)
    row["dimers right %"] = round(100 * float(right.mean()), 1)
    return row


def measured(
    methods: dict[str, Method], data: CbleedData, counts: Sequence[float | None] = COUNTS
) -> list[Row]:
    """Return a row for each method and number of electrons."""
    rows = []
    for number in counts:
        generator = torch.Generator().manual_seed(0)
        images = data.images if number is None else counted(data.images, number, generator)
        for name, method in methods.items():
            found = np.concatenate([method(part) for part in images.split(_AT_ONCE)])
            said = {"method": name, "counts": "none" if number is None else f"{number:.0e}"}
            rows.append(said | scores(found, data.labels))
    return rows


def limit_rows(between: Between, data: CbleedData) -> list[Row]:
    """Return the mean absolute errors that counting electrons allows; rows as of `measured`."""
    low = np.array([between.energies[0], between.heights[0], between.lengths[0]])
    high = np.array([between.energies[-1], between.heights[-1], between.lengths[-1]])
    inside = ((data.labels[:, :3] >= low) & (data.labels[:, :3] <= high)).all(1)
    chosen = data.labels[inside][:: max(1, int(inside.sum()) // _LIMITED)]
    if not len(chosen):
        return []
    sigma = np.median(cramer_rao(between, chosen, 1.0), axis=0) * _ABSOLUTE
    rows = []
    for number in COUNTS[1:]:
        columns = ("energy MAE eV", "height MAE Å", "length MAE Å")
        said: Row = {"method": "Cramér-Rao limit (median)", "counts": f"{number:.0e}"}
        rows.append(said | dict(zip(columns, (sigma / np.sqrt(number)).tolist(), strict=True)))
    return rows


def interval_rows(reader: Reader, data: CbleedData) -> list[Row]:
    """Return how often intervals hold the truth, and how wide they are.

    They are made for patterns disturbed as in training; counted electrons alone are less than
    that.
    """
    generator = torch.Generator().manual_seed(1)
    seen = {"disturbed": disturbed(data.images, Disturbance(), generator)}
    for number in COUNTS:
        name = "none" if number is None else f"{number:.0e}"
        seen[name] = data.images if number is None else counted(data.images, number, generator)
    rows = []
    for name, images in seen.items():
        reading = reader.read(images)
        error = np.abs(reading.values - data.labels)
        for level, width in zip(LEVELS, reading.intervals, strict=True):
            row: Row = {
                "counts": name,
                "interval %": round(100 * level, 1),
            }
            for t, target in enumerate(TARGETS[:3]):
                row[f"{target} held %"] = round(100 * float((error <= width)[:, t].mean()), 1)
                row[f"{target} half width"] = float(np.median(width[:, t]))
            rows.append(row)
    return rows


def shift_row(name: str, reader: Reader, images: torch.Tensor, truth: Floats) -> Row:
    """Return errors and novelty of patterns that the reader was not made for."""
    reading = reader.read(images)
    row: Row = {"patterns": name} | scores(reading.values, truth)
    row["energy bias eV"] = float((reading.values[:, 0] - truth[:, 0]).mean())
    row["flagged %"] = round(100 * float((reading.novelty > 1).mean()), 1)
    row["novelty, median"] = float(np.median(reading.novelty))
    return row


def unreconstructed(screen: Screen, energies_ev: Sequence[float]) -> torch.Tensor:
    """Return patterns of the (1x1) surface of silicon (001), which no reader was trained on."""
    surface, beams = silicon_001("1x1"), beams_up_to(1, 1)
    drawn = [screen.drawn(cbleed([surface], energy, beams=beams)) for energy in energies_ev]
    return torch.from_numpy(np.concatenate(drawn))


def unknown_row(name: str, reader: Reader, images: torch.Tensor) -> Row:
    """Return the novelty of patterns that have no truth to be read."""
    novelty = reader.read(images).novelty
    return {
        "patterns": name, "flagged %": round(100 * float((novelty > 1).mean()), 1),
        "novelty, median": float(np.median(novelty)),
    }  # fmt: skip


def latency_ms(reader: Reader, image: npt.NDArray, repeats: int = 30) -> float:
    """Return the median time in ms in which one image is read on one thread, all steps included.

    Torch's one thread; OMP_NUM_THREADS=1 keeps numpy to one, too.
    """
    regressor, times = CBLEEDRegressor.of(reader), []
    with one_thread():
        for _ in range(repeats + 3):
            started = time.perf_counter()
            regressor(image)
            times.append(time.perf_counter() - started)
    return 1e3 * float(np.median(times[3:]))


def evaluate(
    library: Sequence[str | Path],
    models: Sequence[str | Path],
    *,
    off_grid: Sequence[str | Path] = (),
    shifts: Sequence[str | Path] = (),
    direct: Sequence[str | Path] = (),
    with_baselines: bool = True,
    patterns: int = 1000,
    progress: bool | None = None,
) -> str:
    """Return the tables, in markdown.

    Parameters
    ----------
    library : sequence of str or Path
        Folders that the models were trained on.
    models : sequence of str or Path
        Readers, names or files; each is judged on what its split held out.
    off_grid : sequence of str or Path
        Folders that lie off the grid, which no model was trained on.
    shifts : sequence of str or Path
        Folders of other physics, or of other energies or structures.
    direct : sequence of str or Path
        Direct regressors, of the same splits.
    with_baselines : bool
        Fit principal components, too.
    patterns : int
        Test patterns of each kind at most.
    progress : bool, optional
        None: bars in a terminal or a notebook.

    Raises
    ------
    ValueError
        If a model was trained on an off-grid folder or another library, or under another rule of
        splitting; or two have one name.
    """
    loaded = {title: Reader.load(name) for title, name in _titles(models).items()}
    networks = {title: load_network(name) for title, name in _titles(direct).items()}
    lines = [
        "Mean absolute errors at known inner potential: a pattern tells the energy above it, and "
        "an error of 1 eV there is an error of 1 eV here."
    ]
    for title, reader in loaded.items():
        lines += _of_reader(
            title, reader, networks, library, off_grid, shifts, with_baselines, patterns, progress
        )
    return "\n".join(lines)


def _of_reader(
    title: str,
    reader: Reader,
    networks: dict,
    library: Sequence[str | Path],
    off_grid: Sequence[str | Path],
    shifts: Sequence[str | Path],
    with_baselines: bool,
    patterns: int,
    progress: bool | None,
) -> list[str]:
    training = reader.metadata["training"]
    rule, averaged = training["split"], training["averaged"]
    screen = reader.screen

    def read(folders: Sequence[str | Path], both_tilts: bool = averaged) -> CbleedData:
        return CbleedData.read(folders, screen, averaged=both_tilts, progress=progress)

    data = read(library)
    outside = read(off_grid) if off_grid else None
    others = [(folder, read([folder])) for folder in _readable(shifts, averaged)]
    refuse_seen(title, reader.metadata, data, outside)
    parts = split(data.labels, rule)
    methods = _methods(title, reader)
    for name, network in networks.items():
        said = network.metadata["training"]
        if said["split"] == rule and said["averaged"] == averaged:
            refuse_seen(name, network.metadata, data, outside)
            methods[f"{name}, no bottleneck"] = _directly(network)
    if with_baselines:
        methods |= _baselines(data, parts["train"], rule, reader)
    tests: dict[str, CbleedData] = {}
    if outside is not None:
        tests["off the grid, all energies"] = _thinned(outside, patterns)
        held_out = split(outside.labels, "energies")["test"]
        if rule == "energies" and len(held_out):
            never = _thinned(outside.take(held_out), patterns)
            tests["off the grid, within half an eV of energies whose images were withheld"] = never
    if len(parts["test"]):
        name = {"paper": "a random fifth of the grid, as in the paper"}.get(
            rule, "the grid at energies whose images were withheld"
        )
        tests[name] = _thinned(data.take(parts["test"]), patterns)
    between = _between(data)
    lines = []
    for name, test in tests.items():
        rows = measured(methods, test)
        if between is not None:
            rows += limit_rows(between, test)
        if "as in the paper" in name:
            rows = _PAPER + rows
        lines.append(f"\n### {title}: {name}, {len(test)} patterns\n")
        lines.append(markdown_table(_fine(rows), _COLUMNS))
    if tests:
        first, test = next(iter(tests.items()))
        rows = interval_rows(reader, test)
        lines += [
            f"\n### {title}: intervals, {first}\n",
            markdown_table(_fine(rows), tuple(rows[0])),
        ]
        lines += _shifts(title, reader, read, test, off_grid, others, patterns)
        time_ms = latency_ms(reader, test.images[0].numpy())
        lines.append(f"\n{title}: one image on one core takes {time_ms:.1f} ms, median.")
    return lines


def _titles(models: Sequence[str | Path]) -> dict[str, str | Path]:
    found = {Path(str(name)).name.removesuffix(".safetensors"): name for name in models}
    if len(found) < len(models):
        raise ValueError("two models have one name, under which the table would show one of them")
    return found


def refuse_seen(
    title: str, metadata: Mapping[str, Any], data: CbleedData, outside: CbleedData | None
) -> None:
    """Refuse to judge a model by what it may have seen, or beside what it was not trained on.

    Raises
    ------
    ValueError
        If it was trained under another rule of splitting, on another library or screen than
        ``data``, or on the patterns ``outside`` of the grid.
    """
    if metadata["split_rule"] != SPLIT_RULE:
        raise ValueError(
            f"{title} was trained under another rule of splitting: it may have seen what it would "
            "be judged on"
        )
    if metadata["training"]["screen"] != asdict(data.screen):
        raise ValueError(f"{title} was trained on another screen")
    if set(metadata["origins"]) != set(data.origins):
        raise ValueError(
            f"{title} was trained on another library: name the folders of its training"
        )
    if outside is not None and set(outside.origins) & set(metadata["origins"]):
        raise ValueError(f"{title} was trained on an off-grid folder: it would know the answers")


def _readable(shifts: Sequence[str | Path], averaged: bool) -> list[str | Path]:
    """Folders that can be read; mistilted disks have no mean over both tilts."""
    found = []
    for folder in shifts:
        with h5py.File(shards_of(folder, "cbleed", "cbleed")[0], "r") as file:
            mistilted = bool(file["centre"][:].any())
        if averaged and mistilted:
            logger.warning("%s is mistilted, which a reader of both tilts is not shown", folder)
        else:
            found.append(folder)
    return found


def _fine(rows: list[Row]) -> list[Row]:
    """Rows with lengths to a tenth of a thousandth of an Å, and shares as they are."""

    def shown(name: str, value: Any) -> Any:
        if not isinstance(value, float):
            return value
        if name.endswith("%"):
            return f"{value:g}"
        small = name.endswith("Å") or name in ("height half width", "length half width")
        return f"{value:.4f}" if small else value

    return [{name: shown(name, value) for name, value in row.items()} for row in rows]


def _methods(title: str, reader: Reader) -> dict[str, Method]:
    found: dict[str, Method] = {title: lambda images: reader.read(images).values}
    for name in reader.regressors:
        found[f"{title}, {name}"] = lambda images, n=name: (
            reader.read(images, (n,) * len(TARGETS)).values
        )
    return found


def _directly(network: torch.nn.Module) -> Method:
    if not isinstance(network, Direct):
        raise ValueError("only direct regressors are read without a reader")

    def method(images: torch.Tensor) -> Floats:
        with torch.no_grad():
            return network.predict(normalised(images)).double().numpy()

    return method


def _baselines(
    data: CbleedData, train: npt.NDArray[np.int64], rule: str, reader: Reader
) -> dict[str, Method]:
    """Fitted to what the reader's regressors were fitted to, disturbed copies left out."""
    said = dict(reader.metadata["fit"])
    config = FitConfig(**{**said, "disturbance": Disturbance(**said["disturbance"])})
    images, labels = between_too(data, train, rule, config)
    return baselines(images, labels, config=config)


def _between(data: CbleedData) -> Between | None:
    try:
        return Between(data.images, data.labels)
    except ValueError:  # no whole grid: no limits
        return None


def _thinned(data: CbleedData, patterns: int) -> CbleedData:
    if len(data) <= patterns:
        return data
    return data.take(np.random.default_rng(0).permutation(len(data))[:patterns])


def _shifts(
    title: str,
    reader: Reader,
    read: Callable[..., CbleedData],
    test: CbleedData,
    off_grid: Sequence[str | Path],
    others: Sequence[tuple[str | Path, CbleedData]],
    patterns: int,
) -> list[str]:
    generator = torch.Generator().manual_seed(2)
    rows = [shift_row("as trained", reader, test.images, test.labels)]
    shaken = disturbed(test.images, Disturbance(), generator)
    rows.append(shift_row("disturbed as in training", reader, shaken, test.labels))
    if off_grid and not reader.metadata["training"]["averaged"]:
        both = _thinned(read(off_grid, True), patterns)
        rows.append(shift_row("both tilts of the dimers", reader, both.images, both.labels))
    for folder, whole in others:
        other = _thinned(whole, patterns)
        rows.append(shift_row(_named(other, folder), reader, other.images, other.labels))
    energies = np.linspace(*np.array(reader.metadata["ranges"])[:, 0], _UNKNOWN)
    strange = unreconstructed(reader.screen, energies.tolist())
    rows.append(unknown_row("unreconstructed surface, (1x1)", reader, strange))
    dim = torch.rand(test.images[:_UNKNOWN].shape, generator=generator)
    rows.append(unknown_row("noise", reader, dim))
    columns = (
        "patterns", "energy MAE eV", "energy bias eV", "height MAE Å", "length MAE Å",
        "dimers right %", "flagged %", "novelty, median",
    )  # fmt: skip
    return [f"\n### {title}: other physics, without noise\n", markdown_table(_fine(rows), columns)]


def _named(data: CbleedData, folder: str | Path) -> str:
    """The physics of a folder, or the folder's name where that is the reference."""
    names = [name for name, physics in PHYSICS.items() if physics == data.config.physics]
    return names[0] if names and names[0] != "reference" else Path(folder).name


def draw_figures(
    reader: Reader,
    data: CbleedData,
    folder: str | Path,
    *,
    sweep: str | Path | None = None,
    run_folder: str | Path | None = None,
) -> list[Path]:
    """Draw the paper's figures of a reader and return their files.

    Parameters
    ----------
    reader : Reader
    data : CbleedData
        Patterns that are read, e.g. off the grid.
    folder : str or Path
        Where ``latent.png``, ``predictions.png``, ``sizes.png`` and ``reconstructions.png`` go.
    sweep : str or Path, optional
        ``sweep.json`` of `train.sweep`.
    run_folder : str or Path, optional
        Output of `train.train`, which kept reconstructions.
    """
    from matplotlib import pyplot

    from . import plot

    reading = reader.read(data.images)
    drawn = {"latent": plot.plot_latent(reading.codes, data.labels)[0]}
    drawn["predictions"], axes = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for t, name in enumerate(("beam energy (eV)", "height (Å)", "length (Å)")):
        plot.plot_predictions(
            data.labels[:, t], reading.values[:, t], reading.sigma[:, t], axes[t], name=name
        )
    if sweep is not None:
        losses = {int(k): v for k, v in json.loads(Path(sweep).read_text()).items()}
        drawn["sizes"] = plot.plot_latent_sizes(losses)[0]
    if run_folder is not None:
        drawn["reconstructions"] = plot.plot_reconstructions(*read_reconstructions(run_folder))[0]
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in drawn.items():
        paths.append(Path(folder) / f"{name}.png")
        figure.savefig(paths[-1], dpi=150)
        pyplot.close(figure)
    return paths


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``py4dstem-ml evaluate cbleed``."""
    parser.add_argument("--library", required=True, nargs="+", help="folders trained on")
    parser.add_argument("--weights", required=True, nargs="+", help="readers, names or files")
    parser.add_argument("--off-grid", nargs="+", default=(), help="folders off the grid")
    parser.add_argument("--shifts", nargs="+", default=(), help="folders of other physics")
    parser.add_argument("--direct", nargs="+", default=(), help="direct regressors")
    parser.add_argument("--no-baselines", action="store_true", help="no principal components")
    parser.add_argument("--patterns", type=int, default=1000, help="of each test at most")
    parser.add_argument("--output", help="file for the tables")
    parser.add_argument("--figures", help="folder for figures of the first reader, off the grid")
    parser.add_argument("--sweep", help="sweep.json of the latent sizes, for its figure")
    parser.add_argument("--run", dest="run_folder", help="folder of the training, for its figure")


def run(args: Namespace) -> str:
    """Run ``py4dstem-ml evaluate cbleed``."""
    text = evaluate(
        args.library, args.weights, off_grid=args.off_grid, shifts=args.shifts,
        direct=args.direct, with_baselines=not args.no_baselines, patterns=args.patterns,
    )  # fmt: skip
    if args.output:
        Path(args.output).write_text(text)
    if args.figures:
        reader = Reader.load(args.weights[0])
        averaged = reader.metadata["training"]["averaged"]
        data = CbleedData.read(args.off_grid or args.library, reader.screen, averaged=averaged)
        draw_figures(
            reader, _thinned(data, args.patterns), args.figures, sweep=args.sweep,
            run_folder=args.run_folder,
        )  # fmt: skip
    return text
