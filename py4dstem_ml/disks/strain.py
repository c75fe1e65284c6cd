"""Strain of a simulated Si/SiGe stack: what peak positions are worth to a user.

Layers of +1 and -1 % along x (rows, [001]) on a Si(0.75)Ge(0.25) substrate, coherent along y
(columns, [1-10]), seen along [110]; the aligned stack, and one whose columns are tilted against
the beam in a helix along the scan. Simulated by multislice from explicit atoms. The tilt shears
the columns, so the lattice vectors across the beam, and with them the true strain, stay exact.

The truth at a scan position is the layers' strain averaged over the intensity of the incident
probe, and over the depth where a tilt lets the beam pass through several layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ..physics.crystal import Crystal
from ..physics.multislice import (
    Atoms,
    Grid,
    SliceTransmissions,
    cut_box,
    detect,
    probe_waves,
    propagate,
    propagator,
)
from ..physics.patterns import Detector, probe_image
from ..tables import Row, markdown_table
from .evaluate import Finder, check_origin, write_arrays

#: Fewest peaks that make a lattice.
_FEWEST_PEAKS = 6
#: Residuals beyond this share of the shortest lattice vector belong to no lattice point.
_REACH = 0.2
#: Positions of a true |strain| up to this are the reference.
_REFERENCE_STRAIN = 5e-4
_BATCH = 8


@dataclass(frozen=True)
class StackConfig:
    """A stack and how it is scanned.

    Attributes
    ----------
    lattice_constant : float
        Of the substrate, Å.
    layers : tuple of (float, float, float)
        Thickness in unstrained Å, strain along x, Ge content; between substrate on both sides.
    substrate_ge : float
        Ge content of the substrate.
    positions, rows : int
        Scan positions across the layers, and lines of them.
    margin : float
        Å of substrate that the scan covers on both sides.
    tilt_deg : (float, float)
        Of the helical stack, first and last position.
    turns : float
        Of the tilt's azimuth along the scan.
    thicknesses : tuple of float
        Å, ascending.
    semiangle_mrad, energy_ev, pixel_size, size
        mrad, eV, 1/Å, pixels of a side.
    b_iso : float
        Å^2.
    """

    lattice_constant: float = 5.481
    layers: tuple[tuple[float, float, float], ...] = (
        (40.0, -0.01, 0.0), (40.0, 0.01, 0.5), (40.0, -0.01, 0.0), (40.0, 0.01, 0.5),
    )  # fmt: skip
    substrate_ge: float = 0.25
    positions: int = 56
    rows: int = 2
    margin: float = 35.0
    tilt_deg: tuple[float, float] = (0.4, 3.0)
    turns: float = 2.0
    thicknesses: tuple[float, ...] = (200.0, 400.0)
    semiangle_mrad: float = 1.3
    energy_ev: float = 200e3
    pixel_size: float = 0.02
    size: int = 128
    b_iso: float = 0.5

    @property
    def detector(self) -> Detector:
        """The detector."""
        return Detector((self.size, self.size), self.pixel_size)

    @property
    def reference(self) -> npt.NDArray[np.float64]:
        """Rows: the substrate's reciprocal vectors (1,-1,1) and (1,-1,-1) in pixels."""
        step = 1.0 / (self.lattice_constant * self.pixel_size)
        return np.array([[step, 2**0.5 * step], [-step, 2**0.5 * step]])


@dataclass(frozen=True, eq=False)
class StackScan:
    """A simulated line scan.

    Attributes
    ----------
    name : str
    patterns : ndarray, shape (n, h, w)
        float32, sum 1, without noise.
    truth : ndarray, shape (n,)
        Strain along x; along y it is zero.
    config : StackConfig
    """

    name: str
    patterns: npt.NDArray[np.float32]
    truth: npt.NDArray[np.float64]
    config: StackConfig


# --- simulation --------------------------------------------------------------------------------


def simulate_stacks(
    config: StackConfig | None = None, *, device: torch.device | str = "cpu"
) -> list[StackScan]:
    """Simulate the aligned and the helically tilted stack at all thicknesses.

    Parameters
    ----------
    config : StackConfig, optional
    device : torch.device or str

    Returns
    -------
    list of StackScan
        Names such as "aligned 200 Å".
    """
    config = config or StackConfig()
    still = np.zeros((config.positions * config.rows, 2))
    return [
        *_simulate(config, "aligned", still, device),
        *_simulate(config, "helical", _helix(config), device),
    ]


def _helix(config: StackConfig) -> npt.NDArray[np.float64]:
    """Return the tilt's tangents (row, col) at every position, shape (n, 2)."""
    along = np.tile(np.linspace(0.0, 1.0, config.positions), config.rows)
    low, high = config.tilt_deg
    tangent = np.tan(np.radians(low + (high - low) * along))
    azimuth = 2.0 * np.pi * config.turns * along
    return tangent[:, None] * np.stack([np.cos(azimuth), np.sin(azimuth)], axis=1)


def _simulate(
    config: StackConfig, name: str, tilts: npt.NDArray, device: torch.device | str
) -> list[StackScan]:
    window = Grid.for_detector(config.detector)
    pitch = window.extent[0] / window.shape[0]
    stack = _Stack(config, pitch, window)
    slices = SliceTransmissions(
        stack.atoms, stack.grid, config.energy_ev, 0.5 * stack.atoms.size[2], device
    )
    period = list(slices)
    depth = config.thicknesses[-1]
    stops = [round(t / slices.slice_thickness) for t in config.thicknesses]
    middle = 0.5 * np.array(window.extent)
    images = []
    for start in range(0, len(tilts), _BATCH):
        some = slice(start, start + _BATCH)
        cut = [_windows(layer, stack.corners[some], window.shape) for layer in period]
        # The beam crosses its scan position at half the depth.
        waves = probe_waves(
            window, config.semiangle_mrad, config.energy_ev, middle - 0.5 * depth * tilts[some]
        )
        free = torch.stack([
            propagator(window, slices.slice_thickness, config.energy_ev, tuple(tilt))
            for tilt in tilts[some]
        ])  # fmt: skip
        series = (cut[i % len(cut)] for i in range(stops[-1]))
        spectra = propagate(waves.to(device), series, free.to(device), stops)
        images.append(detect(spectra, config.detector).cpu())
    patterns = torch.cat(images, dim=1).numpy()
    patterns /= patterns.sum(axis=(2, 3), keepdims=True)
    return [
        StackScan(f"{name} {t:g} Å", some, stack.truth(tilts[:, 0], t, depth), config)
        for t, some in zip(config.thicknesses, patterns, strict=True)
    ]


def _windows(layer: torch.Tensor, corners: npt.NDArray, shape: tuple[int, int]) -> torch.Tensor:
    return torch.stack([layer[i : i + shape[0], j : j + shape[1]] for i, j in corners])


class _Stack:
    """The atoms of one period of depth, and where windows of the scan lie in them."""

    def __init__(self, config: StackConfig, pitch: float, window: Grid) -> None:
        self.config, self.pitch, self.window = config, pitch, window
        # A probe's window, and the walk of a tilted beam, stay within the stack.
        self.side = 0.5 * window.extent[0] + config.margin
        edges = np.cumsum([self.side, *(thickness for thickness, _, _ in config.layers)])
        strains = np.array([0.0, *(strain for _, strain, _ in config.layers), 0.0])
        contents = [config.substrate_ge, *(ge for _, _, ge in config.layers), config.substrate_ge]
        length = edges[-1] + self.side
        knots = np.array([0.0, *edges, length])
        strained = np.concatenate([[0.0], np.cumsum(np.diff(knots) * (1.0 + strains))])
        self.edges, self.strains = strained[1:-1], strains

        a = config.lattice_constant
        height = window.extent[1] + a
        flat = cut_box(_diamond(a, config.b_iso), _ALONG_110, (length, height, a / 2**0.5))
        content = np.array(contents)[np.searchsorted(edges, flat.positions[:, 0])]
        positions = flat.positions.copy()
        positions[:, 0] = np.interp(flat.positions[:, 0], knots, strained)
        shape = (ceil(strained[-1] / pitch), ceil(height / pitch))
        self.grid = Grid(shape, (shape[0] * pitch, shape[1] * pitch))
        self.atoms = _mixed(positions, content, config.b_iso, (*self.grid.extent, flat.size[2]))

        first, last = self.side - config.margin, strained[-1] - (self.side - config.margin)
        across = np.linspace(first, last, config.positions) - 0.5 * window.extent[0]
        along = np.linspace(0.0, 0.5 * a, config.rows, endpoint=False)
        row, col = np.meshgrid(across / pitch, along / pitch, indexing="ij")
        corners = np.rint(np.stack([row.T.ravel(), col.T.ravel()], axis=1)).astype(int)
        self.corners = np.clip(corners, 0, np.array(shape) - window.shape)

    def truth(self, tilt: npt.NDArray, thickness: float, depth: float) -> npt.NDArray[np.float64]:
        """Average the layers' strain over the probe and along the beam's path."""
        config, n = self.config, self.window.shape[0]
        probe = probe_waves(self.window, config.semiangle_mrad, config.energy_ev)[0]
        profile = (probe.abs() ** 2).sum(dim=1).double().numpy()
        offset = (np.arange(n) - n // 2) * self.pitch
        centre = (self.corners[:, 0] + n // 2) * self.pitch
        path = np.linspace(0.0, thickness, 41) - 0.5 * depth
        x = centre[:, None, None] + tilt[:, None, None] * path[:, None] + offset
        strain = self.strains[np.searchsorted(self.edges, x)]
        return (strain @ (profile / profile.sum())).mean(axis=1)


#: Rows [001], columns [1-10], towards the source [110], as columns.
_ALONG_110 = np.array([[0.0, 0.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, 0.0]]).T
_ALONG_110 = _ALONG_110 / np.linalg.norm(_ALONG_110, axis=0)


def _diamond(a: float, b_iso: float) -> Crystal:
    fcc = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return Crystal.cubic(a, [14] * 8, np.concatenate([fcc, fcc + 0.25]), b_iso=b_iso)


def _mixed(
    positions: npt.NDArray, ge: npt.NDArray, b_iso: float, size: tuple[float, float, float]
) -> Atoms:
    """Return a virtual crystal: each site shared by Si and Ge."""
    n = len(positions)
    return Atoms(
        size,
        numbers=np.repeat([14, 32], n),
        positions=np.tile(positions, (2, 1)),
        occupancies=np.concatenate([1.0 - ge, ge]),
        b_iso=np.full(2 * n, b_iso),
    )


# --- measurement -------------------------------------------------------------------------------


def fit_lattice(
    peaks: npt.NDArray, reference: npt.NDArray, centre: Sequence[float]
) -> npt.NDArray[np.float64] | None:
    """Fit a lattice to peaks: index by the reference, then weighted robust least squares.

    Parameters
    ----------
    peaks : ndarray, shape (n, 3)
        [row, col, intensity]; weighted by the root of the intensity, and less the farther
        they are from the lattice (Cauchy weights).
    reference : ndarray, shape (2, 2)
        Rows are two lattice vectors in pixels, within some percent of the truth.
    centre : (float, float)
        About where the direct beam is, in pixels.

    Returns
    -------
    ndarray, shape (3, 2), or None
        The origin and the two lattice vectors; None where too few peaks make a lattice.

    Examples
    --------
    >>> import numpy as np
    >>> hk = np.mgrid[-2:3, -2:3].reshape(2, -1).T
    >>> peaks = np.column_stack([hk @ [[9.1, 0], [0, 8.9]] + 32, np.ones(25)])
    >>> fit_lattice(peaks, np.diag([9.0, 9.0]), (32, 32)).round(3).tolist()
    [[32.0, 32.0], [9.1, 0.0], [0.0, 8.9]]
    """
    shortest = float(np.linalg.norm(reference, axis=1).min())
    points, weight = peaks[:, :2], np.sqrt(np.clip(peaks[:, 2], 0.0, None))
    lattice = np.vstack([centre, reference])
    near = np.linalg.norm(points - lattice[0], axis=1) < 0.4 * shortest
    if near.any():
        lattice[0] = points[near][np.argmax(peaks[near, 2])]
    for _ in range(8):
        index = np.rint((points - lattice[0]) @ np.linalg.inv(lattice[1:]))
        design = np.column_stack([np.ones(len(points)), index])
        residual = np.linalg.norm(points - design @ lattice, axis=1)
        used = residual < _REACH * shortest
        if used.sum() < _FEWEST_PEAKS or np.linalg.matrix_rank(design[used]) < 3:
            return None
        scale = max(2.0 * float(np.median(residual[used])), 0.02)
        root = np.sqrt(weight[used] / (1.0 + (residual[used] / scale) ** 2))[:, None]
        lattice, *_ = np.linalg.lstsq(root * design[used], root * points[used], rcond=None)
        if not abs(np.linalg.det(lattice[1:])) > 0.5 * abs(np.linalg.det(reference)):
            return None
    return lattice


def strain_map(
    peaks: Sequence[npt.NDArray],
    reference: npt.NDArray,
    centre: Sequence[float],
    unstrained: npt.NDArray,
) -> npt.NDArray[np.float64]:
    """Measure the strain at every position against the median lattice of some of them.

    Parameters
    ----------
    peaks : sequence of ndarray, shape (n, 3)
    reference, centre
        See `fit_lattice`.
    unstrained : ndarray of bool, shape (positions,)
        Where the reference region is.

    Returns
    -------
    ndarray, shape (positions, 3)
        e_xx (rows), e_yy (columns), e_xy; NaN where no lattice was found.
    """
    fits = [fit_lattice(some, reference, centre) for some in peaks]
    vectors = np.array([np.full((2, 2), np.nan) if fit is None else fit[1:] for fit in fits])
    known = unstrained & np.isfinite(vectors[:, 0, 0])
    if not known.any():
        return np.full((len(fits), 3), np.nan)
    standard = np.median(vectors[known], axis=0)
    # Reciprocal vectors as rows: g = g0 F^-1, F being the deformation of real space.
    strain = np.full((len(fits), 3), np.nan)
    for i in np.flatnonzero(np.isfinite(vectors[:, 0, 0])):
        f = np.linalg.inv(vectors[i]) @ standard
        strain[i] = f[0, 0] - 1.0, f[1, 1] - 1.0, 0.5 * (f[0, 1] + f[1, 0])
    return strain


def evaluate_strain(
    finder: Finder, scans: Sequence[StackScan], *, dose: float = 1e6, seed: int = 0
) -> list[Row]:
    """Measure the strain of simulated stacks.

    Parameters
    ----------
    finder : callable
        See `evaluate`.
    scans : sequence of StackScan
    dose : float
        Electrons in a pattern.
    seed : int

    Returns
    -------
    list of dict
        For each stack: RMS errors ``e_xx %`` and ``e_yy %`` over the positions found, how many
        were ``lost`` (no lattice, or one that is wrong by more than 5 %), ``positions``; and the
        profiles ``measured`` (n, 3) and ``truth`` for a figure.
    """
    rows = []
    for number, scan in enumerate(scans):
        config = scan.config
        probe = probe_image(config.detector, config.semiangle_mrad, config.energy_ev).numpy()
        rng = np.random.default_rng([seed, number])
        images = rng.poisson(scan.patterns.astype(float) * dose).astype(np.float32)
        strain = strain_map(
            finder(images, probe), config.reference, config.detector.centre,
            np.abs(scan.truth) <= _REFERENCE_STRAIN,
        )  # fmt: skip
        error = strain[:, :2] - np.stack([scan.truth, np.zeros_like(scan.truth)], axis=1)
        found = (np.abs(error) < 0.05).all(axis=1)
        rms = [float(v) for v in 100.0 * np.sqrt((error[found] ** 2).mean(axis=0))]
        rows.append({
            "stack": scan.name, "e_xx %": rms[0], "e_yy %": rms[1],
            "lost": int((~found).sum()), "positions": len(found),
            "measured": strain.tolist(), "truth": scan.truth.tolist(),
        })  # fmt: skip
    return rows


def strain_table(results: dict[str, Sequence[Row]]) -> str:
    """Write the RMS errors of all stacks as markdown; ``results``: method -> its rows."""
    lines = [{"method": method, **row} for method, rows in results.items() for row in rows]
    lines.sort(key=lambda line: line["stack"])
    return markdown_table(lines, ("stack", "method", "e_xx %", "e_yy %", "lost", "positions"))


def save_scans(path: str | Path, scans: Sequence[StackScan]) -> None:
    """Write the scans of one `StackConfig` to an ``.npz``, whole or not at all."""
    write_arrays(
        path, asdict(scans[0].config),
        names=np.array([scan.name for scan in scans]),
        patterns=np.stack([scan.patterns for scan in scans]),
        truth=np.stack([scan.truth for scan in scans]),
    )  # fmt: skip


def load_scans(path: str | Path, config: StackConfig | None = None) -> list[StackScan]:
    """Read what `save_scans` wrote.

    Raises
    ------
    ValueError
        If the scans were simulated with another config.
    """
    config = config or StackConfig()
    with np.load(path, allow_pickle=False) as file:
        check_origin(path, file, asdict(config))
        columns = zip(file["names"], file["patterns"], file["truth"], strict=True)
        return [StackScan(str(n), patterns, truth, config) for n, patterns, truth in columns]
