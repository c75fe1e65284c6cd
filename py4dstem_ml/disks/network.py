"""The disk networks: U-Net, spectral U-Net, FCU-Net and the dual network, from one spec.

All take diffraction patterns and the vacuum probe, and return maps in which every Bragg disk
is one Gaussian spot (sigma 1 px) of height sqrt(w / w_max), w being the projected structure
factor |V_g| weighted by the excitation error (`physics.patterns.structure_factor_peaks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from .. import weights
from .layers import Sampling, UNet, half_band, monte_carlo_dropout

Architecture = Literal["unet", "specunet", "fcunet", "dualnet"]


@dataclass(frozen=True)
class DiskNetSpec:
    """What a network is built from.

    Attributes
    ----------
    arch : {"unet", "specunet", "fcunet", "dualnet"}
    widths : tuple of int
        Channels by level of the pattern-space U-Net (of the complex one for "fcunet").
    depth : int
        Convolutions in a block.
    dropout : float
        Monte Carlo dropout rate.
    fourier_widths : tuple of int
        Complex channels by level of the Fourier-space U-Net of "dualnet".
    fields : int
        Complex fields that leave Fourier space.
    fourier_levels : tuple of int
        Levels of the pattern-space U-Net with a Fourier unit ("dualnet").
    """

    arch: Architecture
    widths: tuple[int, ...]
    depth: int = 2
    dropout: float = 0.05
    fourier_widths: tuple[int, ...] = ()
    fields: int = 8
    fourier_levels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.arch not in _NETWORKS:
            raise ValueError(f"unknown architecture {self.arch!r}: one of {sorted(_NETWORKS)}")
        for name in ("widths", "fourier_widths", "fourier_levels"):
            object.__setattr__(self, name, tuple(int(v) for v in getattr(self, name)))
        if not self.widths or min(self.widths + self.fourier_widths) < 1 or self.depth < 1:
            raise ValueError("widths and depth must be positive")
        if self.fields < 1:
            raise ValueError("fields must be positive")
        if self.arch == "dualnet" and not self.fourier_widths:
            raise ValueError("a dualnet needs fourier_widths")
        if self.arch != "dualnet" and (self.fourier_widths or self.fourier_levels):
            raise ValueError(f"only a dualnet has fourier_widths and levels, not a {self.arch}")
        if self.arch not in ("dualnet", "fcunet") and self.fields != type(self).fields:
            raise ValueError(f"a {self.arch} has no Fourier fields")
        if not set(self.fourier_levels) <= set(range(len(self.widths))):
            raise ValueError(f"fourier_levels must lie in 0 to {len(self.widths) - 1}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError("dropout lies in [0, 1)")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DiskNetSpec:
        """Build a spec from a mapping, refusing names it does not know."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"a DiskNetSpec has no {sorted(unknown)}")
        return cls(**values)


def _root(x: torch.Tensor, power: float) -> torch.Tensor:
    return torch.sign(x) * torch.abs(x).clamp(min=1e-12) ** power


class PatternFeatures(nn.Module):
    """What the networks see of a pattern and a probe, whatever the scale of both.

    Channels: the fourth root of the pattern, of its correlation with the probe, the signed root
    of its correlation with a zero-sum probe, the same correlation of the compressed pattern, the
    correlation of its edges with the probe's edge, and the probe's radius. Disks differ in
    intensity by many decades and are uneven inside; roots and edges make the weak ones count.
    """

    channels = 6

    def forward(self, pattern: torch.Tensor, probe: torch.Tensor) -> torch.Tensor:
        # Counts in a disk of the mean pattern are of the order one.
        share = pattern / pattern.sum((-2, -1), keepdim=True).clamp(min=1e-20)
        probe = probe / probe.sum((-2, -1), keepdim=True).clamp(min=1e-20)
        disk = torch.fft.rfft2(torch.fft.ifftshift(probe, dim=(-2, -1)))
        # The probe less its own correlation: sums to zero and widens with the disk.
        zero_sum = disk - disk * torch.abs(disk)
        edge = torch.fft.rfft2(torch.fft.ifftshift(_gradient(probe), dim=(-2, -1)))
        edge = edge / edge[..., :1, :1].abs().clamp(min=1e-20)

        compressed = (1e4 * share) ** 0.25
        edges = _gradient(compressed)
        features = [
            compressed,
            (1e4 * _correlate(share, disk)).clamp(min=0.0) ** 0.25,
            _root(1e4 * _correlate(share, zero_sum), 0.25),
            _normalised(_correlate(compressed, zero_sum)),
            _normalised(_correlate(edges, edge - edge * disk.abs())),
            0.1 * (torch.pi * (probe**2).sum((-2, -1), keepdim=True)).rsqrt().expand_as(share),
        ]
        return torch.stack(features, dim=1)


def _correlate(image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(image) * kernel.conj(), s=image.shape[-2:])


def _gradient(image: torch.Tensor) -> torch.Tensor:
    across = torch.roll(image, -1, -1) - torch.roll(image, 1, -1)
    down = torch.roll(image, -1, -2) - torch.roll(image, 1, -2)
    return torch.sqrt(across**2 + down**2 + 1e-20)


def _normalised(image: torch.Tensor) -> torch.Tensor:
    return image / image.square().mean((-2, -1), keepdim=True).sqrt().clamp(min=1e-12)


class FourierFields(nn.Module):
    """The cross-correlation theorem, learned: Fourier space in, real fields out.

    The transforms of the compressed pattern and of its correlations are multiplied with the
    conjugate probe, cut to the lower half of the frequencies, mixed by a complex U-Net, and
    transformed back. Their modulus is compressed, or the few strongest Fourier coefficients
    would drown the rest.
    """

    inputs = 3

    def __init__(self, spec: DiskNetSpec, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.unet = UNet(
            self.inputs, widths, spec.depth, complex_=True, pooling="spectral",
            dropout=spec.dropout,
        )  # fmt: skip
        self.out = nn.Conv2d(2 * widths[0], 2 * spec.fields, 1)

    def forward(self, features: torch.Tensor, probe: torch.Tensor) -> torch.Tensor:
        with torch.autocast(features.device.type, enabled=False):
            chosen = features[:, (0, 3, 4)]
            chosen = chosen - chosen.mean((-2, -1), keepdim=True)
            spectrum = half_band(_centred_fft(chosen))
            disk = half_band(_centred_fft(probe))[:, None]
            disk = disk / disk.abs().amax((-2, -1), keepdim=True).clamp(min=1e-20)
            matched = torch.cat([spectrum[:, :1] * disk.conj(), spectrum[:, 1:]], dim=1)
            modulus = matched.abs().clamp(min=1e-12)
            matched = matched * modulus**-0.4
            rms = matched.abs().square().mean((-2, -1), keepdim=True).sqrt()
            matched = matched / rms.clamp(min=1e-12)
            x = torch.cat([matched.real, matched.imag], dim=1)
        x = self.out(self.unet(x))
        with torch.autocast(features.device.type, enabled=False):
            spectrum = torch.complex(*x.float().chunk(2, dim=1))
            h, w = features.shape[-2:]
            padding = (w // 4, w - w // 4 - w // 2, h // 4, h - h // 4 - h // 2)
            return _centred_ifft(functional.pad(spectrum, padding))


def _centred_fft(image: torch.Tensor) -> torch.Tensor:
    axes = (-2, -1)
    transform = torch.fft.fft2(torch.fft.ifftshift(image, dim=axes), norm="ortho")
    return torch.fft.fftshift(transform, dim=axes)


def _centred_ifft(spectrum: torch.Tensor) -> torch.Tensor:
    axes = (-2, -1)
    image = torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=axes), norm="ortho")
    return torch.fft.fftshift(image.real, dim=axes)


class _PatternUNet(nn.Module):
    """U-Net on the pattern-space features."""

    def __init__(self, spec: DiskNetSpec) -> None:
        super().__init__()
        pooling = "spectral" if spec.arch == "specunet" else "max"
        self.unet = UNet(
            PatternFeatures.channels, spec.widths, spec.depth, pooling=pooling,
            dropout=spec.dropout,
        )  # fmt: skip
        self.multiple = 2 ** (len(spec.widths) - 1)
        self.n_out = spec.widths[0]

    def forward(self, features: torch.Tensor, probe: torch.Tensor) -> torch.Tensor:
        return self.unet(features)


class _FCUNet(nn.Module):
    """Fourier fields, then one real block in pattern space (Munshi et al. 2022, Fig. 1)."""

    def __init__(self, spec: DiskNetSpec) -> None:
        super().__init__()
        self.fields = FourierFields(spec, spec.widths)
        self.block = UNet(spec.fields, (2 * spec.fields,), spec.depth, dropout=spec.dropout)
        self.multiple = 2 ** len(spec.widths)
        self.n_out = 2 * spec.fields

    def forward(self, features: torch.Tensor, probe: torch.Tensor) -> torch.Tensor:
        return self.block(self.fields(features, probe))


class _DualNet(nn.Module):
    """Fourier fields and pattern features, joined in a U-Net with Fourier units."""

    def __init__(self, spec: DiskNetSpec) -> None:
        super().__init__()
        self.fields = FourierFields(spec, spec.fourier_widths)
        self.unet = UNet(
            PatternFeatures.channels + spec.fields, spec.widths, spec.depth,
            dropout=spec.dropout, fourier_levels=spec.fourier_levels,
        )  # fmt: skip
        self.multiple = 2 ** max(len(spec.fourier_widths), len(spec.widths) - 1)
        self.n_out = spec.widths[0]

    def forward(self, features: torch.Tensor, probe: torch.Tensor) -> torch.Tensor:
        fields_ = self.fields(features, probe)
        return self.unet(torch.cat([features, fields_], dim=1))


_NETWORKS = {"unet": _PatternUNet, "specunet": _PatternUNet, "fcunet": _FCUNet, "dualnet": _DualNet}

#: Networks by name. "full" is the paper's size.
SPECS: dict[str, DiskNetSpec] = {
    "unet.compact": DiskNetSpec("unet", (16, 32, 64, 96)),
    "specunet.compact": DiskNetSpec("specunet", (16, 32, 64, 96)),
    "fcunet.compact": DiskNetSpec("fcunet", (16, 32, 48), fields=8),
    "fcunet.full": DiskNetSpec(
        "fcunet", (32, 64, 128, 256, 256, 256, 256), depth=4, dropout=0.3, fields=16
    ),
    "dualnet.compact": DiskNetSpec(
        "dualnet", (16, 32, 64, 96), fourier_widths=(12, 24, 32), fourier_levels=(1, 2)
    ),
    "dualnet.full": DiskNetSpec(
        "dualnet", (48, 96, 160, 256), depth=3, fourier_widths=(32, 64, 96), fields=16,
        fourier_levels=(1, 2),
    ),
}  # fmt: skip


class DiskNet(nn.Module):
    """A disk network: patterns and probe in, map of structure factors out.

    Parameters
    ----------
    spec : DiskNetSpec

    Examples
    --------
    >>> net = build_network("unet.compact").eval()
    >>> net(torch.rand(2, 64, 64), torch.rand(64, 64)).shape
    torch.Size([2, 64, 64])
    """

    def __init__(self, spec: DiskNetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.metadata: dict[str, Any] = {}
        self.features = PatternFeatures()
        self.body = _NETWORKS[spec.arch](spec)
        self.head = nn.Conv2d(self.body.n_out, 1, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, patterns: torch.Tensor, probe: torch.Tensor, mc_dropout: Sampling = False
    ) -> torch.Tensor:
        """Return maps of sqrt(w / w_max), shape (b, h, w).

        Parameters
        ----------
        patterns : torch.Tensor, shape (b, h, w)
            Intensities >= 0 of any scale; h and w even.
        probe : torch.Tensor, shape (h, w) or (b, h, w)
            Vacuum probe, centred at pixel (h // 2, w // 2).
        mc_dropout : bool or sequence of torch.Generator
            Draw dropout masks, one sample of the network's uncertainty; with generators, on the
            device of the patterns, each pattern's masks come from its own.

        Raises
        ------
        ValueError
            If height or width is odd, or differs between patterns and probe.
        """
        probe = probe if probe.ndim == 3 else probe[None]
        height, width = patterns.shape[-2:]
        if height % 2 or width % 2 or probe.shape[-2:] != patterns.shape[-2:]:
            raise ValueError(
                f"patterns and probe must have one size, even in both axes, not {height} x {width} "
                f"and {probe.shape[-2]} x {probe.shape[-1]}; BraggDiskFinder takes any size"
            )
        more = [-n % self.body.multiple for n in (height, width)]
        # Equal margins (`more` is even, as both sizes are) keep the centre in the centre. Around
        # the pattern its edge is repeated: a step to zero would be an edge to the features.
        margins = (more[1] // 2, more[1] // 2, more[0] // 2, more[0] // 2)
        patterns = functional.pad(patterns[:, None], margins, mode="replicate")[:, 0]
        probe = functional.pad(probe, margins)
        with torch.autocast(patterns.device.type, enabled=False):
            features = self.features(patterns.float(), probe.float())
        features = features.contiguous(memory_format=torch.channels_last)
        with monte_carlo_dropout(mc_dropout):
            fields_ = self.body(features, probe.float())
        with torch.autocast(patterns.device.type, enabled=False):
            maps = self.head(fields_.float())[:, 0]
        top, left = margins[2], margins[0]
        return maps[:, top : top + height, left : left + width]


def build_network(spec: str | DiskNetSpec | Mapping[str, Any]) -> DiskNet:
    """Build an untrained network.

    Parameters
    ----------
    spec : str, DiskNetSpec or mapping
        A name of `SPECS`, a spec, or its fields.
    """
    if isinstance(spec, str):
        if spec not in SPECS:
            raise ValueError(f"unknown network {spec!r}: one of {sorted(SPECS)}")
        spec = SPECS[spec]
    elif isinstance(spec, Mapping):
        spec = DiskNetSpec.from_dict(spec)
    return DiskNet(spec).to(memory_format=torch.channels_last)


def load_network(name_or_path: str | None = None, device: torch.device | str = "cpu") -> DiskNet:
    """Load a trained network in evaluation mode.

    Parameters
    ----------
    name_or_path : str, optional
        A name of `weights.list_pretrained`, or a file; default the registry's default.
    device : torch.device or str

    Returns
    -------
    DiskNet
        Its `metadata` are those of the file, and the file's ``"sha256"``.

    Raises
    ------
    WeightsError
        If the weights cannot be found, are damaged, or are no disk network's.
    """
    name = weights.default_name("disks") if name_or_path is None else name_or_path
    tensors, metadata = weights.load(name)
    if "spec" not in metadata:
        raise weights.WeightsError(f"{name} does not hold a disk network (no spec in it)")
    try:
        network = build_network(metadata["spec"])
    except (AttributeError, TypeError, ValueError) as error:
        raise weights.WeightsError(f"{name} has a spec that is not valid: {error}") from error
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise weights.WeightsError(f"{name} does not fit its own spec: {error}") from error
    network.metadata = metadata
    return network.to(device).eval()


def save_network(network: DiskNet, path: Any, metadata: Mapping[str, Any]) -> None:
    """Write a network and what is known of it to a safetensors file."""
    tensors = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    weights.save(path, tensors, {**metadata, "spec": asdict(network.spec)})
