"""The LACBED networks by name, and their weights.

All take pictures (b, n, n) and depths (b,) in natural units (`natural`), and return pictures of
the other kind: "forward" the bright field of a potential, "inverse" the potential of a pattern.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from .. import weights
from .linenet import LineGenerator, LineInverse, LineSpec
from .pix2pix import Pix2PixGenerator, Pix2PixSpec
from .vae import VaeGenerator, VaeSpec

Spec = LineSpec | Pix2PixSpec | VaeSpec

_LARGE = {"cell": 48, "reflections": 192, "lines": 32, "widths": (64, 128, 192), "depth": 4}
#: What each name is built from: architecture, direction and size.
SPECS: dict[str, Spec] = {
    "linenet.forward.compact": LineSpec(),
    "linenet.inverse.compact": LineSpec(dropout=0.1),
    "linenet.forward.full": LineSpec(**_LARGE),
    "linenet.inverse.full": LineSpec(**_LARGE, dropout=0.1),
    "pix2pix.forward.compact": Pix2PixSpec("forward"),
    "pix2pix.inverse.compact": Pix2PixSpec("inverse"),
    "pix2pix.forward.full": Pix2PixSpec("forward", width=32, levels=3, blocks=9),
    "pix2pix.inverse.full": Pix2PixSpec("inverse", width=32, levels=3, blocks=9),
    "vae.forward.compact": VaeSpec(),
}
_NETWORKS: dict[tuple[str, str], tuple[type[nn.Module], type]] = {
    ("linenet", "forward"): (LineGenerator, LineSpec),
    ("linenet", "inverse"): (LineInverse, LineSpec),
    ("pix2pix", "forward"): (Pix2PixGenerator, Pix2PixSpec),
    ("pix2pix", "inverse"): (Pix2PixGenerator, Pix2PixSpec),
    ("vae", "forward"): (VaeGenerator, VaeSpec),
}


def direction_of(name: str) -> str:
    """Return "forward" or "inverse" of a name of `SPECS`.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in SPECS:
        raise ValueError(f"no network {name!r}; there are {sorted(SPECS)}")
    return name.split(".")[1]


def build_network(name: str, pixels: int | None = None) -> nn.Module:
    """Build a network of `SPECS` with random weights.

    Parameters
    ----------
    name : str
    pixels : int, optional
        Other than the spec's 64.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    direction_of(name)
    spec = asdict(SPECS[name])
    if pixels is not None:
        spec["pixels"] = pixels
    return _built(name, spec)


def _built(name: str, spec: Mapping[str, Any]) -> nn.Module:
    architecture, direction = name.split(".")[:2]
    network_type, spec_type = _NETWORKS[architecture, direction]
    network = network_type(spec_type(**spec))
    network.name, network.direction, network.metadata = name, direction, {}
    return network


def save_network(network: nn.Module, path: str | os.PathLike, metadata: Mapping[str, Any]) -> None:
    """Write weights in half precision, with the spec that they belong to."""
    tensors = {k: v.detach().cpu().half().contiguous() for k, v in network.state_dict().items()}
    said = {"lacbed": {"name": network.name, **asdict(network.spec)}}
    weights.save(path, tensors, {**metadata, **said})


def load_network(name_or_path: str | os.PathLike, device: torch.device | str = "cpu") -> nn.Module:
    """Read what `save_network` wrote, by name or path, ready to predict.

    Raises
    ------
    WeightsError
        If the file holds no such network, or one of another version.
    """
    tensors, metadata = weights.load(name_or_path)
    if "lacbed" not in metadata:
        raise weights.WeightsError(f"{name_or_path} does not hold a network for LACBED")
    spec = dict(metadata["lacbed"])
    try:
        network = _built(spec.pop("name"), spec)
        network.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise weights.WeightsError(
            f"{name_or_path} is of another version of the networks: {error}"
        ) from None
    network.metadata = dict(metadata)
    return network.to(device).eval()
