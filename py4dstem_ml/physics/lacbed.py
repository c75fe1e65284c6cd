"""Large-angle CBED: every disk of a zone axis, over directions far beyond the Bragg angles.

A wave incident along k + h, with h of the reciprocal lattice, passes through the very beams of
the wave along k. One diagonalisation for a direction in the projected Brillouin zone thus holds
the patterns at all directions that differ from it by a lattice vector: a LACBED disk 14 lattice
vectors wide takes one for each 200 pixels. With the zone's symmetry and, where the crystal has an
inversion centre in projection, real arithmetic, all disks and thicknesses take a second or so.

The beams' amplitudes are normalised by their flux (Palatinus et al., Acta Cryst. A 71 (2015)
235), which makes the matrix the same for all directions of incidence, and Hermitian. Absorption
damps each Bloch wave by its mean (Humphreys, Rep. Prog. Phys. 42 (1979) 1825), and mixes those that
it damps most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import pi

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import map_coordinates

from ..progress import progress_bar
from .crystal import Crystal
from .electrons import wavelength
from .orientations import laue_operations, zone_axis

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Structure factors below this share of the strongest join no beams.
_COUPLED = 1e-6
#: Phases and symmetries are told from those above this share.
_CLEAR = 1e-3
#: Bloch waves that absorption may mix.
_MIXED = 96
#: Pixels beyond the image's edge that splines lean on.
_MARGIN = 6


@dataclass(frozen=True, eq=False)
class Zone:
    """A crystal seen along a lattice direction: its reciprocal lattice in layers.

    Attributes
    ----------
    crystal : Crystal
    orientation : ndarray, shape (3, 3)
        See `orientations.zone_axis`; the first basis vector lies along the rows.
    basis : ndarray of int, shape (3, 3)
        hkl of the two shortest vectors normal to the zone, and of one in the first layer.
        Reflections are counted in these, [x, y, layer].
    vectors : ndarray, shape (3, 3)
        The same in the laboratory, 1/Å: row, column, towards the source.
    """

    crystal: Crystal
    orientation: Floats
    basis: Ints
    vectors: Floats

    @classmethod
    def of(cls, crystal: Crystal, uvw: npt.ArrayLike) -> Zone:
        """Look along a direction.

        Raises
        ------
        ValueError
            If `uvw` is not three whole numbers, or all of them are zero.
        """
        axis = np.asarray(uvw, dtype=float)
        if axis.shape != (3,) or not np.array_equal(axis, np.rint(axis)) or not axis.any():
            raise ValueError(f"a zone is three whole numbers, not all of them zero; not {uvw!r}")
        axis = axis.astype(np.int64)
        axis //= np.gcd.reduce(axis)
        basis = _layer_basis(crystal, axis)
        reciprocal = crystal.reciprocal.detach().numpy()
        along = basis[0] @ reciprocal @ zone_axis(crystal, axis)
        orientation = zone_axis(crystal, axis, float(np.arctan2(along[1], along[0])))
        vectors = basis @ reciprocal @ orientation
        if np.linalg.det(vectors[:2, :2]) < 0:
            basis[1], vectors[1] = -basis[1], -vectors[1]
        return cls(crystal, orientation, basis, vectors)

    def places(self, hkl: npt.ArrayLike) -> Ints:
        """Return reflections (n, 3) counted in the basis."""
        return np.rint(np.asarray(hkl) @ np.linalg.inv(self.basis)).astype(np.int64)


def _layer_basis(crystal: Crystal, axis: Ints) -> Ints:
    """hkl of the two shortest reciprocal vectors normal to [uvw], and of one in the first layer."""
    reach = int(np.abs(axis).max()) + 1
    hkl = np.indices((2 * reach + 1,) * 3).reshape(3, -1).T - reach
    g = hkl @ crystal.reciprocal.detach().numpy()
    # Of vectors of a length the one with the largest h comes first: 100, then 010.
    order = np.lexsort((*-hkl.T[::-1], np.round(np.linalg.norm(g, axis=1), 6)))
    hkl, g = hkl[order], g[order]
    normal = np.flatnonzero((hkl @ axis == 0) & hkl.any(1))
    area = np.linalg.norm(np.cross(g[normal[0]], g[normal]), axis=1)
    second = normal[np.argmax(area > 1e-6 * np.linalg.norm(g[normal[0]]) ** 2)]
    first_layer = np.flatnonzero(hkl @ axis == 1)[0]
    return hkl[[normal[0], second, first_layer]]


def _lattice_basis(vectors: Ints) -> Ints:
    """Rows that span what integer vectors (n, d) span, in lower triangular form."""
    rows = [list(map(int, vector)) for vector in vectors]
    basis: list[list[int]] = []
    for column in reversed(range(vectors.shape[1])):
        pivot: list[int] | None = None
        rest = []
        for row in rows:
            while row[column]:
                if pivot is None or abs(row[column]) < abs(pivot[column]):
                    pivot, row = row, pivot or [0] * len(row)
                    continue
                times = row[column] // pivot[column]
                row = [x - times * y for x, y in zip(row, pivot, strict=True)]
            if any(row):
                rest.append(row)
        rows = rest
        if pivot is not None:
            basis.insert(0, pivot if pivot[column] > 0 else [-x for x in pivot])
    return np.array(basis, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _Potential:
    """Elastic and absorptive couplings U_g, U'_g in 1/Å^2 of a zone's reflections.

    ``elastic`` and ``absorptive`` are (2m + 1, 2m + 1, 2n + 1) tables over places -m to m, -n to
    n; the mean of the elastic part is left out. The origin lies in a centre of inversion where
    there is one, and both are real then. ``coupled`` spans the places that any coupling reaches.
    """

    elastic: npt.NDArray
    absorptive: npt.NDArray
    coupled: Ints

    @classmethod
    def of(cls, zone: Zone, m: int, n: int, energy_ev: float, absorption: bool) -> _Potential:
        shape = (2 * m + 1, 2 * m + 1, 2 * n + 1)
        middle = np.array([m, m, n])
        places = np.indices(shape).reshape(3, -1).T - middle
        u = zone.crystal.coupling_coefficients(
            places @ zone.basis, energy_ev, absorption=absorption
        )
        table = u.detach().numpy().reshape(shape)
        opposite = table[::-1, ::-1, ::-1].conj()
        elastic, absorptive = 0.5 * (table + opposite), -0.5j * (table - opposite)
        elastic[m, m, n] = 0.0
        strength = np.abs(elastic).ravel()
        coupled = _lattice_basis(places[strength > _COUPLED * strength.max()])
        clear = np.argsort(-strength, kind="stable")[: np.sum(strength > _CLEAR * strength.max())]
        origin = _inversion_centre(places[clear], elastic.ravel()[clear])
        if origin is not None:
            phase = np.exp(2j * pi * (places @ origin)).reshape(shape)
            elastic, absorptive = (elastic * phase).real, (absorptive * phase).real
        return cls(elastic, absorptive, coupled)

    def between(self, table: npt.NDArray, one: Ints, other: Ints) -> npt.NDArray:
        """Couplings of places (n, 3) with places (m, 3), shape (n, m)."""
        middle = np.array(table.shape) // 2
        index = one[:, None] - other[None] + middle
        return table[index[..., 0], index[..., 1], index[..., 2]]

    def is_kept_by(self, operation: Ints) -> bool:
        """Whether U_g U_h U_-g-h stay as they are under places -> places @ operation."""
        middle = np.array(self.elastic.shape) // 2
        strongest = np.argsort(-np.abs(self.elastic), axis=None, kind="stable")[:60]
        g = np.stack(np.unravel_index(strongest, self.elastic.shape), axis=1) - middle
        one, two = (part.reshape(-1, 3) for part in np.broadcast_arrays(g[:, None], g[None]))
        before, after = (
            self._at(one @ w) * self._at(two @ w) * self._at(-(one + two) @ w)
            for w in (np.eye(3, dtype=np.int64), operation)
        )
        return bool(np.abs(after - before).max() <= _CLEAR * np.abs(before).max())

    def _at(self, places: Ints) -> npt.NDArray:
        """Elastic couplings, zero outside the table."""
        middle = np.array(self.elastic.shape) // 2
        inside = (np.abs(places) <= middle).all(1)
        index = np.where(inside[:, None], places, 0) + middle
        return np.where(inside, self.elastic[tuple(index.T)], 0.0)


def _inversion_centre(places: Ints, u: npt.NDArray) -> Floats | None:
    """The shift of the origin, in places' own units, that makes all U_g real; None: no such."""
    basis: list[Ints] = []
    turns: list[float] = []
    for place, value in zip(places, u, strict=True):
        if np.linalg.matrix_rank(np.array([*basis, place])) > len(basis):
            basis.append(place)
            turns.append(float(np.angle(value)) / (2 * pi))
    x = np.array(basis)
    # Signs may differ: the shift makes each phase a multiple of half a turn.
    for halves in product((0.0, 0.5, 1.0, 1.5), repeat=len(x)):
        shift = np.linalg.pinv(x) @ (np.array(halves) - turns)
        turned = u * np.exp(2j * pi * (places @ shift))
        if np.abs(turned.imag).max() <= _CLEAR * np.abs(u).max():
            return shift
    return None


@dataclass(frozen=True, eq=False)
class _Task:
    """One direction of the Brillouin zone, and the samples that follow from it.

    ``direction`` (2,) is in 1/Å; ``samples`` (n,) are their numbers; ``incident`` (n, 3) is the
    place of each one's beam of incidence, ``exits`` (n, r, 3) of the beams looked at.
    """

    direction: Floats
    samples: Ints
    incident: Ints
    exits: Ints


@dataclass(frozen=True, eq=False)
class _Grid:
    """Directions over a square, in steps that divide the zone's vectors.

    Sample (i, j) lies at (i + 1/2, j + 1/2) times ``vectors / steps``.
    """

    vectors: Floats
    steps: Ints
    samples: Ints

    @classmethod
    def covering(cls, vectors: Floats, pixels: int, pixel_size: float) -> _Grid:
        """The samples of a square of pixels: these themselves where they fit, or no fewer."""
        plane = vectors[:2, :2]
        steps = np.ceil(np.linalg.norm(plane, axis=1) / pixel_size - 1e-6).astype(np.int64)
        half_width = 0.5 * pixels * pixel_size
        fitting = np.abs(plane / steps[:, None] - pixel_size * np.eye(2)).max() < 1e-6 * pixel_size
        if not (fitting and pixels % 2 == 0):
            half_width += _MARGIN * pixel_size
        inverse = np.linalg.inv(plane / steps[:, None])
        corners = half_width * np.array([[1, 1], [1, -1]]) @ inverse
        reach = np.ceil(np.abs(corners).max(axis=0)).astype(int)
        samples = np.indices(2 * reach).reshape(2, -1).T - reach
        grid = cls(vectors, steps, samples)
        inside = (np.abs(grid.directions) <= half_width * (1 + 1e-9)).all(1)
        return cls(vectors, steps, samples[inside])

    def image(self, values: npt.NDArray, pixels: int, pixel_size: float) -> npt.NDArray:
        """Values (..., n) of the samples on the square's pixels, by cubic splines if between."""
        low = self.samples.min(axis=0)
        table = np.zeros((*values.shape[:-1], *(self.samples.max(axis=0) - low + 1)), np.float32)
        table[(..., *(self.samples - low).T)] = values
        axis = (np.arange(pixels) - 0.5 * (pixels - 1)) * pixel_size
        wanted = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
        place = wanted @ np.linalg.inv(self.vectors[:2, :2]) * self.steps - 0.5 - low
        whole = np.rint(place)
        if np.abs(place - whole).max() < 1e-6:
            return table[(..., *np.moveaxis(whole.astype(np.int64), -1, 0))]
        flat = table.reshape(-1, *table.shape[-2:])
        drawn = [map_coordinates(one, np.moveaxis(place, -1, 0), order=3) for one in flat]
        return np.array(drawn).reshape(*values.shape[:-1], pixels, pixels)

    @property
    def directions(self) -> Floats:
        """(row, col) in 1/Å of all samples, shape (n, 2)."""
        return ((self.samples + 0.5) / self.steps) @ self.vectors[:2, :2]

    def moved(self, operation: Ints) -> Ints | None:
        """The samples that an operation on places leads to; None: between samples."""
        matrix = operation[:2, :2] / self.steps[:, None] * self.steps
        offset = 0.5 * matrix.sum(0) - 0.5
        whole = np.rint(matrix), np.rint(offset)
        if np.abs(matrix - whole[0]).max() > 1e-6 or np.abs(offset - whole[1]).max() > 1e-6:
            return None
        return (self.samples @ whole[0] + whole[1]).astype(np.int64)

    def tasks(self, coupled: Ints, operations: Sequence[Ints], looked_at: Ints) -> Iterator[_Task]:
        """Yield directions that no operation and no coupled vector joins, with their samples."""
        (a, _, _), (b, c, _) = coupled[:2] * np.array([*self.steps, 0])
        joined: list[tuple[Ints, Ints, Ints]] = []
        for operation in operations:
            moved = self.moved(operation)
            if moved is not None:
                second = moved[:, 1] // c
                first = (moved[:, 0] - second * b) // a
                away = np.column_stack([first * a + second * b, second * c])
                joined.append((operation, moved - away, away // self.steps))
        codes = np.array([home[:, 1] * a + home[:, 0] for _, home, _ in joined])
        best, code = codes.argmin(axis=0), codes.min(axis=0)
        away = np.array([away for _, _, away in joined])[best, np.arange(len(best))]
        exits = np.array([looked_at @ operation for operation, _, _ in joined])
        order = np.argsort(code, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(code[order])) + 1):
            home = np.array([code[rows[0]] % a, code[rows[0]] // a])
            incident = np.column_stack([away[rows], np.zeros_like(rows)])
            yield _Task(
                direction=((home + 0.5) / self.steps) @ self.vectors[:2, :2],
                samples=rows,
                incident=incident,
                exits=incident[:, None] + exits[best[rows]],
            )


@dataclass(frozen=True, eq=False)
class _Solver:
    """Diagonalises the beams of one direction, and reads intensities from it."""

    zone: Zone
    potential: _Potential
    wave_number: float
    candidates: Ints
    q_max: float
    max_beams: int
    dtype: torch.dtype
    device: torch.device

    def intensities(self, task: _Task, thickness: torch.Tensor) -> tuple[npt.NDArray, int]:
        """Intensities of a task's samples, shape (t, r, n), and the number of beams."""
        beams, level, normal = self._beams(task)
        matrix = self._matrix(self.potential.elastic, beams, normal)
        matrix.diagonal().add_(torch.from_numpy(level).to(matrix))
        values, vectors = torch.linalg.eigh(matrix)
        values, left, right = self._absorbed(values, vectors, beams, normal)
        turns = values.real.double()[:, None] * thickness
        turns = 2.0 * pi * (turns - turns.round())
        decay = torch.exp(-2.0 * pi * values.imag.double()[:, None] * thickness)
        phases = torch.polar(decay, turns).to(self.device, self.dtype.to_complex())
        number = _numbers(beams)
        entered = right.mT[number(task.incident)]
        out = []
        for exits in task.exits.transpose(1, 0, 2):
            seen = (left[number(exits)] * entered).to(phases.dtype)
            out.append((seen @ phases).abs().square().T)
        return torch.stack(out, dim=1).cpu().numpy(), len(beams)

    def _beams(self, task: _Task) -> tuple[Ints, Floats, Floats]:
        """Places, levels k_n - K + g_n and normal components k_n of a direction's beams."""
        wanted = np.unique(np.concatenate([task.incident, task.exits.reshape(-1, 3)]), axis=0)
        places = np.unique(np.concatenate([self.candidates, wanted]), axis=0)
        g = places @ self.zone.vectors
        across = np.linalg.norm(task.direction + g[:, :2], axis=1)
        is_wanted = (places[:, None] == wanted[None]).all(2).any(1)
        kept = (across <= self.q_max) | is_wanted
        places, g, across, is_wanted = places[kept], g[kept], across[kept], is_wanted[kept]
        normal = np.sqrt(self.wave_number**2 - across**2)
        level = normal - self.wave_number + g[:, 2]
        if len(places) > self.max_beams:
            incident = np.unique(task.incident, axis=0)
            at = _numbers(places)(incident)
            gap = np.abs(self.potential.between(self.potential.elastic, places, incident))
            gap = gap / (2.0 * self.wave_number) + 1e-12
            strength = (gap / np.hypot(level[:, None] - level[at], gap)).max(axis=1)
            strength[is_wanted] = np.inf
            if is_wanted.sum() > self.max_beams:
                raise ValueError(
                    f"{is_wanted.sum()} beams are incident or looked at: max_beams must be larger"
                )
            kept = np.sort(np.argsort(-strength, kind="stable")[: self.max_beams])
            places, level, normal = places[kept], level[kept], normal[kept]
        return places, level, normal

    def _matrix(self, table: npt.NDArray, beams: Ints, normal: Floats) -> torch.Tensor:
        couplings = self.potential.between(table, beams, beams)
        scaled = couplings / (2.0 * np.sqrt(normal[:, None] * normal))
        kind = self.dtype.to_complex() if np.iscomplexobj(scaled) else self.dtype
        return torch.from_numpy(scaled).to(self.device, kind)

    def _absorbed(
        self, values: torch.Tensor, vectors: torch.Tensor, beams: Ints, normal: Floats
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Complex eigenvalues, right and left eigenvectors with the absorptive potential.

        It mixes the Bloch waves that it damps most, those bound to the atoms; for them the matrix
        is diagonalised again, all others only fade.
        """
        right = vectors.mH
        if not self.potential.absorptive.any():
            return values + 0j, vectors, right
        absorptive = self._matrix(self.potential.absorptive, beams, normal)
        absorptive = vectors.mH @ (absorptive @ vectors)
        values = torch.complex(values, absorptive.diagonal().real)
        mixed = torch.topk(values.imag, min(_MIXED, len(values))).indices
        among = 1j * absorptive[mixed][:, mixed] + torch.diag(values.real[mixed])
        inner, turned = torch.linalg.eig(among)
        values[mixed] = inner
        vectors, right = vectors + 0j, right + 0j
        vectors[:, mixed] = vectors[:, mixed] @ turned
        right[mixed] = torch.linalg.solve(turned, right[mixed])
        return values, vectors, right


def _numbers(places: Ints) -> Callable[[Ints], torch.Tensor]:
    """A function from places to their numbers among these."""
    low, high = places.min(axis=0), places.max(axis=0)
    table = np.full(high - low + 1, -1)
    table[tuple((places - low).T)] = np.arange(len(places))
    return lambda some: torch.from_numpy(table[tuple((some - low).T)])


@dataclass(frozen=True, eq=False)
class Lacbed:
    """LACBED disks of one zone axis.

    Attributes
    ----------
    images : torch.Tensor, shape (t, r, pixels, pixels)
        float32, for each thickness and reflection; the incident intensity is 1.
    hkl : ndarray of int, shape (r, 3)
    thicknesses : ndarray, shape (t,)
        Å.
    pixel_size : float
        1/Å. Pixel (i, j) is the direction (i - (pixels - 1) / 2, j - (pixels - 1) / 2) pixel
        sizes from the zone axis.
    orientation : ndarray, shape (3, 3)
        See `orientations.zone_axis`.
    beams : int
        Most beams that were diagonalised together.
    """

    images: torch.Tensor
    hkl: Ints
    thicknesses: Floats
    pixel_size: float
    orientation: Floats
    beams: int


def lacbed(
    crystal: Crystal,
    zone: npt.ArrayLike,
    energy_ev: float,
    thicknesses: Sequence[float],
    *,
    half_width: float,
    pixels: int = 128,
    reflections: npt.ArrayLike = ((0, 0, 0),),
    q_max: float = 3.5,
    layers: int = 0,
    max_beams: int = 1000,
    absorption: bool = True,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    progress: bool | None = None,
) -> Lacbed:
    """Return LACBED disks of a zone axis.

    Parameters
    ----------
    crystal : Crystal
    zone : array_like of int, shape (3,)
        [uvw] towards the source.
    energy_ev : float
    thicknesses : sequence of float, shape (t,)
        Å.
    half_width : float
        Of the square of directions, 1/Å.
    pixels : int
        Rows and columns.
    reflections : array_like of int, shape (r, 3)
        hkl of the disks, normal to the zone; default the bright field.
    q_max : float
        1/Å; beams up to this distance from the zone axis. Those of incidence and those looked at
        are among them in any case.
    layers : int
        Higher-order Laue zones taken into account; 0: the projected potential alone.
    max_beams : int
        Where there are more, those that couple most strongly to a beam of incidence.
    absorption : bool
        Thermal diffuse absorption.
    dtype : torch.dtype
        torch.float32 or float64.
    device : torch.device or str
    progress : bool, optional
        None: a bar in a terminal or a notebook.

    Raises
    ------
    ValueError
        If the zone is none, a reflection is not normal to it, or a number is out of range.

    Examples
    --------
    >>> gold = Crystal.cubic(4.08, [79] * 4, [[0, 0, 0], [0, .5, .5], [.5, 0, .5], [.5, .5, 0]])
    >>> disks = lacbed(gold, (0, 0, 1), 200e3, [500.0], half_width=0.5, pixels=16, q_max=1.5)
    >>> disks.images.shape
    torch.Size([1, 1, 16, 16])
    """
    thickness = torch.as_tensor(thicknesses, dtype=torch.float64).reshape(-1)
    if not bool(((thickness >= 0) & torch.isfinite(thickness)).all()):
        raise ValueError("thicknesses must be finite and not negative (Å)")
    if not (half_width > 0 and pixels > 0 and layers >= 0):
        raise ValueError("half_width and pixels must be above 0, and layers not below")
    view = Zone.of(crystal, zone)
    hkl = np.asarray(reflections, dtype=np.int64).reshape(-1, 3)
    looked_at = view.places(hkl)
    if looked_at[:, 2].any():
        raise ValueError("the reflections must be normal to the zone: h u + k v + l w = 0")
    pixel_size = 2.0 * half_width / pixels
    grid = _Grid.covering(view.vectors, pixels, pixel_size)
    farthest = half_width * 2**0.5 + np.linalg.norm(looked_at @ view.vectors, axis=1).max()
    q_max = max(q_max, farthest)
    reach = np.ceil(q_max * np.linalg.norm(np.linalg.inv(view.vectors[:2, :2]), axis=0)).astype(int)
    m = int(reach.max()) + 2
    potential = _Potential.of(view, 2 * m, layers, energy_ev, absorption)
    solver = _Solver(
        view, potential, 1.0 / wavelength(energy_ev), _candidates(potential.coupled, m, layers),
        q_max, max_beams, dtype, torch.device(device),
    )  # fmt: skip
    tasks = list(grid.tasks(potential.coupled, _operations(view, potential, layers), looked_at))
    values = np.zeros((len(thickness), len(hkl), len(grid.samples)), dtype=np.float32)
    beams = 0
    for task in progress_bar(tasks, description="LACBED", progress=progress):
        values[:, :, task.samples], count = solver.intensities(task, thickness)
        beams = max(beams, count)
    images = torch.from_numpy(grid.image(values, pixels, pixel_size))
    return Lacbed(images, hkl, thickness.numpy(), pixel_size, view.orientation, beams)


def _operations(zone: Zone, potential: _Potential, layers: int) -> list[Ints]:
    """Operations on places that leave the zone's patterns as they are, identity first."""
    found = [np.eye(3, dtype=np.int64)]
    for operation in laue_operations(zone.crystal):
        turned = zone.orientation.T @ operation @ zone.orientation
        along = turned[2, 2] if layers else abs(turned[2, 2])
        if along < 1.0 - 1e-6:
            continue
        turned[2] = turned[:, 2] = 0.0, 0.0, 1.0  # a projection has no above and below
        matrix = np.rint(zone.vectors @ turned @ np.linalg.inv(zone.vectors)).astype(np.int64)
        known = any(np.array_equal(matrix, other) for other in found)
        if not known and potential.is_kept_by(matrix):
            found.append(matrix)
    return found


def _candidates(coupled: Ints, m: int, layers: int) -> Ints:
    """Places up to m in the plane that any coupling reaches, in layers 0 to ``layers``."""
    shape = (2 * m + 1, 2 * m + 1, layers + 1)
    places = np.indices(shape).reshape(3, -1).T - [m, m, 0]
    share = np.rint(places @ np.linalg.pinv(coupled.astype(float))).astype(np.int64)
    return places[(share @ coupled == places).all(1)]
