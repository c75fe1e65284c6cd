"""Fit regressors to the codes of a trained autoencoder, calibrate them, and write one reader."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..compute import pick_device
from ..progress import progress_bar
from .augment import Disturbance, disturbed
from .dataset import (
    SPLIT_RULE,
    TARGETS,
    WATCHED_EV,
    Between,
    CbleedData,
    Floats,
    is_held_out,
    split,
)
from .images import Screen
from .intervals import Calibration
from .model import Reader, apart_from, codes_of, features_of, novelty_of
from .network import Autoencoder, load_network
from .regressors import Neighbours, Regressor, SupportVectors, Trees

logger = logging.getLogger(__name__)

#: Those of the paper, and histogram boosting; "xgboost" joins where that is installed.
REGRESSORS = (
    "neighbours", "svr", "nusvr", "decision tree", "extra trees", "histogram boosting",
)  # fmt: skip
#: Widths of Gaussian kernels that are tried on few codes, as gamma times the numbers of a code.
_GAMMAS = (0.1, 0.3, 1.0, 3.0)
_TRIED = 1200
#: After which a support vector machine is taken as it is.
_ITERATIONS = 200_000
#: Kernel values of some thousand codes stay in memory.
_CACHE_MB = 1000
#: Share of the calibration patterns that novelty does not flag, and levels of noise that are
#: told apart: what is usual for few electrons is strange for many.
_USUAL, _NOISES = 0.95, 12
#: By how much fewer electrons calibration patterns have at least than those of the training.
_FEWER = 4
#: Splits that hold out whole energies: patterns between others show nothing of those.
_BY_ENERGY = ("energies", "all")
#: Patterns that a calibration needs.
_FEWEST = 20


@dataclass(frozen=True)
class FitConfig:
    """How regressors are fitted; written into the reader.

    Attributes
    ----------
    regressors : tuple of str
        Some of `REGRESSORS`, or "xgboost".
    neighbours : int
    penalty, tube, nu : float
        C, epsilon in standardised targets, and nu of the support vectors.
    trees : int
        Of a forest; boosting has twenty times as many.
    leaf : int
        Codes in a leaf at least.
    between : int
        Patterns between those of the grid that are fitted beside them, none of energies held out;
        only with splits by energy.
    disturbed_copies : int
        Disturbed copies of each pattern that are fitted beside it: more robust, less sharp.
    calibration_copies : int
        Disturbed copies of each validation pattern.
    disturbance : Disturbance
    seed : int

    Raises
    ------
    ValueError
        If a regressor is unknown, or XGBoost is asked for and not installed.
    """

    regressors: tuple[str, ...] = REGRESSORS
    neighbours: int = 6
    penalty: float = 10.0
    tube: float = 3e-3
    nu: float = 0.5
    trees: int = 20
    leaf: int = 2
    between: int = 4000
    disturbed_copies: int = 0
    calibration_copies: int = 8
    disturbance: Disturbance = field(default_factory=Disturbance)
    seed: int = 0

    def __post_init__(self) -> None:
        known = (*REGRESSORS, "xgboost")
        for name in self.regressors:
            if name not in known:
                raise ValueError(f"no regressor {name!r}; there are {', '.join(known)}")
        if not self.regressors:
            raise ValueError("give one regressor at least")
        least = {"neighbours": 1, "trees": 1, "leaf": 1, "between": 0, "disturbed_copies": 0}
        for name, number in {**least, "calibration_copies": 1}.items():
            if getattr(self, name) < number:
                raise ValueError(f"{name} is {number} or more; not {getattr(self, name)}")
        if "xgboost" in self.regressors and importlib.util.find_spec("xgboost") is None:
            raise ValueError("XGBoost is not installed: pip install xgboost, or leave it out")


def fit_regressors(
    codes: npt.NDArray[np.float32],
    targets: Floats,
    config: FitConfig,
    *,
    progress: bool | None = None,
) -> dict[str, Regressor]:
    """Fit each regressor to standardised codes (n, d) and targets (n, t).

    Examples
    --------
    >>> codes = np.linspace(0, 1, 60, dtype=np.float32)[:, None]
    >>> found = fit_regressors(codes, 2.0 * codes, FitConfig(("neighbours",)), progress=False)
    >>> float(found["neighbours"].predict(codes[7:8])[0, 0]) == 2 * codes[7, 0]
    True
    """
    from sklearn.exceptions import ConvergenceWarning

    gamma = None
    with warnings.catch_warnings():
        # Support vectors that stop early are judged by their errors, as all others are.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if {"svr", "nusvr"} & set(config.regressors):
            spread = targets.std(0).clip(min=1e-9)
            gamma = _kernel_width(codes, (targets - targets.mean(0)) / spread, config)
        return {
            name: _fitted(name, codes, targets, gamma, config)
            for name in progress_bar(config.regressors, description="fitting", progress=progress)
        }


def _kernel_width(codes: npt.NDArray, targets: Floats, config: FitConfig) -> Floats:
    """Gamma of each target: the best on half of a few codes, fitted to the other half."""
    from sklearn.svm import SVR

    few = np.random.default_rng(config.seed).permutation(len(codes))[:_TRIED]
    one, other = few[::2], few[1::2]
    gammas = np.array(_GAMMAS) / codes.shape[1]
    best = []
    for column in targets.T:
        models = [
            SVR(C=config.penalty, epsilon=config.tube, gamma=gamma, max_iter=_ITERATIONS).fit(
                codes[one], column[one]
            )
            for gamma in gammas
        ]
        errors = [np.abs(model.predict(codes[other]) - column[other]).mean() for model in models]
        best.append(gammas[int(np.argmin(errors))])
    return np.array(best)


def _fitted(
    name: str, codes: npt.NDArray, targets: Floats, gamma: Floats | None, config: FitConfig
) -> Regressor:
    from sklearn import ensemble, neighbors, svm, tree

    if name == "neighbours":
        count = min(config.neighbours, len(codes))
        return Neighbours.from_sklearn(
            neighbors.KNeighborsRegressor(count, weights="distance").fit(codes, targets)
        )
    if name in ("svr", "nusvr"):
        mean, scale = targets.mean(0), targets.std(0).clip(min=1e-9)
        make, tube = (
            (svm.SVR, {"epsilon": config.tube}) if name == "svr" else (svm.NuSVR, {"nu": config.nu})
        )
        models = [
            make(
                C=config.penalty, gamma=one, max_iter=_ITERATIONS, cache_size=_CACHE_MB, **tube
            ).fit(codes, column)
            for one, column in zip(gamma, ((targets - mean) / scale).T, strict=True)
        ]
        return SupportVectors.from_sklearn(models, scale, mean)
    if name == "xgboost":
        import xgboost

        data = [xgboost.DMatrix(codes, label=column) for column in targets.T]
        how = {"max_depth": 6, "eta": 0.05, "nthread": 1, "seed": config.seed}
        boosters = [xgboost.train(how, one, num_boost_round=20 * config.trees) for one in data]
        return Trees.from_xgboost(boosters, codes.shape[1])
    leaf, seed = config.leaf, config.seed
    makes: dict[str, Callable[[], Any]] = {
        "decision tree": lambda: tree.DecisionTreeRegressor(
            min_samples_leaf=leaf, random_state=seed
        ),
        "extra trees": lambda: ensemble.ExtraTreesRegressor(
            config.trees, min_samples_leaf=leaf, random_state=seed
        ),
        "histogram boosting": lambda: ensemble.HistGradientBoostingRegressor(
            max_iter=20 * config.trees, early_stopping=False, random_state=seed
        ),
    }
    return Trees.from_sklearn([makes[name]().fit(codes, column) for column in targets.T])


def fit(
    library: str | Path | Sequence[str | Path],
    network: str | Path,
    output: str | Path,
    config: FitConfig | None = None,
    *,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> Path:
    """Fit regressors to a trained autoencoder and write a reader.

    Parameters
    ----------
    library : str, Path or sequence of them
        The folders that the autoencoder was trained on: the split is the same.
    network : str or Path
        Of the autoencoder's weights.
    output : str or Path
        ``*.safetensors``.
    config : FitConfig, optional
    device : str or torch.device, optional
        Default: the GPU if there is one.
    progress : bool, optional
        None: bars in a terminal or a notebook.

    Raises
    ------
    ValueError
        If the network is no autoencoder, or was trained under another rule of splitting.
    """
    loaded = load_network(network)
    if not isinstance(loaded, Autoencoder):
        raise ValueError(f"{network} is a direct regressor: only an autoencoder has a code")
    training = loaded.metadata["training"]
    if loaded.metadata["split_rule"] != SPLIT_RULE:
        raise ValueError(f"{network} was trained under another rule of splitting; train it anew")
    screen = Screen(**training["screen"])
    data = CbleedData.read(library, screen, averaged=training["averaged"], progress=progress)
    reader = fit_on(
        data, loaded.to(pick_device(device)), config, rule=training["split"], progress=progress
    )
    return reader.save(output)


def fit_on(
    data: CbleedData,
    network: Autoencoder,
    config: FitConfig | None = None,
    *,
    rule: str = "all",
    progress: bool | None = None,
) -> Reader:
    """Fit regressors on patterns in memory; see `fit`.

    Where the split leaves too few patterns for a calibration, every tenth is taken.
    """
    config = config or FitConfig()
    images, targets, watched = _shown(data, rule, config)
    generator = torch.Generator().manual_seed(config.seed)
    plain = len(targets)
    for _ in range(config.disturbed_copies):
        copy = disturbed(images[:plain], config.disturbance, generator)
        images, targets = torch.cat([images, copy]), np.concatenate([targets, targets[:plain]])
    codes, _ = codes_of(network, images)
    mean, scale = codes.mean(0), codes.std(0).clip(min=1e-6)
    known = ((codes - mean) / scale).astype(np.float32)
    regressors = fit_regressors(known, targets, config, progress=progress)

    copies = watched.images.repeat(config.calibration_copies, 1, 1)
    truth = np.tile(watched.labels, (config.calibration_copies, 1))
    fewest, most = config.disturbance.counts
    # Fewer electrons, too: the noisiest patterns need others about them on both sides.
    how = replace(config.disturbance, counts=(fewest / _FEWER, most))
    codes, errors = codes_of(network, disturbed(copies, how, generator))
    seen = ((codes - mean) / scale).astype(np.float32)
    apart = apart_from(seen, errors, known)
    noise, novel = _novel(apart, errors[:, 1])
    predicted = {name: one.predict(seen) for name, one in regressors.items()}
    off = {name: np.abs(values - truth).mean(0) for name, values in predicted.items()}
    chosen = tuple(min(off, key=lambda name: off[name][t]) for t in range(len(TARGETS)))
    values = np.column_stack([predicted[name][:, t] for t, name in enumerate(chosen)])
    for t, name in enumerate(chosen):
        logger.info("%s by %s: %.3g off on the calibration", TARGETS[t], name, off[name][t])
    groups = np.tile(np.arange(len(watched)), config.calibration_copies)
    calibration = Calibration.of(features_of(seen, errors), values - truth, groups)
    metadata = {
        k: v for k, v in network.metadata.items() if k not in ("sha256", "cbleed_reader")
    } | {
        "fit": asdict(config),
        "origins": sorted({*network.metadata.get("origins", ()), *data.origins}),
    }  # fmt: skip
    return Reader(
        network, mean, scale, regressors, chosen, noise, novel, known, calibration, metadata
    )


def _novel(apart: Floats, noise: Floats) -> tuple[Floats, Floats]:
    """Levels of noise (k,), and what marks a pattern there as unlike the calibration's (k, 2)."""
    shares = np.array_split(noise.argsort(), min(_NOISES, len(noise) // _FEWEST) or 1)
    levels = np.array([np.median(noise[share]) for share in shares])
    usual = np.array([np.median(apart[share], axis=0) for share in shares]).clip(min=1e-9)
    return levels, usual * np.quantile(novelty_of(apart, noise, levels, usual), _USUAL)


def _shown(
    data: CbleedData, rule: str, config: FitConfig
) -> tuple[torch.Tensor, Floats, CbleedData]:
    """Images and targets that are fitted, and patterns to calibrate on."""
    parts = split(data.labels, rule)
    train, watched = parts["train"], parts["validation"]
    if len(watched) * config.calibration_copies < _FEWEST:
        watched, train = train[::10], np.delete(train, np.s_[::10])
        logger.warning(
            "nothing was held out to calibrate on: intervals are those of a tenth of the "
            "patterns, which patterns drawn between others may have shown"
        )
    if len(watched) * config.calibration_copies < _FEWEST:
        raise ValueError(f"{len(data)} patterns are too few to fit and calibrate regressors")
    if not len(train):
        raise ValueError(f"the split {rule!r} leaves no pattern of this library to fit to")
    images, targets = between_too(data, train, rule, config)
    judges = data.take(watched)
    if config.between and rule in _BY_ENERGY and len(parts["validation"]):
        # Off the grid, too: there regressors know less.
        held = np.concatenate([train, watched])
        more, beside = Between(data.images[torch.from_numpy(held)], data.labels[held]).draw(
            len(watched), np.random.default_rng(config.seed + 1), groups=max(1, len(watched) // 4),
            kept=partial(is_held_out, held_out=WATCHED_EV),
        )  # fmt: skip
        judges = replace(
            judges, images=torch.cat([judges.images, more]),
            labels=np.concatenate([judges.labels, beside]),
        )  # fmt: skip
    return images, targets, judges


def between_too(
    data: CbleedData, train: npt.NDArray[np.int64], rule: str, config: FitConfig
) -> tuple[torch.Tensor, Floats]:
    """Return training images and targets, and those drawn between them at energies not held out."""
    images, targets = data.images[torch.from_numpy(train)], data.labels[train]
    if not config.between or rule not in _BY_ENERGY:
        return images, targets
    rng = np.random.default_rng(config.seed)
    more, beside = Between(images, targets).draw(
        config.between, rng, groups=max(1, config.between // 4),
        kept=lambda energies_ev: ~is_held_out(energies_ev),
    )  # fmt: skip
    return torch.cat([images, more]), np.concatenate([targets, beside])


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``py4dstem-ml fit cbleed``."""
    defaults = FitConfig()
    parser.add_argument("--library", required=True, nargs="+", help="folders of shards")
    parser.add_argument("--network", required=True, help="the autoencoder's weights")
    parser.add_argument("--output", required=True, help="*.safetensors")
    parser.add_argument(
        "--regressors", nargs="+", default=defaults.regressors, metavar="NAME",
        help=f"default: {', '.join(REGRESSORS)}; also: xgboost",
    )  # fmt: skip
    parser.add_argument("--between", type=int, default=defaults.between)
    parser.add_argument("--disturbed-copies", type=int, default=defaults.disturbed_copies)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--device", help="default: the GPU if there is one")


def run(args: Namespace) -> None:
    """Run ``py4dstem-ml fit cbleed``."""
    config = FitConfig(
        regressors=tuple(args.regressors), between=args.between,
        disturbed_copies=args.disturbed_copies, seed=args.seed,
    )  # fmt: skip
    path = fit(args.library, args.network, args.output, config, device=args.device)
    logger.info("reader: %s", path)
