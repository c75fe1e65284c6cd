"""A whole reader of CBLEED patterns: autoencoder, regressors on its code, calibration; one file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from .. import weights
from .dataset import TARGETS, Floats
from .images import Screen, normalised
from .intervals import LEVELS, Calibration
from .network import Autoencoder, restored_network
from .regressors import KINDS, Neighbours, Regressor

#: Pixels over which a reconstruction's error is averaged, so that counting noise is not novelty.
_SMOOTH = 5
#: How a factor e in the noise compares with a standard deviation in the code, for calibration.
_NOISE = 4.0
_ARRAYS = ("code_mean", "code_scale", "noise", "novel", "known")
#: Images that are worked on at once.
_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read from n patterns.

    Attributes
    ----------
    values : ndarray, shape (n, 4)
        Columns: see `dataset.TARGETS`; eV at the inner potential of the training library, Å, Å,
        and a score of buckled dimers, from 0 to 1.
    intervals : ndarray, shape (levels, n, 4)
        Half widths for each of `intervals.LEVELS`.
    novelty : ndarray, shape (n,)
        Above 1: unlike 95 % of the patterns that the reader was calibrated on; not to be trusted.
    codes : ndarray, shape (n, latent)
    """

    values: Floats
    intervals: Floats
    novelty: Floats
    codes: npt.NDArray[np.float32]

    @property
    def sigma(self) -> Floats:
        """Half widths of the 68 % intervals, shape (n, 4)."""
        return self.intervals[0]


def codes_of(network: Autoencoder, images: torch.Tensor) -> tuple[npt.NDArray[np.float32], Floats]:
    """Return codes (n, latent) and errors of the reconstruction (n, 2) of intensities (n, H, W).

    The errors are root mean squares relative to the image's: one of what is left smoothed over
    neighbouring pixels, where counting noise is gone; one of what the smoothing takes away, which
    is noise.
    """
    codes, errors = [np.zeros((0, network.spec.latent), np.float32)], [np.zeros((0, 2))]
    device = next(network.parameters()).device
    for part in images.split(_AT_ONCE):
        seen = normalised(part.to(device))
        with torch.no_grad():
            code = network.encode(seen)
            apart = seen - network.decode(code)
        smooth = functional.avg_pool2d(apart[:, None], _SMOOTH, 1, _SMOOTH // 2)[:, 0]
        squared = torch.stack(
            [one.square().mean((1, 2)) for one in (smooth, apart - smooth)], dim=1
        )
        size = seen.square().mean((1, 2)).clamp(min=1e-12)
        errors.append((squared / size[:, None]).sqrt().cpu().double().numpy())
        codes.append(code.cpu().numpy())
    return np.concatenate(codes), np.concatenate(errors)


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads patterns by a trained autoencoder and regressors on its code.

    Attributes
    ----------
    network : Autoencoder
    code_mean, code_scale : ndarray, shape (latent,)
        Regressors see standardised codes.
    regressors : dict of Regressor
        By name, each for all targets.
    chosen : tuple of str
        The regressor of each target.
    noise : ndarray, shape (k,)
        Rising levels of noise, see `codes_of`.
    novel : ndarray, shape (k, 2)
        At each, the error of the reconstruction, and the distance to the nearest known code, that
        5 % of the calibration patterns exceed in one of both.
    known : ndarray, shape (m, latent)
        Standardised codes that novelty is measured from.
    calibration : Calibration
    metadata : dict
    """

    network: Autoencoder
    code_mean: npt.NDArray[np.float32]
    code_scale: npt.NDArray[np.float32]
    regressors: dict[str, Regressor]
    chosen: tuple[str, ...]
    noise: Floats
    novel: Floats
    known: npt.NDArray[np.float32]
    calibration: Calibration
    metadata: dict[str, Any]

    @property
    def screen(self) -> Screen:
        """The screen that images must be on."""
        return Screen(**self.metadata["training"]["screen"])

    def standardised(self, codes: npt.NDArray) -> npt.NDArray[np.float32]:
        """Return codes as the regressors see them."""
        return ((codes - self.code_mean) / self.code_scale).astype(np.float32)

    def read(self, images: torch.Tensor, chosen: tuple[str, ...] | None = None) -> Reading:
        """Read intensities (n, H, W) on the reader's screen, on any scale.

        Parameters
        ----------
        images : torch.Tensor
        chosen : tuple of str, optional
            The regressor of each target, other than the reader's own choice.
        """
        codes, errors = codes_of(self.network, images)
        seen = self.standardised(codes)
        names = chosen or self.chosen
        predicted = {name: self.regressors[name].predict(seen) for name in set(names)}
        values = np.column_stack([predicted[name][:, t] for t, name in enumerate(names)])
        values[:, TARGETS.index("buckled")] = values[:, TARGETS.index("buckled")].clip(0, 1)
        apart = apart_from(seen, errors, self.known)
        novelty = novelty_of(apart, errors[:, 1], self.noise, self.novel)
        intervals = self.calibration.intervals(features_of(seen, errors))
        return Reading(values, intervals, novelty, codes)

    def save(self, path: str | os.PathLike) -> Path:
        """Write all in one file of arrays."""
        tensors = {f"network/{k}": v for k, v in self.network.state_dict().items()}
        kinds = {}
        for name, regressor in self.regressors.items():
            kinds[name] = regressor.kind
            tensors |= {f"regressor/{name}/{k}": v for k, v in regressor.tensors().items()}
        tensors |= {f"calibration/{k}": v for k, v in self.calibration.tensors().items()}
        for name in _ARRAYS:
            tensors[name] = torch.from_numpy(getattr(self, name))
        said = {"regressors": kinds, "chosen": list(self.chosen), "levels": list(LEVELS)}
        return weights.save(path, tensors, {**self.metadata, "cbleed_reader": said})

    @classmethod
    def load(cls, name_or_path: str | os.PathLike, device: torch.device | str = "cpu") -> Reader:
        """Read what `save` wrote, by name or path.

        Raises
        ------
        WeightsError
            If the file holds no such reader, or one of another version.
        """
        tensors, metadata = weights.load(name_or_path)
        if "cbleed_reader" not in metadata:
            raise weights.WeightsError(
                f"{name_or_path} does not hold a reader of CBLEED patterns; 'py4dstem-ml fit "
                "cbleed' makes one of an autoencoder"
            )
        said = metadata["cbleed_reader"]
        network = restored_network(_under("network/", tensors), metadata, name_or_path)
        if tuple(said["levels"]) != LEVELS:
            raise weights.WeightsError(
                f"{name_or_path} has intervals of {said['levels']}, where {LEVELS} are read"
            )
        try:
            regressors = {
                name: KINDS[kind].from_tensors(_under(f"regressor/{name}/", tensors))
                for name, kind in said["regressors"].items()
            }
            calibration = Calibration.from_tensors(_under("calibration/", tensors))
            arrays = {name: tensors[name].numpy() for name in _ARRAYS}
        except (KeyError, TypeError, ValueError) as error:
            raise weights.WeightsError(
                f"{name_or_path} is of another version of the readers: {error}"
            ) from None
        return cls(
            network=network.to(device), regressors=regressors, chosen=tuple(said["chosen"]),
            calibration=calibration, metadata=dict(metadata), **arrays,
        )  # fmt: skip


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def features_of(codes: npt.NDArray, errors: Floats) -> npt.NDArray[np.float32]:
    """What makes patterns alike to a calibration: above all their noise, then their code."""
    noise = _NOISE * np.log(np.maximum(errors[:, 1], 1e-6))
    return np.column_stack([codes / np.sqrt(codes.shape[1]), noise]).astype(np.float32)


def apart_from(codes: npt.NDArray, errors: Floats, known: npt.NDArray) -> Floats:
    """Return by what patterns are new (n, 2): reconstruction's error, distance to a known code."""
    return np.column_stack([errors[:, 0], nearest_distance(codes, known)])


def novelty_of(apart: Floats, noise: Floats, levels: Floats, usual: Floats) -> Floats:
    """Return the greater ratio (n,) of `apart_from` (n, 2) to what is usual at a pattern's noise.

    What is usual (k, 2) is known at rising levels of noise (k,); beyond the first and last it is
    as there.
    """
    x, known = np.log(np.maximum(noise, 1e-9)), np.log(np.maximum(levels, 1e-9))
    at_noise = np.column_stack([np.interp(x, known, column) for column in usual.T])
    return (apart / at_noise).max(1)


def nearest_distance(codes: npt.NDArray, known: npt.NDArray) -> Floats:
    """Return the distance of each code (n, d) to the nearest known one (m, d)."""
    there = Neighbours(known, np.zeros((len(known), 1)), np.array([1]))
    return there.nearest(codes)[1][:, 0]
