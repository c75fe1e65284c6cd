"""Convergent-beam LEED: each reflected beam as a disk over the directions of incidence.

A few directions of incidence are computed, on a square grid over the disk, and cubic splines lie
between them: the waves within the solid are smooth in the direction, and only the flux that
leaves, which is known, is not. So a disk of any number of pixels costs the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from scipy.interpolate import make_interp_spline

from .kinematic import kinematic_amplitudes
from .phase_shifts import HBAR2_OVER_2M
from .stack import Surface, amplitudes, smallest_spacing
from .waves import Floats, Ints, Settings, flux_ratio, reciprocal, select_beams

Images = npt.NDArray[np.float32]

#: rad/Å: the disks of Si(001)-(2x1) do not overlap up to 0.409.
DEFAULT_RADIUS = 0.36
#: Å: places that agree to this are one.
_SAME_PLACE = 1e-3


def semiangle_radius(energy_ev: float, semiangle_mrad: float) -> float:
    """Return the radius of a disk in rad/Å where the semi-angle is what stays the same.

    A LEEM column keeps the parallel wave vector: there the radius is the same at all energies.
    """
    return float(np.sqrt(energy_ev / HBAR2_OVER_2M) * np.sin(1e-3 * semiangle_mrad))


def beams_up_to(h: int, k: int) -> Ints:
    """Return all beams (n, 2) up to these orders, in the order of their indices.

    Examples
    --------
    >>> len(beams_up_to(1, 2))
    15
    """
    return np.array(list(product(range(-h, h + 1), range(-k, k + 1))))


def mirrors(surface: Surface) -> tuple[bool, bool]:
    """Return whether x -> -x, and y -> -y, leave a surface as it is, but for a shift.

    A mirror or a glide line: the intensities of the beams follow in either case.
    """
    return _is_kept(surface, np.array([-1.0, 1.0])), _is_kept(surface, np.array([1.0, -1.0]))


def _is_kept(surface: Surface, signs: Floats) -> bool:
    bulk = surface.bulk
    for lattice in (surface.lattice, bulk.lattice):
        if not _is_lattice_vector(lattice * signs, lattice):
            return False
    if not _is_lattice_vector(bulk.repeat[:2] * signs - bulk.repeat[:2], bulk.lattice):
        return False
    atoms = [
        (layer.lattice, place, kind)
        for layer in (*surface.layers, *bulk.layers)
        for place, kind in zip(layer.positions, layer.scatterers, strict=True)
    ]
    first = atoms[0][1]
    shifts = [
        place[:2] - first[:2] * signs for _, place, _ in atoms[: len(surface.layers[0].positions)]
    ]
    return any(
        all(
            any(
                kind is other
                and abs(place[2] - there[2]) < _SAME_PLACE
                and _is_lattice_vector(place[:2] * signs + shift - there[:2], lattice)
                for _, there, other in atoms
            )
            for lattice, place, kind in atoms
        )
        for shift in shifts
    )


def _is_lattice_vector(vectors: Floats, lattice: Floats) -> bool:
    share = vectors @ np.linalg.inv(lattice)
    return bool(np.abs((share - np.rint(share)) @ lattice).max() < _SAME_PLACE)


@dataclass(frozen=True, eq=False)
class Disks:
    """CBLEED disks of some surfaces at one energy, to be drawn at any size.

    Attributes
    ----------
    lattice : ndarray, shape (2, 2)
        Rows a1, a2 in Å.
    energy_ev, radius : float
        eV; rad/Å.
    centre : ndarray, shape (2,)
        Parallel wave vector of the cone's axis, rad/Å.
    beams : ndarray of int, shape (g, 2)
    reflectivity : ndarray, shape (s, g, m, m)
        Squared amplitudes of each surface and beam over the grid of directions, x along rows.
        They differ from intensities by the ratio of the fluxes.
    """

    lattice: Floats
    energy_ev: float
    radius: float
    centre: Floats
    beams: Ints
    reflectivity: Floats

    def intensities(self, beam: int, k: tuple[npt.ArrayLike, npt.ArrayLike]) -> Floats:
        """Return a beam's intensity of each surface at parallel wave vectors k = (x, y).

        Parameters
        ----------
        beam : int
            Place in ``beams``.
        k : pair of array_like, shapes (n, 1) and (1, m)
            x and y of incidence in rad/Å, within the disk's square.

        Returns
        -------
        ndarray, shape (s, n, m)
        """
        x, y = (np.asarray(one, dtype=float) for one in k)
        along = self._spline(x.ravel() - self.centre[0])
        across = self._spline(y.ravel() - self.centre[1])
        smooth = along @ self.reflectivity[:, beam] @ across.T
        incident = np.stack(np.broadcast_arrays(x, y), axis=-1)
        ratio = flux_ratio(self.lattice, self.energy_ev, incident, self.beams[beam : beam + 1])
        return smooth.clip(min=0) * ratio[..., 0]

    def _spline(self, x: Floats) -> Floats:
        """The matrix (n, m) from values on the grid to values at x of the disk."""
        nodes = self.reflectivity.shape[-1]
        grid = np.linspace(-self.radius, self.radius, nodes)
        return make_interp_spline(grid, np.eye(nodes), k=3)(x.clip(-self.radius, self.radius))

    def images(self, pixels: int) -> Images:
        """Return each disk by itself, shape (s, g, pixels, pixels), zero around it.

        Raises
        ------
        ValueError
            If ``pixels`` is below 2.
        """
        if pixels < 2:
            raise ValueError(f"a disk needs 2 pixels at least; not {pixels!r}")
        step = 2 * self.radius / pixels
        axis = (np.arange(pixels) - 0.5 * (pixels - 1)) * step
        x, y = axis[:, None], axis[None, :]
        opening = _opening(np.hypot(x, y), self.radius, step)
        k = (x + self.centre[0], y + self.centre[1])
        drawn = [self.intensities(n, k) * opening for n in range(len(self.beams))]
        return np.stack(drawn, axis=1).astype(np.float32)

    def pattern(self, shape: tuple[int, int], pixel_size: float) -> Images:
        """Return the whole pattern of each surface, shape (s, rows, cols).

        The middle of the image is the surface's normal; rows follow x, columns y.

        Parameters
        ----------
        shape : (int, int)
        pixel_size : float
            rad/Å.

        Raises
        ------
        ValueError
            If disks overlap, where waves of different directions would interfere.
        """
        g = self.beams @ reciprocal(self.lattice)
        apart = np.linalg.norm(g[:, None] - g, axis=-1)[~np.eye(len(g), dtype=bool)]
        if len(apart) and apart.min() < 2 * self.radius:
            raise ValueError(
                f"disks of radius {self.radius:.3f} rad/Å overlap: take one below "
                f"{apart.min() / 2:.3f}, or draw them one by one with `images`"
            )
        whole = np.zeros((len(self.reflectivity), *shape), dtype=np.float32)
        axes = [(np.arange(n) - 0.5 * (n - 1)) * pixel_size for n in shape]
        for n, middle in enumerate(g + self.centre):
            rows, cols = (
                np.flatnonzero(np.abs(axis - one) < self.radius + pixel_size)
                for axis, one in zip(axes, middle, strict=True)
            )
            x, y = axes[0][rows, None] - middle[0], axes[1][None, cols] - middle[1]
            opening = _opening(np.hypot(x, y), self.radius, pixel_size)
            k = (x + self.centre[0], y + self.centre[1])
            whole[:, rows[:, None], cols] += (self.intensities(n, k) * opening).astype(np.float32)
        return whole

    def averaged_over_tilts(self) -> Disks:
        """Return the mean of these surfaces and their mirror images under y -> -y.

        Buckled dimers flip at room temperature: the patterns of both tilts add.

        Raises
        ------
        ValueError
            If the cone is not centred on y = 0, or a mirrored beam is missing.
        """
        if abs(self.centre[1]) > 1e-9:
            raise ValueError("both tilts come from one only where the cone is centred on y = 0")
        mirrored = self.reflectivity[:, _places(self.beams, self.beams * [1, -1]), :, ::-1]
        return replace(self, reflectivity=0.5 * (self.reflectivity + mirrored))


def _opening(distance: Floats, radius: float, step: float) -> Floats:
    """The share of each pixel within the aperture."""
    return np.clip((radius - distance) / step + 0.5, 0.0, 1.0)


def _places(beams: Ints, wanted: Ints) -> Ints:
    """Where wanted beams are among beams."""
    same = (wanted[:, None] == beams).all(axis=2)
    if not same.any(axis=1).all():
        missing = wanted[~same.any(axis=1)][0]
        raise ValueError(f"beam {tuple(missing.tolist())} is needed for its mirror image")
    return same.argmax(axis=1)


def cbleed(
    surfaces: Surface | Sequence[Surface],
    energy_ev: float,
    *,
    radius: float = DEFAULT_RADIUS,
    beams: Ints | None = None,
    centre: npt.ArrayLike = (0.0, 0.0),
    nodes: int = 9,
    settings: Settings | None = None,
    multiple_scattering: bool = True,
    device: torch.device | str = "cpu",
) -> Disks:
    """Return the CBLEED disks of surfaces that share a lattice.

    Parameters
    ----------
    surfaces : Surface or sequence of Surface
        Those that share their bulk and lower layers as objects share their calculation.
    energy_ev : float
    radius : float
        Of the disks in rad/Å; see `semiangle_radius`.
    beams : ndarray of int, shape (g, 2), optional
        (h, k) of the disks; default `beams_up_to` (1, 2).
    centre : array_like, shape (2,)
        Parallel wave vector of the cone's axis in rad/Å: a tilt of the specimen.
    nodes : int
        Directions computed along each side of the disk's square.
    settings : Settings, optional
    multiple_scattering : bool
        False: single scattering, see `kinematic`.
    device : torch.device or str

    Raises
    ------
    ValueError
        If ``nodes`` is below 4, ``radius`` is not positive, a beam does not travel in the solid,
        or `stack.amplitudes` refuses.

    Examples
    --------
    >>> from py4dstem_ml.physics.leed.surfaces import silicon_001
    >>> disks = cbleed(silicon_001("1x1"), 40.0, beams=beams_up_to(0, 0), nodes=4)
    >>> disks.images(16).shape
    (1, 1, 16, 16)
    """
    if nodes < 4 or not radius > 0:
        raise ValueError("disks need a radius in rad/Å above 0 and 4 nodes at least")
    settings = settings or Settings()
    stacks = [surfaces] if isinstance(surfaces, Surface) else list(surfaces)
    wanted = beams_up_to(1, 2) if beams is None else np.asarray(beams)
    middle = np.asarray(centre, dtype=float)
    spacing = min(map(smallest_spacing, stacks))
    travelling = select_beams(stacks[0].lattice, energy_ev, spacing, settings, middle)
    places = _places(travelling, wanted)

    axis = np.linspace(-radius, radius, nodes)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    kept = [
        all(one) and abs(middle[i]) < 1e-9
        for i, one in enumerate(zip(*map(mirrors, stacks), strict=True))
    ]
    half = [slice(nodes // 2 if mirror else 0, None) for mirror in kept]
    k = grid[half[0], half[1]]
    scattered = amplitudes if multiple_scattering else kinematic_amplitudes
    _, waves = scattered(stacks, energy_ev, k.reshape(-1, 2) + middle, settings, travelling, device)
    squared = waves[..., places].abs().square().cpu().numpy()
    values = np.moveaxis(squared, -1, 1).reshape(len(stacks), len(wanted), *k.shape[:2])
    for i, mirror in enumerate(kept):
        if mirror:
            values = _unfolded(values, wanted, i, nodes)
    return Disks(stacks[0].lattice, energy_ev, radius, middle, wanted, values)


def _unfolded(values: Floats, beams: Ints, axis: int, nodes: int) -> Floats:
    """The whole grid from the half beyond a mirror line, axis 0 being x."""
    signs = np.ones(2, dtype=np.int64)
    signs[axis] = -1
    mirrored = np.flip(values[:, _places(beams, beams * signs)], axis=2 + axis)
    missing = np.take(mirrored, range(nodes // 2), axis=2 + axis)
    return np.concatenate([missing, values], axis=2 + axis)
