"""Conventional multislice: the independent simulator that checks the Bloch-wave engine.

Atoms fill a periodic orthogonal box. Each slice's projected potential is summed in Fourier space
over its atoms, exactly (two phase matrices and one product, no grid of deltas), with the Lobato
factors and Debye-Waller damping of this package; potential, transmission and propagator are cut
at 2/3 of the grid's highest frequency. Kirkland, Advanced Computing in Electron Microscopy (2010),
chapter 6. With the Bloch engine it shares those factors, the constants of `electrons`, the crystal
and the detector's geometry; waves and their propagation are its own.

Axes are (row, col, depth): the beam runs towards larger depth, which is -z of the laboratory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, pi

import numpy as np
import numpy.typing as npt
import torch
from scipy.fft import next_fast_len

from .crystal import Crystal
from .electrons import POTENTIAL_VOLT_ANGSTROM2, interaction_constant, wavelength
from .patterns import Detector, aperture_radius
from .scattering_factors import elastic_factor

#: Wave vectors beyond this multiple of the detector's corner are left out, but none below
#: this many 1/Å: heavy columns along a zone axis scatter so far and back.
_BEYOND_CORNER = 1.15
_LEAST_K_MAX = 2.5
#: Atoms on the box's face belong to one side of it.
_FACE = 1e-6


@dataclass(frozen=True, eq=False)
class Atoms:
    """Atoms in a box.

    Attributes
    ----------
    size : (float, float, float)
        Rows, columns, depth in Å.
    numbers : ndarray of int, shape (n,)
    positions : ndarray, shape (n, 3)
        (row, col, depth) in Å.
    occupancies, b_iso : ndarray, shape (n,)
        Share of the site, 0 to 1; Debye-Waller B in Å^2.
    """

    size: tuple[float, float, float]
    numbers: npt.NDArray[np.int64]
    positions: npt.NDArray[np.float64]
    occupancies: npt.NDArray[np.float64]
    b_iso: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.numbers)

    def select(self, chosen: npt.NDArray) -> Atoms:
        """Return some of the atoms in the same box."""
        return Atoms(
            self.size, self.numbers[chosen], self.positions[chosen],
            self.occupancies[chosen], self.b_iso[chosen],
        )  # fmt: skip


def cut_box(
    crystal: Crystal, orientation: npt.ArrayLike, size: tuple[float, float, float]
) -> Atoms:
    """Cut a box out of an oriented crystal, its origin at one corner.

    Unless the box is commensurate with the crystal, the periodic images do not join: a seam,
    as every simulator of arbitrary crystals in a box has it. Keep the probe away from it.

    Parameters
    ----------
    crystal : Crystal
    orientation : array_like, shape (3, 3)
        See `orientations`.
    size : (float, float, float)
        Rows, columns, depth in Å.

    Examples
    --------
    >>> import numpy as np
    >>> polonium = Crystal.cubic(3.35, [84], [[0, 0, 0]])
    >>> len(cut_box(polonium, np.eye(3), (33.5, 33.5, 67.0)))
    2000
    """
    box = np.asarray(size, dtype=float)
    axes = np.asarray(orientation, dtype=float) * [1.0, 1.0, -1.0]
    lattice = crystal.lattice.detach().numpy() @ axes
    motif = crystal.positions.detach().numpy() @ lattice
    to_fraction = np.linalg.inv(lattice)
    low, high = motif.min(axis=0), motif.max(axis=0)
    found_atoms, found_positions = [], []
    # Slab by slab, so that the cells around an oblique box are not all held at once.
    n_slabs = ceil(box[2] / max(box[0], box[1]))
    for top, bottom in zip(*_edges(box[2], n_slabs), strict=True):
        first = np.array([0.0, 0.0, top]) - high
        last = np.array([box[0], box[1], bottom]) - low
        corners = np.stack(np.meshgrid(*zip(first, last, strict=True)), axis=-1).reshape(-1, 3)
        limits = corners @ to_fraction
        ranges = [
            np.arange(a, b + 1)
            for a, b in zip(np.floor(limits.min(0)), np.ceil(limits.max(0)), strict=True)
        ]
        cells = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3) @ lattice
        cells = cells[((cells >= first - _FACE) & (cells <= last + _FACE)).all(axis=1)]
        positions = cells[:, None, :] + motif
        inside = (positions >= np.array([0.0, 0.0, top]) - _FACE) & (
            positions < np.array([box[0], box[1], bottom]) - _FACE
        )
        cell, atom = np.nonzero(inside.all(axis=2))
        found_positions.append(positions[cell, atom])
        found_atoms.append(atom)
    atom = np.concatenate(found_atoms)
    return Atoms(
        size=(float(box[0]), float(box[1]), float(box[2])),
        numbers=crystal.numbers.numpy()[atom],
        positions=np.concatenate(found_positions),
        occupancies=crystal.occupancies.detach().numpy()[atom],
        b_iso=crystal.b_iso.detach().numpy()[atom],
    )


def _edges(length: float, parts: int) -> tuple[npt.NDArray, npt.NDArray]:
    edges = np.linspace(0.0, length, parts + 1)
    return edges[:-1], edges[1:]


@dataclass(frozen=True)
class Grid:
    """A periodic sampling of the plane: ``shape`` (rows, cols), ``extent`` in Å of both."""

    shape: tuple[int, int]
    extent: tuple[float, float]

    @classmethod
    def for_detector(cls, detector: Detector, k_max: float | None = None) -> Grid:
        """Return the square grid whose frequencies are the detector's pixels.

        Parameters
        ----------
        detector : Detector
        k_max : float, optional
            Largest wave vector in 1/Å; default 2.5, or a little beyond the detector's corner.
        """
        if k_max is None:
            corner = float(np.hypot(*detector.centre)) * detector.pixel_size
            k_max = max(_BEYOND_CORNER * corner, _LEAST_K_MAX)
        n = next_fast_len(ceil(3.0 * k_max / detector.pixel_size))
        n = n if n % 2 == 0 else next_fast_len(n + 1)
        return cls((n, n), (1.0 / detector.pixel_size, 1.0 / detector.pixel_size))

    @cached_property
    def frequencies(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Wave vectors (rows, 1) and (1, cols) in 1/Å, zero first, float64."""
        k_row, k_col = (
            torch.fft.fftfreq(n, d=length / n, dtype=torch.float64)
            for n, length in zip(self.shape, self.extent, strict=True)
        )
        return k_row[:, None], k_col[None, :]

    @property
    def k_max(self) -> float:
        """Band limit in 1/Å: 2/3 of the highest frequency."""
        highest = (n / (2.0 * length) for n, length in zip(self.shape, self.extent, strict=True))
        return 2.0 / 3.0 * min(highest)

    @cached_property
    def band(self) -> torch.Tensor:
        """Which frequencies are inside the band limit, bool (rows, cols)."""
        k_row, k_col = self.frequencies
        return k_row**2 + k_col**2 < self.k_max**2


class SliceTransmissions:
    """The transmission functions of a box, slice by slice, made as they are asked for.

    Parameters
    ----------
    atoms : Atoms
        Outside of the grid's extent they are wrapped into it.
    grid : Grid
    energy_ev : float
    slice_thickness : float
        Å, about: the box's depth is divided into equal slices.
    device : torch.device or str

    Attributes
    ----------
    slice_thickness : float
        As it is, Å.
    """

    def __init__(
        self, atoms: Atoms, grid: Grid, energy_ev: float, slice_thickness: float = 2.0,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.grid, self.device = grid, torch.device(device)
        self.count = max(1, round(atoms.size[2] / slice_thickness))
        self.slice_thickness = atoms.size[2] / self.count
        self._sigma = interaction_constant(energy_ev)
        self._band = grid.band.to(self.device)
        # The potential is real: half of the columns of its transform do.
        half = int(grid.k_max * grid.extent[1])
        rows = int(grid.k_max * grid.extent[0])
        self._rows = torch.arange(-rows, rows + 1)
        self._cols = torch.arange(half + 1)
        k_row = self._rows[:, None] / grid.extent[0]
        k_col = self._cols[None, :] / grid.extent[1]
        k_squared = (k_row**2 + k_col**2).double()
        inside = (k_squared < grid.k_max**2).double()
        layer = np.floor(atoms.positions[:, 2] / self.slice_thickness).clip(0, self.count - 1)
        kinds = np.stack([atoms.numbers, atoms.b_iso], axis=1)
        self._parts = []
        for number, b_iso in np.unique(kinds, axis=0):
            some = atoms.select((kinds == (number, b_iso)).all(axis=1))
            factor = elastic_factor(int(number), k_squared) * torch.exp(-0.25 * b_iso * k_squared)
            scale = POTENTIAL_VOLT_ANGSTROM2 / (grid.extent[0] * grid.extent[1])
            factor = (scale * factor * inside).float().to(self.device)
            which = layer[(kinds == (number, b_iso)).all(axis=1)]
            self._parts.append((factor, some, which))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[i] for i in range(self.count))

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return the transmission function of a slice, complex64 (rows, cols)."""
        if not 0 <= index < self.count:
            raise IndexError(f"slice {index} of {self.count}")
        phase = self._sigma * self.potential(index)
        wave = torch.fft.fft2(torch.polar(torch.ones_like(phase), phase))
        return torch.fft.ifft2(wave * self._band)

    def potential(self, index: int) -> torch.Tensor:
        """Return the projected potential of a slice in V Å, float32 (rows, cols)."""
        n_rows, n_cols = self.grid.shape
        half = torch.zeros(n_rows, n_cols // 2 + 1, dtype=torch.complex64, device=self.device)
        for factor, atoms, layer in self._parts:
            some = atoms.select(layer == index)
            position = torch.from_numpy(some.positions[:, :2] / self.grid.extent)
            weight = torch.from_numpy(some.occupancies).float().to(self.device)
            by_row = _waves(self._rows, position[:, 0]).to(self.device)
            by_col = _waves(self._cols, position[:, 1]).to(self.device)
            lattice_sum = by_row @ (by_col * weight).T
            half[self._rows.to(self.device) % n_rows, : len(self._cols)] += factor * lattice_sum
        return torch.fft.irfft2(half, s=self.grid.shape, norm="forward")


def _waves(index: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Return exp(-2 pi i index position), complex64 (n_index, n_position)."""
    # Whole turns are dropped in double precision, the rest is exact enough in single.
    turns = index[:, None].double() * position[None, :]
    phase = (-2.0 * pi * (turns - torch.round(turns))).float()
    return torch.polar(torch.ones_like(phase), phase)


def propagator(
    grid: Grid, distance: float, energy_ev: float, tilt: tuple[float, float] = (0.0, 0.0)
) -> torch.Tensor:
    """Return what free space does to a wave's Fourier coefficients, band limited.

    Parameters
    ----------
    grid : Grid
    distance : float
        Å.
    energy_ev : float
    tilt : (float, float)
        Of the crystal's columns against the beam, as tangents (row, col): the wave walks by
        ``tilt * distance`` over the crystal, which is thereby sheared, not rotated.

    Returns
    -------
    torch.Tensor, shape (rows, cols)
        complex64. Not paraxial.
    """
    k_row, k_col = grid.frequencies
    k_squared = k_row**2 + k_col**2
    k_z = torch.sqrt((wavelength(energy_ev) ** -2 - k_squared).clamp(min=0.0))
    walk = k_row * tilt[0] + k_col * tilt[1]
    turns = distance * (k_z - 1.0 / wavelength(energy_ev) - walk)
    phase = 2.0 * pi * (turns - torch.round(turns))
    return (torch.polar(torch.ones_like(phase), phase) * grid.band).to(torch.complex64)


def probe_waves(
    grid: Grid,
    semiangle_mrad: float,
    energy_ev: float,
    positions: npt.ArrayLike | None = None,
) -> torch.Tensor:
    """Return convergent probes of total intensity 1.

    Parameters
    ----------
    grid : Grid
    semiangle_mrad : float
    energy_ev : float
    positions : array_like, shape (p, 2), optional
        (row, col) in Å; default the box's centre.

    Returns
    -------
    torch.Tensor, shape (p, rows, cols)
        complex64, in real space; the aperture's edge is soft over one frequency.
    """
    if positions is None:
        positions = [(0.5 * grid.extent[0], 0.5 * grid.extent[1])]
    position = torch.as_tensor(np.asarray(positions), dtype=torch.float64)
    k_row, k_col = grid.frequencies
    step = 1.0 / max(grid.extent)
    radius = aperture_radius(semiangle_mrad, energy_ev)
    aperture = ((radius - torch.hypot(k_row, k_col)) / step + 0.5).clamp(0.0, 1.0)
    turns = position[:, 0, None, None] * k_row + position[:, 1, None, None] * k_col
    waves = aperture * torch.exp(-2j * pi * turns)
    waves = waves / torch.linalg.norm(aperture)
    return torch.fft.ifft2(waves, norm="ortho").to(torch.complex64)


def propagate(
    waves: torch.Tensor,
    transmissions: Iterable[torch.Tensor],
    free_space: torch.Tensor,
    stops: Sequence[int],
) -> torch.Tensor:
    """Carry waves through slices.

    Parameters
    ----------
    waves : torch.Tensor, shape (p, rows, cols)
        complex64, in real space.
    transmissions : iterable of torch.Tensor, each (rows, cols) or (p, rows, cols)
    free_space : torch.Tensor, shape (rows, cols)
        From `propagator`, for one slice.
    stops : sequence of int
        After how many slices the waves are wanted, ascending, 0 or more.

    Returns
    -------
    torch.Tensor, shape (t, p, rows, cols)
        Fourier coefficients of the waves, zero frequency first; flux is their squared sum.
    """
    if list(stops) != sorted(stops) or len(stops) == 0 or stops[0] < 0:
        raise ValueError("stops must be ascending numbers of slices")
    kept = []
    done = 0
    slices = iter(transmissions)
    for stop in stops:
        while done < stop:
            waves = torch.fft.fft2(waves * next(slices)).mul_(free_space)
            waves = torch.fft.ifft2(waves)
            done += 1
        kept.append(torch.fft.fft2(waves, norm="ortho"))
    return torch.stack(kept)


def detect(spectra: torch.Tensor, detector: Detector) -> torch.Tensor:
    """Return the intensities on a detector whose pixels are the grid's frequencies.

    Parameters
    ----------
    spectra : torch.Tensor, shape (..., rows, cols)
        From `propagate`.
    detector : Detector

    Returns
    -------
    torch.Tensor, shape (..., H, W)
        float32; the whole incident beam is 1.
    """
    intensity = torch.fft.fftshift(spectra.real**2 + spectra.imag**2, dim=(-2, -1))
    window = [
        slice(n // 2 - centre, n // 2 - centre + size)
        for n, centre, size in zip(spectra.shape[-2:], detector.centre, detector.shape, strict=True)
    ]
    return intensity[..., window[0], window[1]].float()


def multislice_patterns(
    crystal: Crystal,
    orientation: npt.ArrayLike,
    detector: Detector,
    semiangles_mrad: Sequence[float],
    energy_ev: float,
    thicknesses: Sequence[float],
    *,
    slice_thickness: float = 2.0,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Return nanobeam patterns of an oriented crystal that fills a box of 1 / pixel size.

    Parameters
    ----------
    crystal, orientation
        See `cut_box`.
    detector : Detector
    semiangles_mrad : sequence of float, shape (a,)
        They pass the crystal together.
    energy_ev : float
    thicknesses : sequence of float, shape (t,)
        Å, ascending; rounded to whole slices.
    slice_thickness : float
        Å.
    device : torch.device or str

    Returns
    -------
    torch.Tensor, shape (a, t, H, W)
        float32 on the CPU; the whole incident beam is 1.

    Examples
    --------
    >>> import numpy as np
    >>> gold = Crystal.cubic(4.08, [79] * 4, [[0, 0, 0], [0, .5, .5], [.5, 0, .5], [.5, .5, 0]])
    >>> detector = Detector((64, 64), 0.03)
    >>> multislice_patterns(gold, np.eye(3), detector, [2.0], 200e3, [20.0]).shape
    torch.Size([1, 1, 64, 64])
    """
    grid = Grid.for_detector(detector)
    count = max(1, round(max(thicknesses) / slice_thickness))
    step = max(thicknesses) / count
    atoms = cut_box(crystal, orientation, (*grid.extent, max(thicknesses)))
    slices = SliceTransmissions(atoms, grid, energy_ev, step, device)
    waves = torch.cat([probe_waves(grid, angle, energy_ev) for angle in semiangles_mrad])
    free_space = propagator(grid, slices.slice_thickness, energy_ev).to(device)
    stops = [round(thickness / slices.slice_thickness) for thickness in thicknesses]
    spectra = propagate(waves.to(device), slices, free_space, stops)
    return detect(spectra, detector).transpose(0, 1).cpu()
