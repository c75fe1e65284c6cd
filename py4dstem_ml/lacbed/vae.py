"""The variational autoencoder of Thorn et al.: a potential in twelve numbers, and its pattern."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .natural import conditions
from .pix2pix import normalised


@dataclass(frozen=True)
class VaeSpec:
    """What the autoencoder is built from.

    Attributes
    ----------
    pixels : int
    half_width : float
        Of the square of directions, in reciprocal lattice vectors.
    width : int
        Channels of the first of the two convolutions; the second has twice as many.
    latent : int
    """

    pixels: int = 64
    half_width: float = 8.0
    width: int = 32
    latent: int = 12

    def __post_init__(self) -> None:
        if self.pixels % 16:
            raise ValueError("pixels must be a multiple of 16")


class VaeGenerator(nn.Module):
    """Bright fields of potentials, by way of a few latent numbers.

    Parameters
    ----------
    spec : VaeSpec

    Examples
    --------
    >>> network = VaeGenerator(VaeSpec(pixels=16))
    >>> network(torch.rand(2, 16, 16), torch.tensor([0.1, 0.2])).shape
    torch.Size([2, 16, 16])
    """

    def __init__(self, spec: VaeSpec) -> None:
        super().__init__()
        self.spec = spec
        width, side = spec.width, spec.pixels // 16
        self.encode = nn.Sequential(
            nn.Conv2d(1, width, 7, 4, 3, padding_mode="circular"), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 5, 4, 2, padding_mode="circular"), nn.ReLU(), nn.Flatten(),
            nn.Linear(2 * width * side**2, 2 * spec.latent),
        )  # fmt: skip
        self.decode = nn.Sequential(
            nn.Linear(spec.latent + 2, 2 * width * side**2), nn.ReLU(),
            nn.Unflatten(1, (2 * width, side, side)),
            nn.ConvTranspose2d(2 * width, width, 8, 4, 2), nn.ReLU(),
            nn.ConvTranspose2d(width, 1, 8, 4, 2),
        )  # fmt: skip

    def latent(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log variance of the latent numbers of potentials, each (b, latent)."""
        mean, log_variance = self.encode(normalised(u)[:, None]).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-12.0, 6.0)

    def decoded(
        self, latent: torch.Tensor, spread: torch.Tensor, tau: torch.Tensor
    ) -> torch.Tensor:
        """Return the bright fields (b, n, n) of latent numbers; ``spread`` is the std of u."""
        told = torch.cat([latent, conditions(tau, spread)], dim=1)
        return self.decode(told)[:, 0].float()

    def forward(self, u: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """Return the bright fields of potentials, from the latent means."""
        return self.decoded(self.latent(u)[0], u.float().std((1, 2)), tau)
