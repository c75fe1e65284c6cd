"""Search the hyper-parameters of a disk network with Optuna (the extra ``py4dstem_ml[tune]``).

Every trial is a short training run; its score is the error on the library's part "validation",
whose crystals neither training nor the test sees. The study lives in an SQLite file, so that
several processes can share it and a broken-off search goes on.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .augment import Augmentation, AugmentConfig
from .network import SPECS, load_network
from .train import ShardStream, TrainConfig, relative_error, target_map, train

if TYPE_CHECKING:
    import optuna

#: Batches that a trial is scored on.
_BATCHES = 32


def suggest(trial: optuna.Trial, base: TrainConfig) -> TrainConfig:
    """Draw what is searched: learning rate, weight decay, batch size and averaging."""
    return replace(
        base,
        learning_rate=trial.suggest_float("learning_rate", 3e-4, 6e-3, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True),
        batch_size=trial.suggest_categorical("batch_size", [8, 16, 32]),
        averaging=1.0 - trial.suggest_float("forgetting", 3e-4, 1e-2, log=True),
    )


def held_out_error(weights: Path, library: str | Path, device: str | torch.device) -> float:
    """Return the mean relative error on the part "validation" of a library, augmented."""
    network = load_network(weights, device)
    augmentation = Augmentation(AugmentConfig(), seed=1)
    errors = []
    for batch in islice(map(augmentation, _held_out(library)), _BATCHES):
        targets = target_map(batch.peaks, tuple(batch.patterns.shape[-2:]))
        with torch.inference_mode():
            maps = network(batch.patterns.to(device), batch.probes.to(device)).cpu()
        errors.append(float(relative_error(maps, targets)))
    return sum(errors) / len(errors)


def _held_out(library: str | Path) -> ShardStream:
    return ShardStream(library, TrainConfig(seed=1), AugmentConfig(), part="validation")


def tune(
    library: str | Path,
    output: str | Path,
    base: TrainConfig,
    *,
    trials: int = 20,
    device: str | torch.device = "cpu",
) -> TrainConfig:
    """Search and return the best configuration, which is also written to ``best.json``.

    Parameters
    ----------
    library : str or Path
        Folder with shards of the parts "train" and "validation".
    output : str or Path
        Folder for ``study.db``, the trials' runs and ``best.json``.
    base : TrainConfig
        Network, and steps or seconds of a trial.
    trials : int
        To add to the study.
    device : str or torch.device

    Raises
    ------
    FileNotFoundError
        If the library lacks a part.
    RuntimeError
        If Optuna is not installed.
    """
    _held_out(library)  # refuses before the first trial, not after it
    try:
        import optuna
    except ImportError as error:
        raise RuntimeError("the search needs Optuna: pip install 'py4dstem_ml[tune]'") from error

    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)

    def objective(trial: optuna.Trial) -> float:
        folder = output / f"trial-{trial.number:04d}"
        weights = train(library, folder, suggest(trial, base), device=device)
        return held_out_error(weights, library, device)

    study = optuna.create_study(
        storage=f"sqlite:///{output / 'study.db'}", study_name=base.network, load_if_exists=True
    )
    study.optimize(objective, n_trials=trials)
    best = suggest(optuna.trial.FixedTrial(study.best_params), base)
    (output / "best.json").write_text(json.dumps({"error": study.best_value, **asdict(best)}))
    return best


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``py4dstem-ml tune disks``."""
    parser.add_argument("--library", required=True, help="folder of shards, train and validation")
    parser.add_argument("--output", required=True, help="folder for the study and its runs")
    parser.add_argument("--network", choices=sorted(SPECS), default=TrainConfig.network)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--time-limit", type=float, default=600.0, help="seconds of a trial")
    parser.add_argument("--device", help="default: the GPU if there is one")


def run(args: Namespace) -> str:
    """Run ``py4dstem-ml tune disks``."""
    from ..compute import pick_device

    base = TrainConfig(network=args.network, steps=10**9, time_limit_s=args.time_limit)
    best = tune(
        args.library, args.output, base, trials=args.trials, device=pick_device(args.device)
    )
    return f"best: {best}"
