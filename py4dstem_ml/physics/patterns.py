"""From beams to images: nanobeam CBED with overlapping disks, its probe, its structure factors.

Pixels are (row, col); the direct beam's centre is pixel (H // 2, W // 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy.typing as npt
import torch

from .bloch import Beams, _laboratory, diffract, excitation_errors, reflections
from .crystal import Crystal
from .electrons import wavelength

#: Width of the Gaussian in the excitation error that weights the structure factors, 1/Å.
#: Munshi et al., npj Comput. Mater. 8 (2022) 254.
SIGMA_EXCITATION = 0.05


@dataclass(frozen=True)
class Detector:
    """A pixelated detector: ``shape`` (rows, cols) in pixels, ``pixel_size`` in 1/Å."""

    shape: tuple[int, int]
    pixel_size: float

    @property
    def centre(self) -> tuple[int, int]:
        """Pixel of the direct beam."""
        return self.shape[0] // 2, self.shape[1] // 2

    @property
    def g_max(self) -> float:
        """Distance of the farthest edge from the direct beam in 1/Å."""
        return max(self.centre) * self.pixel_size


def aperture_radius(semiangle_mrad: float, energy_ev: float) -> float:
    """Return the radius of a diffraction disk in 1/Å."""
    return semiangle_mrad * 1e-3 / wavelength(energy_ev)


def _aperture(distance: torch.Tensor, radius: torch.Tensor | float) -> torch.Tensor:
    """Return the covered fraction of pixels at ``distance`` (all in pixels) from the centre."""
    return (radius - distance + 0.5).clamp(0.0, 1.0)


def incident_grid(radius_px: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a square grid of offsets (m, m, 2) in pixels and which of them a disk can need.

    Interpolation reaches one pixel beyond the disk's edge in both axes.
    """
    half = int(radius_px + 0.5) + 2
    axis = torch.arange(-half, half + 1, dtype=torch.float64)
    offsets = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)
    return offsets, torch.linalg.norm(offsets, dim=-1) <= radius_px + 2.0


def probe_image(detector: Detector, semiangle_mrad: float, energy_ev: float) -> torch.Tensor:
    """Return the vacuum probe: a disk of total intensity 1, float32, shape ``detector.shape``."""
    rows, cols = (torch.arange(n) - c for n, c in zip(detector.shape, detector.centre, strict=True))
    radius = aperture_radius(semiangle_mrad, energy_ev) / detector.pixel_size
    disk = _aperture(torch.hypot(rows[:, None].double(), cols[None, :].double()), radius) ** 2
    return (disk / disk.sum()).float()


def disk_amplitudes(
    crystal: Crystal,
    beams: Beams,
    energy_ev: float,
    thicknesses: Sequence[float],
    semiangle_mrad: float,
    pixel_size: float,
    *,
    defocus: float = 0.0,
    **options: object,
) -> torch.Tensor:
    """Return the amplitudes of all beams over the incident directions of one aperture.

    They carry the phases with which the waves of overlapping disks meet on the exit face: of
    the probe's defocus, and of each wave's own path through the foil.

    Parameters
    ----------
    crystal, beams, energy_ev, thicknesses
        See `bloch.diffract`, which takes ``options`` too.
    semiangle_mrad : float
        The largest semi-angle that is wanted of the result.
    pixel_size : float
        1/Å; one incident direction a pixel.
    defocus : float
        Å by which the probe is focused above the entrance face (towards the source); minus the
        thickness focuses it on the exit face.

    Returns
    -------
    torch.Tensor, shape (t, n, m, m)
        For `cbed`; m is odd, its middle the central direction.
    """
    radius = aperture_radius(semiangle_mrad, energy_ev) / pixel_size
    offsets, needed = incident_grid(radius)
    amplitudes = diffract(
        crystal,
        beams,
        energy_ev,
        thicknesses,
        incidence=offsets[needed] * pixel_size,
        **options,  # type: ignore[arg-type]
    )
    # Along z a beam runs as exp(2 pi i (k_z + g_z) z), which the Bloch amplitudes leave out; of
    # k_z only what differs between the directions matters.
    q_squared = (offsets[needed] * pixel_size).square().sum(-1)
    path = torch.as_tensor(thicknesses, dtype=torch.float64).reshape(-1, 1, 1)
    slope = 0.5 * wavelength(energy_ev) * q_squared
    phase = -((path + defocus) * slope + path * beams.g.detach()[:, 2, None])
    turn = torch.exp(2j * torch.pi * phase).to(amplitudes.device, amplitudes.dtype)
    amplitudes = amplitudes * turn
    grid = amplitudes.new_zeros(*amplitudes.shape[:2], *needed.shape)
    grid[:, :, needed.to(grid.device)] = amplitudes
    return grid


def cbed(
    amplitudes: torch.Tensor,
    beams: Beams,
    detector: Detector,
    semiangle_mrad: float,
    energy_ev: float,
    *,
    probe_position: tuple[float, float] = (0.0, 0.0),
) -> torch.Tensor:
    """Add the disks of all beams coherently into nanobeam diffraction patterns.

    A disk's edge lies where g and the semi-angle put it, to a fraction of a pixel; the
    amplitude inside is interpolated between the incident directions.

    Parameters
    ----------
    amplitudes : torch.Tensor, shape (t, n, m, m)
        From `disk_amplitudes` with at least this semi-angle and the detector's pixel size.
    beams : Beams
    detector : Detector
    semiangle_mrad : float
    energy_ev : float
    probe_position : (float, float)
        (row, col) in Å from the origin of the unit cell: the phase between overlapping disks.

    Returns
    -------
    torch.Tensor, shape (t, rows, cols)
        float32; the whole incident beam is 1.
    """
    device = amplitudes.device
    radius = aperture_radius(semiangle_mrad, energy_ev) / detector.pixel_size
    footprint = int(radius + 0.5) + 2
    middle = amplitudes.shape[-1] // 2
    if footprint > middle:
        raise ValueError("the amplitudes were made for a smaller semi-angle")
    spread = slice(middle - footprint, middle + footprint + 1)
    amplitudes = amplitudes[:, :, spread, spread]

    position = beams.g[:, :2].detach().to(device) / detector.pixel_size
    whole = torch.floor(position)
    fraction = (position - whole).float()
    # Disk pixel d (relative to `whole`) takes the wave of direction d - fraction.
    row, col = fraction[:, 0, None, None], fraction[:, 1, None, None]
    inner = amplitudes[:, :, 1:, 1:]
    wave = (
        (1 - row) * (1 - col) * inner
        + row * (1 - col) * amplitudes[:, :, :-1, 1:]
        + (1 - row) * col * amplitudes[:, :, 1:, :-1]
        + row * col * amplitudes[:, :, :-1, :-1]
    )
    offset = torch.arange(-footprint + 1, footprint + 1, device=device).float()
    distance = torch.hypot(offset[:, None] - row, offset[None, :] - col)
    shift = torch.tensor(probe_position, dtype=torch.float64, device=device)
    phase = torch.exp(2j * torch.pi * (beams.g[:, :2].detach().to(device) @ shift))
    wave = wave * (_aperture(distance, radius) * phase[:, None, None]).to(wave.dtype)

    n_rows, n_cols = detector.shape
    rows = (whole[:, 0, None] + offset + detector.centre[0]).long()[:, :, None]
    cols = (whole[:, 1, None] + offset + detector.centre[1]).long()[:, None, :]
    seen = (rows >= 0) & (rows < n_rows) & (cols >= 0) & (cols < n_cols)
    index = (rows * n_cols + cols)[seen]
    exit_wave = torch.zeros(len(wave), n_rows * n_cols, dtype=wave.dtype, device=device)
    exit_wave = exit_wave.index_add(1, index, wave[:, seen])
    intensity = exit_wave.real**2 + exit_wave.imag**2
    incident = _aperture(torch.hypot(offset[:, None], offset[None, :]), radius)
    return (intensity / (incident**2).sum()).reshape(-1, n_rows, n_cols).float()


def structure_factor_peaks(
    crystal: Crystal,
    orientation: npt.ArrayLike,
    energy_ev: float,
    detector: Detector,
    *,
    thickness: float = 1.0,
    sigma: float = SIGMA_EXCITATION,
    floor: float = 1e-4,
) -> torch.Tensor:
    """Return what FCU-Net learns to see: projected structure factors, free of dynamics.

    Parameters
    ----------
    crystal, orientation, energy_ev, detector
    thickness : float
        Å; the weight is linear in it.
    sigma : float
        Width of the Gaussian in the excitation error, 1/Å.
    floor : float
        Weaker peaks than this fraction of the strongest are left out.

    Returns
    -------
    torch.Tensor, shape (n, 3)
        float64 [row, col, weight] in pixels and V Å, strongest first; weight =
        |V_g| exp(-s_g^2 / 2 sigma^2) thickness (Munshi et al. 2022, eq. 2).
    """
    half_diagonal = (detector.centre[0] ** 2 + detector.centre[1] ** 2) ** 0.5
    hkl = reflections(crystal, half_diagonal * detector.pixel_size)
    g = _laboratory(crystal, orientation, hkl)
    s = excitation_errors(g, energy_ev)[:, 0]
    position = g[:, :2] / detector.pixel_size + torch.tensor(detector.centre)
    inside = ((position >= 0) & (position <= torch.tensor(detector.shape) - 1)).all(1)
    kept = inside & (torch.abs(s) < sigma * (-2.0 * torch.log(torch.tensor(floor))) ** 0.5)
    weight = torch.abs(crystal.potential_coefficients(hkl[kept.numpy()]))
    weight = weight * torch.exp(-0.5 * (s[kept] / sigma) ** 2) * thickness
    order = torch.argsort(weight, descending=True)
    order = order[weight[order] >= floor * weight.max()]
    return torch.cat([position[kept][order], weight[order, None]], dim=1)


def render_peaks(
    peaks: torch.Tensor, shape: tuple[int, int], sigma_px: float = 1.0
) -> torch.Tensor:
    """Draw peaks [row, col, height] as Gaussians; where two overlap the larger counts.

    Parameters
    ----------
    peaks : torch.Tensor, shape (b, n, 3)
        Pixels; fill unused rows with height 0.
    shape : (int, int)
    sigma_px : float

    Returns
    -------
    torch.Tensor, shape (b, rows, cols)
        float32.
    """
    reach = int(3 * sigma_px + 1)
    offset = torch.arange(-reach, reach + 1, device=peaks.device)
    whole = torch.round(peaks[..., :2])
    rows = whole[..., 0, None] + offset
    cols = whole[..., 1, None] + offset
    profile_r = torch.exp(-((rows - peaks[..., 0, None]) ** 2) / (2 * sigma_px**2))
    profile_c = torch.exp(-((cols - peaks[..., 1, None]) ** 2) / (2 * sigma_px**2))
    spot = peaks[..., 2, None, None] * profile_r[..., :, None] * profile_c[..., None, :]
    # A margin takes what falls outside, so that no mask is needed.
    padded = tuple(n + 2 * reach for n in shape)
    index_r = (rows + reach).clamp(0, padded[0] - 1).long()
    index_c = (cols + reach).clamp(0, padded[1] - 1).long()
    index = index_r[..., :, None] * padded[1] + index_c[..., None, :]
    image = torch.zeros(len(peaks), padded[0] * padded[1], device=peaks.device)
    image.scatter_reduce_(1, index.flatten(1), spot.flatten(1).float(), "amax")
    inside = (slice(None), slice(reach, -reach), slice(reach, -reach))
    return image.reshape(-1, *padded)[inside]
