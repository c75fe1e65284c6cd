"""The networks: an autoencoder with a few latent numbers, and a direct regressor beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from .. import weights

#: Logit of about a dark pixel.
_DARK = -2.5


@dataclass(frozen=True)
class NetworkSpec:
    """What a network is built from.

    Attributes
    ----------
    kind : {"autoencoder", "direct"}
    pixels : int
        Rows and columns of the images, a multiple of 2 to the number of ``channels``.
    channels : tuple of int
        Of the convolutions of 3 x 3, each followed by pooling 2 x 2.
    hidden : int
        Numbers between convolutions and code.
    latent : int
        Numbers of the code.
    outputs : int
        Of a direct regressor.

    Raises
    ------
    ValueError
        If the kind is unknown or the pixels cannot be pooled as often.
    """

    kind: str = "autoencoder"
    pixels: int = 64
    channels: tuple[int, ...] = (16, 32, 48)
    hidden: int = 256
    latent: int = 8
    outputs: int = 4

    def __post_init__(self) -> None:
        if self.kind not in ("autoencoder", "direct"):
            raise ValueError(f"a network is an 'autoencoder' or 'direct'; not {self.kind!r}")
        if not self.channels or self.pixels % 2 ** len(self.channels):
            raise ValueError(f"{self.pixels} pixels cannot be halved {len(self.channels)} times")
        if min(self.latent, self.hidden, self.outputs) < 1:
            raise ValueError("a network needs one latent, hidden and output number at least")


def _encoder(spec: NetworkSpec) -> nn.Sequential:
    """Convolutions with 'same' padding and stride 1, each with pooling."""
    layers: list[nn.Module] = []
    for before, after in zip((1, *spec.channels), spec.channels, strict=False):
        layers += [*_convolution(before, after), nn.MaxPool2d(2)]
    side = spec.pixels // 2 ** len(spec.channels)
    wide = spec.channels[-1] * side**2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(wide, spec.hidden), nn.GELU())


def _convolution(before: int, after: int) -> list[nn.Module]:
    # Normalised over the batch: without it the loss falls several times more slowly.
    same = nn.Conv2d(before, after, 3, padding="same", bias=False)
    return [same, nn.BatchNorm2d(after), nn.GELU()]


class Autoencoder(nn.Module):
    """Images as a few numbers, and back; trained on images alone.

    Parameters
    ----------
    spec : NetworkSpec

    Examples
    --------
    >>> network = Autoencoder(NetworkSpec(pixels=16, channels=(4, 4)))
    >>> code = network.encode(torch.rand(2, 16, 16))
    >>> code.shape, network.decode(code).shape
    (torch.Size([2, 8]), torch.Size([2, 16, 16]))
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        side = spec.pixels // 2 ** len(spec.channels)
        self.encoder = nn.Sequential(*_encoder(spec), nn.Linear(spec.hidden, spec.latent))
        deep = spec.channels[-1]
        layers: list[nn.Module] = [
            nn.Linear(spec.latent, spec.hidden), nn.GELU(),
            nn.Linear(spec.hidden, deep * side**2), nn.GELU(), nn.Unflatten(1, (deep, side, side)),
        ]  # fmt: skip
        for before, after in zip(
            spec.channels[::-1], (*spec.channels[-2::-1], spec.channels[0]), strict=True
        ):
            layers += [nn.Upsample(scale_factor=2), *_convolution(before, after)]
        self.decoder = nn.Sequential(*layers, nn.Conv2d(spec.channels[0], 1, 3, padding="same"))

        # Most of a pattern is dark: the training need not find that out.
        nn.init.constant_(self.decoder[-1].bias, _DARK)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Return the codes (n, latent) of normalised images (n, H, W)."""
        return self.encoder(images[:, None]).float()

    def logits(self, code: torch.Tensor) -> torch.Tensor:
        """Return images (n, H, W) before the sigmoid."""
        return self.decoder(code)[:, 0].float()

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        """Return the images (n, H, W) of codes (n, latent)."""
        return torch.sigmoid(self.logits(code))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of the reconstruction."""
        return self.logits(self.encode(images))


class Direct(nn.Module):
    """Regresses standardised targets from images, without a bottleneck."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.body = nn.Sequential(*_encoder(spec), nn.Linear(spec.hidden, spec.outputs))
        self.register_buffer("mean", torch.zeros(spec.outputs))
        self.register_buffer("scale", torch.ones(spec.outputs))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return standardised targets (n, outputs) of normalised images (n, H, W)."""
        return self.body(images[:, None]).float()

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Return targets in their own units."""
        return self(images) * self.scale + self.mean


def build_network(spec: NetworkSpec) -> Autoencoder | Direct:
    """Build a network with random weights."""
    network = (Autoencoder if spec.kind == "autoencoder" else Direct)(spec)
    # Convolutions of few channels take half the time so on a CPU.
    return network.to(memory_format=torch.channels_last)


def save_network(network: nn.Module, path: str | os.PathLike, metadata: Mapping[str, Any]) -> None:
    """Write weights with the spec that they belong to."""
    weights.save(path, network.state_dict(), {**metadata, "cbleed_network": asdict(network.spec)})


def restored_network(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any], name: Any
) -> Autoencoder | Direct:
    """Rebuild a network from what `save_network` wrote.

    Raises
    ------
    WeightsError
        If it is none of CBLEED, or one of another version.
    """
    if "cbleed_network" not in metadata:
        raise weights.WeightsError(f"{name} does not hold a network for CBLEED")
    try:
        said = dict(metadata["cbleed_network"])
        network = build_network(NetworkSpec(**{**said, "channels": tuple(said["channels"])}))
        network.load_state_dict(dict(tensors))
    except (KeyError, TypeError, RuntimeError) as error:
        raise weights.WeightsError(
            f"{name} is of another version of the networks: {error}"
        ) from None
    network.metadata = dict(metadata)
    return network.eval()


def load_network(name_or_path: str | os.PathLike) -> Autoencoder | Direct:
    """Read what `save_network` wrote, by name or path, ready to predict.

    Raises
    ------
    WeightsError
        If the file holds no such network, or one of another version.
    """
    tensors, metadata = weights.load(name_or_path)
    return restored_network(tensors, metadata, name_or_path)
