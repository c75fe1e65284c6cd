"""The network that reads crystals from peak lists: one list by itself, or several together.

Each list is embedded from its invariants and its spectrum. What it says of system, space group
and lattice is read from the embedding; what several lists of one crystal say, from their
embeddings pooled by attention and from their common powder spectrum, whose autocorrelation
compares lengths across patterns as the invariants do within one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from .. import weights
from .crystal_classes import EQUAL_AXES, SYSTEM_OF_GROUP, SYSTEMS
from .invariants import SPECTRUM_BINS, Invariants

_GROUPS = len(SYSTEM_OF_GROUP)
#: Lags of the spectrum's autocorrelation: ratios up to 4.2.
_LAGS = 240


@dataclass(frozen=True)
class PeakSetSpec:
    """What a network is built from.

    Attributes
    ----------
    invariants : Invariants
    width, depth : int
        Of the embedding's layers.
    embedding : int
    heads : int
        Of the attention over lists.
    dropout : float
    """

    invariants: Invariants = Invariants()
    width: int = 1024
    depth: int = 2
    embedding: int = 384
    heads: int = 4
    dropout: float = 0.2


SPECS: Mapping[str, PeakSetSpec] = {"peakset": PeakSetSpec()}


class Reading(NamedTuple):
    """What is read of each list, or of each bag.

    Attributes
    ----------
    system : torch.Tensor, shape (..., 7)
        Logarithms of probabilities, see `SYSTEMS`.
    group : torch.Tensor, shape (..., 230)
        Of the space groups given their system.
    lattice : torch.Tensor, shape (..., 7, 3)
        log(a, b, c / Å) given the system.
    spread : torch.Tensor, shape (..., 7, 3)
        log of its mean absolute error.
    mixed : torch.Tensor, shape (...)
        Logit of a second grain's being in the pattern; of a bag, of the share of such patterns.
    """

    system: torch.Tensor
    group: torch.Tensor
    lattice: torch.Tensor
    spread: torch.Tensor
    mixed: torch.Tensor


class _Residual(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(width, width),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


class _Heads(nn.Module):
    """A `Reading` of an embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        systems = len(SYSTEMS)
        self.sizes = (systems, _GROUPS, 3 * systems, 3 * systems, 1)
        self.linear = nn.Linear(width, sum(self.sizes))
        belongs = torch.nn.functional.one_hot(torch.from_numpy(SYSTEM_OF_GROUP), systems)
        self.register_buffer("belongs", belongs.T.bool(), persistent=False)
        self.register_buffer("axes", torch.tensor(EQUAL_AXES), persistent=False)

    def forward(self, x: torch.Tensor) -> Reading:
        system, group, lattice, spread, mixed = self.linear(x).float().split(self.sizes, dim=-1)
        lattice = lattice.unflatten(-1, (-1, 3)) + 2.0  # about log(7 Å)
        spread = spread.unflatten(-1, (-1, 3)).clamp(-6.0, 2.0) - 1.0
        axes = self.axes.expand(lattice.shape)
        return Reading(
            system.log_softmax(-1), self._of_system(group), lattice.gather(-1, axes),
            spread.gather(-1, axes), mixed[..., 0],
        )  # fmt: skip

    def _of_system(self, group: torch.Tensor) -> torch.Tensor:
        total = [group.masked_fill(~groups, -torch.inf).logsumexp(-1) for groups in self.belongs]
        system = self.belongs.int().argmax(0)
        return group - torch.stack(total, dim=-1)[..., system]


class PeakSetNet(nn.Module):
    """Read crystal system, space group and lattice from peak lists.

    Parameters
    ----------
    spec : PeakSetSpec

    Examples
    --------
    >>> network = PeakSetNet(PeakSetSpec(width=32, embedding=16)).eval()
    >>> lists = torch.rand(2, 5, 40, 3)  # two bags of five lists
    >>> features = network.features(lists)
    >>> embedded = network.embed(features)
    >>> network.read(embedded).system.shape
    torch.Size([2, 5, 7])
    >>> network.pool(embedded, features, torch.ones(2, 5)).system.shape
    torch.Size([2, 7])
    """

    def __init__(self, spec: PeakSetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.metadata: dict[str, Any] = {}
        width, size = spec.width, spec.embedding
        features = spec.invariants.n_features + SPECTRUM_BINS
        self.trunk = nn.Sequential(
            nn.BatchNorm1d(features, eps=1e-4, affine=False), nn.Dropout(0.5 * spec.dropout),
            nn.Linear(features, width), nn.GELU(), nn.Dropout(spec.dropout),
            *(_Residual(width, spec.dropout) for _ in range(spec.depth)),
            nn.LayerNorm(width), nn.Linear(width, size),
        )  # fmt: skip
        self.heads = nn.Sequential(nn.GELU(), nn.Dropout(spec.dropout), _Heads(size))
        self.attention = nn.Sequential(nn.GELU(), nn.Linear(size, spec.heads))
        spectra = SPECTRUM_BINS + _LAGS
        self.powder = nn.Sequential(
            nn.BatchNorm1d(spectra, eps=1e-4, affine=False), nn.Dropout(0.5 * spec.dropout),
            nn.Linear(spectra, size), nn.GELU(),
        )  # fmt: skip
        pooled = (spec.heads + 1) * size + size + len(SYSTEMS) + 1
        self.pooled = nn.Sequential(
            nn.Linear(pooled, width), nn.GELU(), nn.Dropout(spec.dropout),
            _Residual(width, spec.dropout), nn.LayerNorm(width), _Heads(width),
        )  # fmt: skip

    def features(self, peaks: torch.Tensor) -> torch.Tensor:
        """Return the invariants of lists, then the roots of their spectra, shape (..., features).

        Parameters
        ----------
        peaks : torch.Tensor, shape (..., k, 3)
            Diffracted beams [qx, qy, intensity], the strongest first, then zeros.
        """
        flat = peaks.reshape(-1, *peaks.shape[-2:])
        # In full precision everywhere, so that all machines see the same.
        with torch.no_grad(), torch.autocast(flat.device.type, enabled=False):
            spectrum = self.spec.invariants.spectrum(flat)
            features = torch.cat([self.spec.invariants(flat), spectrum.sqrt()], dim=1)
        return features.reshape(*peaks.shape[:-2], -1)

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of lists (..., embedding) from their `features`."""
        return self.trunk(features.flatten(0, -2)).unflatten(0, features.shape[:-1])

    def read(self, embedded: torch.Tensor) -> Reading:
        """Read each list by itself."""
        return self.heads(embedded)

    def pool(
        self, embedded: torch.Tensor, features: torch.Tensor, present: torch.Tensor
    ) -> Reading:
        """Read bags of lists of one crystal each.

        Parameters
        ----------
        embedded, features : torch.Tensor, shape (bags, lists, ...)
            See `embed`.
        present : torch.Tensor, shape (bags, lists)
            1 where there is a list, 0 where the bag is smaller.
        """
        present = present.float()[..., None]
        count = present.sum(1).clamp(min=1.0)
        scores = self.attention(embedded).float().masked_fill(present == 0, -1e4).softmax(1)
        drawn = torch.einsum("bnh,bnd->bhd", scores, embedded.float()).flatten(1)
        mean = (embedded.float() * present).sum(1) / count
        single = (self.read(embedded).system * present).sum(1) / count.sqrt()
        spectrum = features[..., -SPECTRUM_BINS:].square()
        parts = [drawn, mean, self.powder(_powder(spectrum, present, count)).float(), single]
        return self.pooled(torch.cat([*parts, count.log()], dim=1))


def _powder(spectrum: torch.Tensor, present: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Root of the common spectrum, and of its autocorrelation."""
    common = (spectrum * present).sum(1) / count
    power = torch.fft.rfft(common, n=2 * SPECTRUM_BINS).abs().square()
    lags = torch.fft.irfft(power)[:, 1 : _LAGS + 1].clamp(min=0.0)
    return torch.cat([common.sqrt(), lags.sqrt()], dim=1)


def build_network(name: str) -> PeakSetNet:
    """Build a network of `SPECS` with random weights.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in SPECS:
        raise ValueError(f"no network {name!r}; there are {sorted(SPECS)}")
    return PeakSetNet(SPECS[name])


def save_network(network: PeakSetNet, path: str | os.PathLike, metadata: Mapping[str, Any]) -> None:
    """Write weights in half precision, with the spec that they belong to."""
    tensors = {
        key: value.detach().cpu().half().contiguous() if value.is_floating_point() else value.cpu()
        for key, value in network.state_dict().items()
    }
    weights.save(path, tensors, {**metadata, "peakset": asdict(network.spec)})


def load_network(name_or_path: str | os.PathLike, device: torch.device | str = "cpu") -> PeakSetNet:
    """Read what `save_network` wrote, by name or path, ready to predict.

    Raises
    ------
    WeightsError
        If the file holds no such network, or one of another version of the features.
    """
    return network_of(*weights.load(name_or_path), name_or_path, device)


def network_of(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any],
    name: str | os.PathLike, device: torch.device | str = "cpu",
) -> PeakSetNet:  # fmt: skip
    """Build the network of a file that was read, see `load_network`."""
    if "peakset" not in metadata:
        raise weights.WeightsError(f"{name} does not hold a network for peak lists")
    known = dict(metadata["peakset"])
    try:
        network = PeakSetNet(PeakSetSpec(Invariants(**known.pop("invariants")), **known))
        network.load_state_dict(tensors)
    except (TypeError, RuntimeError) as error:
        raise weights.WeightsError(
            f"{name} is of another version of the network: {error}"
        ) from None
    network.metadata = dict(metadata)
    return network.to(device).eval()
