"""The conditional GAN of Webb, Beanland and Römer: pix2pixHD between potentials and patterns.

Two generators, a coarse one and one that refines its picture at full size, and two
discriminators that look at patches at two scales (Wang et al., CVPR 2018). The papers train one
network for each thickness; here the depth scales and shifts what the instance norms leave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from .layers import Told, convolution
from .natural import conditions

Direction = Literal["forward", "inverse"]
_TOLD = 64
_LEAST = 1e-6


@dataclass(frozen=True)
class Pix2PixSpec:
    """What the generators are built from.

    Attributes
    ----------
    direction : {"forward", "inverse"}
        Potential to pattern, or back.
    pixels : int
    half_width : float
        Of the square of directions, in reciprocal lattice vectors.
    width : int
        Channels of the refining generator; the coarse one has twice as many at its finest level.
    levels : int
        How often the coarse generator halves its picture.
    blocks : int
        Residual blocks at its coarsest level.
    """

    direction: Direction
    pixels: int = 64
    half_width: float = 8.0
    width: int = 16
    levels: int = 2
    blocks: int = 6

    def __post_init__(self) -> None:
        if self.direction not in ("forward", "inverse"):
            raise ValueError(f"direction is 'forward' or 'inverse', not {self.direction!r}")
        if self.pixels % 2 ** (self.levels + 1):
            raise ValueError(f"pixels must be a multiple of {2 ** (self.levels + 1)}")


class _Norm(nn.Module):
    """Instance norm, then scale and shift by the conditions, then ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.tell = nn.Linear(_TOLD, 2 * channels)

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        scale, shift = self.tell(told)[..., None, None].chunk(2, dim=1)
        return functional.relu(functional.instance_norm(x) * (1.0 + scale) + shift)


class _Layer(nn.Module):
    def __init__(self, n_in: int, n_out: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.convolve = convolution(n_in, n_out, "reflect", size, stride)
        self.norm = _Norm(n_out)

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolve(x), told)


class _Up(_Layer):
    """Twice as many pixels."""

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        return super().forward(functional.interpolate(x, scale_factor=2, mode="nearest"), told)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _Layer(width, width)
        self.second = convolution(width, width, "reflect")

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        return x + functional.instance_norm(self.second(self.first(x, told)))


class _Chain(nn.ModuleList):
    """Layers after each other, all told the conditions."""

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(x, told)
        return x


class Pix2PixGenerator(nn.Module):
    """Pictures of the other kind, by a coarse and a refining generator.

    Parameters
    ----------
    spec : Pix2PixSpec

    Examples
    --------
    >>> network = Pix2PixGenerator(Pix2PixSpec("forward", pixels=16, width=4, blocks=1))
    >>> network(torch.rand(2, 16, 16), torch.tensor([0.1, 0.2])).shape
    torch.Size([2, 16, 16])
    """

    def __init__(self, spec: Pix2PixSpec) -> None:
        super().__init__()
        self.spec = spec
        width, wide = spec.width, 2 * spec.width
        self.told = Told(2, _TOLD)
        deepest = wide * 2**spec.levels
        self.coarse = _Chain([
            _Layer(1, wide, 7),
            *(_Layer(wide * 2**i, wide * 2 ** (i + 1), 3, 2) for i in range(spec.levels)),
            *(_Residual(deepest) for _ in range(spec.blocks)),
            *(_Up(wide * 2 ** (i + 1), wide * 2**i) for i in reversed(range(spec.levels))),
        ])  # fmt: skip
        self.enter = _Chain([_Layer(1, width, 7), _Layer(width, wide, 3, 2)])
        self.refine = _Chain([*(_Residual(wide) for _ in range(3)), _Up(wide, width)])
        self.leave = convolution(width, 1, "reflect", 7)
        self.strength = nn.Linear(wide, 1)

    def forward(self, pictures: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """Return bright fields of potentials, or potentials of bright fields, see `LineNet`.

        Parameters
        ----------
        pictures : torch.Tensor, shape (b, n, n)
        tau : torch.Tensor, shape (b,)
        """
        seen = normalised(pictures)
        forward = self.spec.direction == "forward"
        spread = pictures.float().std((1, 2)) if forward else torch.ones_like(tau)
        told = self.told(conditions(tau, spread))
        seen = seen[:, None]
        coarse = self.coarse(functional.avg_pool2d(seen, 2), told)
        x = self.refine(self.enter(seen, told) + coarse, told)
        answer = self.leave(x)[:, 0].float()
        if forward:
            return answer
        v = answer - answer.mean((1, 2), keepdim=True)
        # In half precision its logarithm would be a hundredth off.
        with torch.autocast(v.device.type, enabled=False):
            return v * self.strength(coarse.float().mean((2, 3))).exp()[..., None]


def normalised(pictures: torch.Tensor) -> torch.Tensor:
    """Return pictures (b, n, n) of mean 0 and standard deviation 1."""
    pictures = pictures.float()
    middle = pictures.mean((1, 2), keepdim=True)
    return (pictures - middle) / pictures.std((1, 2), keepdim=True).clamp(min=_LEAST)


class PatchDiscriminator(nn.Module):
    """Tells patches of simulated pictures from generated ones; returns what each layer sees."""

    def __init__(self, width: int, layers: int = 3) -> None:
        super().__init__()
        channels = [4] + [width * 2 ** min(i, 3) for i in range(layers + 1)]
        self.layers = nn.ModuleList(
            nn.Conv2d(n_in, n_out, 4, 2 if i < layers else 1, 2)
            for i, (n_in, n_out) in enumerate(zip(channels, channels[1:], strict=False))
        )
        self.judge = nn.Conv2d(channels[-1], 1, 4, 1, 2)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        seen = []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            x = functional.leaky_relu(functional.instance_norm(x) if number else x, 0.2)
            seen.append(x)
        return [*seen, self.judge(x)]


class Discriminators(nn.Module):
    """Patch discriminators at full and half size.

    Parameters
    ----------
    width : int
        Channels of the first layer.
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(width) for _ in range(2))

    def forward(
        self, given: torch.Tensor, picture: torch.Tensor, told: torch.Tensor
    ) -> list[list[torch.Tensor]]:
        """Layers' outputs by scale, the judgement last.

        Parameters
        ----------
        given, picture : torch.Tensor, shape (b, n, n)
            Of mean 0 and deviation 1.
        told : torch.Tensor, shape (b, 2)
            The conditions.
        """
        constant = told[..., None, None].expand(-1, -1, *given.shape[1:])
        x = torch.cat([given[:, None], picture[:, None], constant], dim=1)
        return [self.scales[0](x), self.scales[1](functional.avg_pool2d(x, 3, 2, 1))]


def discriminator_loss(
    real: list[list[torch.Tensor]], fake: list[list[torch.Tensor]]
) -> torch.Tensor:
    """Least squares, half for the real and half for the generated pictures (LSGAN)."""
    losses = [
        0.5 * ((one[-1].float() - 1.0).square().mean() + other[-1].float().square().mean())
        for one, other in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).sum()


def generator_loss(
    real: list[list[torch.Tensor]], fake: list[list[torch.Tensor]], matching: float
) -> torch.Tensor:
    """Deceive the discriminators, and match what their layers see (weight ``matching``)."""
    total = torch.stack([(one[-1].float() - 1.0).square().mean() for one in fake]).sum()
    for one, other in zip(real, fake, strict=True):
        for seen, wanted in zip(other[:-1], one[:-1], strict=True):
            matched = functional.l1_loss(seen.float(), wanted.detach().float())
            total = total + matching / len(real) * matched
    return total
