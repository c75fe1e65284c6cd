"""The disk networks against py4DSTEM's cross-correlation: accuracy, SSIM, strain, speed, memory.

    python benchmarks/disks.py --library LIBRARY --structures structures_icsd.npz --output results

The library holds shards of the part "test", and of "validation" to tune cross-correlation on
(without them the last shards of "train" serve). The multislice set and the strained stacks are
simulated once and kept in the output folder. Without --structures there is no multislice set,
without --library no Bloch set and no tuning.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from py4dstem_ml.compute import pick_device
from py4dstem_ml.disks import evaluate, strain
from py4dstem_ml.disks.network import load_network
from py4dstem_ml.physics.patterns import Detector, probe_image
from py4dstem_ml.tables import markdown_table
from py4dstem_ml.toolkits.cross_correlation import CrossCorrelationFinder, settings, tune
from py4dstem_ml.weights import read_registry

STACKS = {False: strain.StackConfig(), True: strain.StackConfig(positions=24, rows=1)}
VALIDATION_SHARDS = 6


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", help="folder of shards: test and validation")
    parser.add_argument("--structures", help="table of crystals (.npz), for the multislice set")
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--models", nargs="*", help="names or files; default: all that are shipped")
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patterns", type=int, help="of each set, drawn at random; default: all")
    parser.add_argument("--quick", action="store_true", help="fewer crystals, patterns, doses")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_arguments(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    device = pick_device(args.device)
    models = evaluate.model_names(shipped() if args.models is None else args.models)
    networks = {name: load_network(model, device) for name, model in models.items()}
    classical, tuned_on = tuned_correlation(args)
    finders = {
        **{name: evaluate.network_finder(net, device=device) for name, net in networks.items()},
        **{f"correlation, {name}": finder for name, finder in classical.items()},
    }
    scores: dict = {"correlation": {name: asdict(finder) for name, finder in classical.items()}}
    parts = [
        "# Bragg disks: networks and cross-correlation",
        settings_text(args, classical, tuned_on),
    ]
    for patterns in material(args):
        found, maps = evaluate_set(patterns, finders, networks, args)
        scores[patterns.name] = {"peaks": found, "maps": maps}
        parts += [f"## Test set: {patterns.name}", evaluate.accuracy_tables(found)]
        parts += ["Gain over cross-correlation, paired by crystal:", gain_table(found, networks)]
        parts += ["SSIM of maps, at 1e5 electrons:", evaluate.map_table(maps)] if maps else []
    measured = {name: strain.evaluate_strain(finder, stacks(args, device), seed=args.seed)
                for name, finder in finders.items()}  # fmt: skip
    parts += ["## Strain, RMS error", strain.strain_table(measured)]
    speeds = speed_rows(models, classical, str(device), args.quick)
    columns = ("method", "pixels", "patterns/s", "ms a pattern", "peak memory MB")
    parts += ["## Speed", markdown_table(speeds, columns)]
    scores |= {"strain": measured, "speed": speeds}
    print(evaluate.write_report(args.output, "disks", parts, scores))


def shipped() -> list[str]:
    entries = read_registry().entries.values()
    return [entry.name for entry in entries if entry.system == "disks"]


def settings_text(args: argparse.Namespace, classical: dict, tuned_on: str) -> str:
    tuned = json.dumps(asdict(classical["poly"]))
    return (
        f"{'Quick run. ' if args.quick else ''}torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, seed {args.seed}. "
        f"Truth: structure factors of {evaluate.TRUTH_FLOOR:g} of the strongest and more. "
        f"± is the standard error over crystals. Cross-correlation, {tuned_on}: `{tuned}`"
    )


def tuned_correlation(args: argparse.Namespace) -> tuple[dict[str, CrossCorrelationFinder], str]:
    """Tune by the mean accuracy at both match radii; return the finders and what they know."""
    if args.library is None:
        untuned = {name: CrossCorrelationFinder(name) for name in ("poly", "multicorr")}
        return untuned, "not tuned (no --library)"
    part = "validation" if any(Path(args.library).glob("validation-*.h5")) else "train"
    validation = evaluate.library_set(args.library, part=part, shards=VALIDATION_SHARDS)
    validation = some_of(validation, 16 if args.quick else 64, args.seed)

    def score(finder: CrossCorrelationFinder) -> float:
        rows = evaluate.evaluate_finder(finder, validation, doses=(1e5,), progress=False)
        return float(np.mean([row["accuracy"] + row["accuracy_1px"] for row in rows]))

    candidates = list(settings())
    tuned = tune(score, candidates[::5] if args.quick else candidates)
    return tuned, f"tuned on {len(validation)} patterns of the last {part} shards"


def some_of(patterns: evaluate.PatternSet, number: int, seed: int) -> evaluate.PatternSet:
    chosen = np.random.default_rng(seed).permutation(len(patterns))[:number]
    return patterns.select(np.sort(chosen))


def material(args: argparse.Namespace) -> list[evaluate.PatternSet]:
    if args.library is None and args.structures is None:
        return []
    crystals = 6 if args.quick else 36
    sets = evaluate.evaluation_sets(args.library, args.structures, args.output, crystals, args.seed)
    number = 24 if args.quick else args.patterns
    return [some_of(patterns, number or len(patterns), args.seed) for patterns in sets]


def evaluate_set(patterns, finders, networks, args) -> tuple[dict, dict]:
    doses = (1e5,) if args.quick else evaluate.DOSES
    found = {
        name: evaluate.evaluate_finder(finder, patterns, doses=doses, seed=args.seed)
        for name, finder in finders.items()
    }
    maps = {
        name: evaluate.evaluate_maps(network, patterns, seed=args.seed)
        for name, network in networks.items()
    }
    return found, maps


def gain_table(found: dict, networks: dict) -> str:
    lines = []
    for name in networks:
        for other in [method for method in found if method not in networks]:
            line = {"method": name, "over": other}
            for column in ("accuracy", "accuracy_1px", "recall"):
                gain = evaluate.paired_gain(found[name], found[other], column)
                line[column], line[f"{column}_se"] = gain
            lines.append(line)
    return markdown_table(lines, ("method", "over", "accuracy", "accuracy_1px", "recall"))


def stacks(args: argparse.Namespace, device: torch.device) -> list[strain.StackScan]:
    config = STACKS[args.quick]
    path = args.output / f"stacks{'-quick' if args.quick else ''}.npz"
    if not path.exists():
        strain.save_scans(path, strain.simulate_stacks(config, device=device))
    return strain.load_scans(path, config)


def speed_rows(models, classical, device: str, quick: bool) -> list[dict]:
    """Measure each method in a process of its own, so that its peak memory is its own."""
    count = 64 if quick else 256
    rows = []
    for size in (128, 256):
        jobs = [(name, model, None) for name, model in models.items()]
        jobs += [(f"correlation, {name}", None, finder) for name, finder in classical.items()]
        for method, model, finder in jobs:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                number = count if finder is None else count // 8
                seconds, memory = pool.apply(measure, (model, finder, size, number, device))
            rows.append({
                "method": method, "pixels": size, "patterns/s": number / seconds,
                "ms a pattern": 1e3 * seconds / number, "peak memory MB": memory,
            })  # fmt: skip
    return rows


def measure(model, finder, size: int, number: int, device: str) -> tuple[float, float]:
    """Time a finder, batches of 64, after a first batch; return seconds and peak memory in MB."""
    if model is not None:
        finder = evaluate.network_finder(load_network(model, device), device=device)
    probe = probe_image(Detector((size, size), 0.02 * 128 / size), 2.0, 200e3).numpy()
    patterns = disks_on_a_lattice(probe, min(number, 64))
    finder(patterns[:64], probe)
    start = time.perf_counter()
    for _ in range(number // len(patterns)):
        finder(patterns, probe)
    seconds = time.perf_counter() - start
    memory = peak_memory_mb()
    if device.startswith("cuda") and model is not None:
        memory = torch.cuda.max_memory_allocated() / 1e6
    return seconds, memory


def peak_memory_mb() -> float:
    """Return this process's own peak; on Linux getrusage gives its parent's, where that is more."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if "VmHWM" in line)
        return int(line.split()[1]) / 1e3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def disks_on_a_lattice(probe: np.ndarray, number: int) -> np.ndarray:
    """Return noisy patterns with a disk every eighth of the image, fading outwards."""
    size = len(probe)
    points = np.zeros((size, size))
    grid = np.arange(size // 16, size, size // 8)
    row, col = np.meshgrid(grid, grid, indexing="ij")
    points[row, col] = np.exp(-np.hypot(row - size / 2, col - size / 2) / (0.2 * size))
    spectrum = np.fft.rfft2(points) * np.fft.rfft2(np.fft.ifftshift(probe))
    pattern = np.fft.irfft2(spectrum, s=points.shape).clip(0)
    counts = np.random.default_rng(0).poisson(1e5 * pattern / pattern.sum(), (number, size, size))
    return counts.astype(np.float32)


if __name__ == "__main__":
    main()
