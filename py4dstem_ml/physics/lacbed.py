"""Large-angle CBED: every disk of a zone axis, over directions far beyond the Bragg angles.

A wave incident along k + h, with h of the reciprocal lattice, passes through the very beams of
the wave along k. One diagonalisation for a direction in the projected Brillouin zone thus holds
the patterns at all directions that differ from it by a lattice vector: a LACBED disk 14 lattice
vectors wide takes one for each 200 pixels. With the zone's symmetry and, where the crystal has an
inversion centre in projection, real arithmetic, all disks and thicknesses of a small cell take a
second or so.

The beams' amplitudes are normalised by their flux (Palatinus et al., Acta Cryst. A 71 (2015)
235), which makes the matrix the same for all directions of incidence, and Hermitian. Absorption
damps each Bloch wave by its mean (Humphreys, Rep. Prog. Phys. 42 (1979) 1825), and mixes those that
are excited.
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
from .threads import one_thread

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Structure factors below this share of the strongest join no beams.
_COUPLED = 1e-6
#: Symmetries are told from those above this share, by phases that agree as well.
_CLEAR = 1e-4
#: 1/Å; beams this far beyond the farthest direction count in any case.
_BEYOND = 0.7
#: 1/Å; beams of higher layers count within this excitation error of a direction looked at.
_HOLZ_ERROR = 0.02
#: Reflections whose phases an operation must keep, and how many each is compared with.
_COMPARED, _PARTNERS = 400, 30
#: Beams that couple more strongly than this to a beam of incidence are no perturbation.
_PERTURBING = 0.5
#: Amplitude of a beam of incidence in a Bloch wave, or brought there by absorption, that counts.
_EXCITED = 0.003
#: Pixels; directions that miss a pixel's middle by less are that pixel.
_FITTING = 1e-3
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

    ``elastic`` and ``absorptive`` are tables over places from minus a reach to that reach; the
    mean of the elastic part is left out. The origin lies in a centre of inversion where there is
    one, and both are real then. ``coupled`` spans the places that any coupling reaches;
    ``clear`` are those that symmetries are told from, the strongest first.
    """

    elastic: npt.NDArray
    absorptive: npt.NDArray
    coupled: Ints
    clear: Ints

    @classmethod
    def of(cls, zone: Zone, reach: Ints, energy_ev: float, absorption: bool) -> _Potential:
        """The couplings of places up to ``reach`` (3,)."""
        shape = tuple(2 * reach + 1)
        places = np.indices(shape).reshape(3, -1).T - reach
        u = zone.crystal.coupling_coefficients(
            places @ zone.basis, energy_ev, absorption=absorption
        )
        table = u.detach().numpy().reshape(shape)
        opposite = table[::-1, ::-1, ::-1].conj()
        elastic, absorptive = 0.5 * (table + opposite), -0.5j * (table - opposite)
        elastic[tuple(reach)] = 0.0
        strength = np.abs(elastic).ravel()
        order = np.argsort(-strength, kind="stable")
        coupled = _spanned(places[order[: np.sum(strength > _COUPLED * strength.max())]])
        order = order[: np.sum(strength > _CLEAR * strength.max())]
        clear = places[order]
        origin = _inversion_centre(clear, elastic.ravel()[order])
        if origin is not None:
            phase = np.exp(2j * pi * (places @ origin)).reshape(shape)
            elastic, absorptive = (elastic * phase).real, (absorptive * phase).real
        return cls(elastic, absorptive, coupled, clear)

    def between(self, table: npt.NDArray, one: Ints, other: Ints) -> npt.NDArray:
        """Couplings of places (n, 3) with places (m, 3), shape (n, m)."""
        strides = np.array([table.shape[1] * table.shape[2], table.shape[2], 1])
        middle = np.array(table.shape) // 2
        return table.ravel()[((one + middle) @ strides)[:, None] - other @ strides]

    def is_kept_by(self, operation: Ints) -> bool:
        """Whether U_g U_h U_-g-h stay as they are under places -> places @ operation."""
        g = self.clear[:_COMPARED]
        one, two = (x.reshape(-1, 3) for x in np.broadcast_arrays(g[:, None], g[None, :_PARTNERS]))
        before, after = (
            self._at(one @ w) * self._at(two @ w) * self._at(-(one + two) @ w)
            for w in (np.eye(3, dtype=np.int64), operation)
        )
        least = _CLEAR * np.abs(before).max()
        return bool((np.abs(after - before) <= 1e-2 * np.abs(before) + least * _CLEAR).all())

    def _at(self, places: Ints) -> npt.NDArray:
        """Elastic couplings, zero outside the table."""
        middle = np.array(self.elastic.shape) // 2
        inside = (np.abs(places) <= middle).all(1)
        index = np.where(inside[:, None], places, 0) + middle
        return np.where(inside, self.elastic[tuple(index.T)], 0.0)


def _spanned(places: Ints) -> Ints:
    """Rows that span places, the strongest first; all of a plane, or of space, where few do."""
    basis = _lattice_basis(places[:50]) if len(places) else np.zeros((0, 3), np.int64)
    if len(basis):
        missing = places[~_are_on(basis, places)]
        if len(missing):
            basis = _lattice_basis(np.concatenate([basis, missing]))
    if len(basis) >= 2 and not basis[:2, 2].any():
        return basis
    return np.eye(3, dtype=np.int64)[: 2 + int(len(places) > 0 and places[:, 2].any())]


def _are_on(basis: Ints, places: Ints) -> npt.NDArray[np.bool_]:
    """Which places (n, 3) are whole-number sums of the basis' rows."""
    share = np.rint(places @ np.linalg.pinv(basis.astype(float))).astype(np.int64)
    return (share @ basis == places).all(1)


def _inversion_centre(places: Ints, u: npt.NDArray) -> Floats | None:
    """The shift of the origin, in places' own units, that makes all U_g real; None: no such."""
    basis: list[Ints] = []
    turns: list[float] = []
    rank = np.linalg.matrix_rank(places)
    for place, value in zip(places, u, strict=True):
        if len(basis) == rank:
            break
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

    Sample (i, j) lies at (i + offset, j + offset) times ``vectors / steps``.
    """

    vectors: Floats
    steps: Ints
    offset: float
    samples: Ints

    @classmethod
    def covering(cls, vectors: Floats, pixels: int, pixel_size: float) -> _Grid:
        """The samples of a square of pixels: these themselves where they fit, or twice as fine."""
        plane = vectors[:2, :2]
        steps = np.ceil(np.linalg.norm(plane, axis=1) / pixel_size - 1e-6).astype(np.int64)
        half_width = 0.5 * pixels * pixel_size
        misfit = np.abs(plane / steps[:, None] - pixel_size * np.eye(2)).max() / pixel_size
        fitting = 0.5 * pixels * misfit < _FITTING
        offset = 0.5 if fitting and pixels % 2 == 0 else 0.0
        if not fitting:
            steps = 2 * steps
            half_width += _MARGIN * 0.5 * pixel_size
        inverse = np.linalg.inv(plane / steps[:, None])
        corners = half_width * np.array([[1, 1], [1, -1]]) @ inverse
        reach = np.ceil(np.abs(corners).max(axis=0)).astype(int)
        samples = np.indices(2 * reach + 1).reshape(2, -1).T - reach
        grid = cls(vectors, steps, offset, samples)
        inside = (np.abs(grid.directions) <= half_width * (1 + 1e-9)).all(1)
        return cls(vectors, steps, offset, samples[inside])

    def image(self, values: npt.NDArray, pixels: int, pixel_size: float) -> npt.NDArray:
        """Values (..., n) of the samples on the square's pixels, by cubic splines if between."""
        low = self.samples.min(axis=0)
        table = np.zeros((*values.shape[:-1], *(self.samples.max(axis=0) - low + 1)), np.float32)
        table[(..., *(self.samples - low).T)] = values
        axis = (np.arange(pixels) - 0.5 * (pixels - 1)) * pixel_size
        wanted = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
        place = wanted @ np.linalg.inv(self.vectors[:2, :2]) * self.steps - self.offset - low
        whole = np.rint(place)
        if np.abs(place - whole).max() < _FITTING:
            return table[(..., *np.moveaxis(whole.astype(np.int64), -1, 0))]
        flat = table.reshape(-1, *table.shape[-2:])
        drawn = [
            map_coordinates(one, np.moveaxis(place, -1, 0), order=3, mode="nearest") for one in flat
        ]
        images = np.array(drawn).reshape(*values.shape[:-1], pixels, pixels)
        return images.clip(min=values.min(axis=-1)[..., None, None])

    @property
    def directions(self) -> Floats:
        """(row, col) in 1/Å of all samples, shape (n, 2)."""
        return ((self.samples + self.offset) / self.steps) @ self.vectors[:2, :2]

    def moved(self, operation: Ints) -> Ints | None:
        """The samples that an operation on places leads to; None: between samples."""
        matrix = operation[:2, :2] / self.steps[:, None] * self.steps
        offset = self.offset * (matrix.sum(0) - 1.0)
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
                # Homes lie about the zone axis, from -a // 2 and -c // 2.
                second = (moved[:, 1] + c // 2) // c
                first = (moved[:, 0] + a // 2 - second * b) // a
                away = np.column_stack([first * a + second * b, second * c])
                joined.append((operation, moved - away + [a // 2, c // 2], away // self.steps))
        codes = np.array([home[:, 1] * a + home[:, 0] for _, home, _ in joined])
        best, code = codes.argmin(axis=0), codes.min(axis=0)
        away = np.array([away for _, _, away in joined])[best, np.arange(len(best))]
        exits = np.array([looked_at @ operation for operation, _, _ in joined])
        order = np.argsort(code, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(code[order])) + 1):
            home = np.array([code[rows[0]] % a - a // 2, code[rows[0]] // a - c // 2])
            incident = np.column_stack([away[rows], np.zeros_like(rows)])
            yield _Task(
                direction=((home + self.offset) / self.steps) @ self.vectors[:2, :2],
                samples=rows,
                incident=incident,
                exits=incident[:, None] + exits[best[rows]],
            )


@dataclass(frozen=True, eq=False)
class _Beams:
    """Places (n, 3), levels k_n - K + g_n and normal components k_n of beams, 1/Å."""

    places: Ints
    level: Floats
    normal: Floats

    def __getitem__(self, which: npt.NDArray[np.bool_]) -> _Beams:
        return _Beams(self.places[which], self.level[which], self.normal[which])


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
        thickness = thickness.to(self.device)
        strong, weak, span = self._beams(task)
        matrix = self._matrix(self.potential.elastic, strong, strong)
        matrix.diagonal().add_(torch.from_numpy(strong.level).to(matrix))
        matrix += self._through(weak, strong, span)
        values, vectors = torch.linalg.eigh(matrix)
        number = _numbers(strong.places)
        entered = number(task.incident)
        values, left, right = self._absorbed(values, vectors, strong, entered)
        turns = values.real.double()[:, None] * thickness
        turns = 2.0 * pi * (turns - turns.round())
        decay = torch.exp(-2.0 * pi * values.imag.double()[:, None] * thickness)
        phases = torch.polar(decay, turns).to(self.dtype.to_complex())
        waves = right.mT[entered]
        out = []
        for exits in task.exits.transpose(1, 0, 2):
            seen = (left[number(exits)] * waves).to(phases.dtype)
            out.append((seen @ phases).abs().square().T)
        return torch.stack(out, dim=1).cpu().numpy(), len(strong.places)

    def _beams(self, task: _Task) -> tuple[_Beams, _Beams, tuple[float, float]]:
        """Strong and weak beams of a direction, and the span of the beams of incidence's levels."""
        incident = np.unique(task.incident, axis=0)
        wanted = np.unique(np.concatenate([incident, task.exits.reshape(-1, 3)]), axis=0)
        places = np.unique(np.concatenate([self.candidates, wanted]), axis=0)
        g = places @ self.zone.vectors
        across = np.linalg.norm(task.direction + g[:, :2], axis=1)
        across = np.minimum(across, self.wave_number)  # beyond are none
        normal = np.sqrt(self.wave_number**2 - across**2)
        beams = _Beams(places, normal - self.wave_number + g[:, 2], normal)
        number = _numbers(places)
        levels = beams.level[number(incident)]
        low, high = float(levels.min()), float(levels.max())
        near = (beams.level > low - _HOLZ_ERROR) & (beams.level < high + _HOLZ_ERROR)
        kept = (across <= self.q_max) | ((places[:, 2] > 0) & near)
        kept[number(wanted)] = True
        strength = np.where(kept, self._strength(beams, number(incident).numpy()), -1.0)
        strength[number(wanted)] = np.inf
        strongest = np.argsort(-strength, kind="stable")[: self.max_beams]
        strong = strength > _PERTURBING
        strong[strongest] = True
        strong &= kept
        return beams[strong], beams[kept & ~strong], (low, high)

    def _strength(self, beams: _Beams, incident: Ints) -> Floats:
        """How strongly each beam couples to the beam of incidence that it couples to best."""
        couplings = self.potential.between(
            self.potential.elastic, beams.places, beams.places[incident]
        )
        gap = np.abs(couplings) / (2.0 * self.wave_number) + 1e-12
        return (gap / np.hypot(beams.level[:, None] - beams.level[incident], gap)).max(axis=1)

    def _matrix(self, table: npt.NDArray, one: _Beams, other: _Beams) -> torch.Tensor:
        couplings = self.potential.between(table, one.places, other.places)
        scaled = couplings / (2.0 * np.sqrt(one.normal[:, None] * other.normal))
        kind = self.dtype.to_complex() if np.iscomplexobj(scaled) else self.dtype
        return torch.from_numpy(scaled).to(self.device, kind)

    def _through(self, weak: _Beams, strong: _Beams, span: tuple[float, float]) -> torch.Tensor:
        """Couplings of strong beams by way of weak ones, to second order.

        A strong beam counts at its own level, or where it is no beam of incidence at the nearest
        of theirs, for it swings with them.
        """
        couplings = self._matrix(self.potential.elastic, strong, weak)
        apart = np.clip(strong.level, *span)[:, None] - weak.level
        gap = torch.from_numpy(apart).to(self.device, self.dtype)
        # No coupling shifts a level by more than itself, however near the other level lies.
        share = couplings * gap / (gap.square() + couplings.abs().square() + 1e-20)
        back = share @ couplings.mH
        return 0.5 * (back + back.mH)

    def _absorbed(
        self,
        values: torch.Tensor,
        vectors: torch.Tensor,
        beams: _Beams,
        entered: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Complex eigenvalues, right and left eigenvectors with the absorptive potential.

        Among the Bloch waves that a beam of incidence excites, and those that absorption joins with
        them, the matrix is diagonalised again; the others only fade.
        """
        right = vectors.mH
        if not self.potential.absorptive.any():
            return values + 0j, vectors, right
        absorptive = self._matrix(self.potential.absorptive, beams, beams)
        absorptive = vectors.mH @ (absorptive @ vectors)
        values = torch.complex(values, absorptive.diagonal().real)
        excited = vectors[entered].abs().amax(0)
        apart = torch.hypot(values.real[:, None] - values.real, values.imag[:, None])
        mixing = excited[:, None] * absorptive.abs() / apart.clamp(min=1e-12)
        mixed = torch.nonzero(torch.maximum(excited, mixing.amax(0)) > _EXCITED)[:, 0]
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
    """Return LACBED disks of a zone axis, the foil normal along it.

    Where the zone's shortest vectors are equal, at right angles, and a whole number of pixels
    long, every pixel is computed; else it is a cubic spline between directions half a pixel apart,
    which takes some ten times as long. In a square not wider than those vectors no direction is
    shared: each pixel costs a diagonalisation there.

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
        1/Å; beams up to this distance from the zone axis, or 0.7 beyond the farthest direction
        looked at, and those of higher layers that lie near the Ewald sphere, wherever.
    layers : int
        Higher-order Laue zones taken into account, those that have reflections; 0: the projected
        potential alone.
    max_beams : int
        Diagonalised together, those that couple most strongly to a beam of incidence, and all that
        are incident, looked at, or couple too strongly to be a perturbation; the others count to
        second order.
    absorption : bool
        Thermal diffuse absorption; to first order for Bloch waves that are hardly excited.
    dtype : torch.dtype
        torch.float32 or float64.
    device : torch.device or str
    progress : bool, optional
        None: a bar in a terminal or a notebook.

    Returns
    -------
    Lacbed
        A pixel of every disk is a direction of incidence. Intensities are currents through the
        foil's face. Of the zone's shortest vectors the first, with the largest h, then k, runs down
        the rows: a* along [001].

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
    wave_number = 1.0 / wavelength(energy_ev)
    thickness = torch.as_tensor(thicknesses, dtype=torch.float64).reshape(-1)
    if not len(thickness) or not bool(((thickness >= 0) & torch.isfinite(thickness)).all()):
        raise ValueError("thicknesses must be finite and not negative (Å), one at least")
    if not 0 < half_width < 0.5 * wave_number:
        raise ValueError(
            f"half_width must be above 0 and below {0.5 * wave_number:.3g} 1/Å, not {half_width:g}"
        )
    if pixels < 1 or layers < 0:
        raise ValueError(f"pixels, {pixels}, must be above 0, and layers, {layers}, not below")
    if max_beams < 1:
        raise ValueError(f"max_beams must be 1 at least, not {max_beams}")
    view = Zone.of(crystal, zone)
    hkl = np.atleast_2d(np.asarray(reflections, dtype=float))
    if not hkl.size or hkl.shape[1:] != (3,) or not np.array_equal(hkl, np.rint(hkl)):
        raise ValueError("the reflections are rows of whole numbers h, k, l, one at least")
    hkl = hkl.astype(np.int64)
    looked_at = view.places(hkl)
    if looked_at[:, 2].any():
        raise ValueError("the reflections must be normal to the zone: h u + k v + l w = 0")
    pixel_size = 2.0 * half_width / pixels
    grid = _Grid.covering(view.vectors, pixels, pixel_size)
    highest = layers * (_layer_period(view) if layers else 0)
    corner = np.linalg.norm(grid.directions, axis=1).max()
    q_max = max(q_max, corner + np.linalg.norm(looked_at @ view.vectors, axis=1).max() + _BEYOND)
    ring = (corner**2 + 2.0 * wave_number * (highest * view.vectors[2, 2] + _HOLZ_ERROR)) ** 0.5
    reach = _reach(view, max(q_max, ring) if layers else q_max, highest)
    potential = _Potential.of(view, 2 * reach, energy_ev, absorption)
    candidates = _candidates(potential.coupled, reach)
    solver = _Solver(
        view, potential, wave_number, candidates, q_max, max_beams, dtype, torch.device(device)
    )
    tasks = list(grid.tasks(potential.coupled, _operations(view, potential, layers), looked_at))
    values = np.zeros((len(thickness), len(hkl), len(grid.samples)), dtype=np.float32)
    beams = 0
    with one_thread():
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


def _layer_period(zone: Zone) -> int:
    """Every how many layers there are reflections: centred cells leave some empty."""
    reach = np.array([4, 4, 6])
    coupled = _Potential.of(zone, reach, 200e3, absorption=False).coupled
    return int(coupled[2, 2]) if len(coupled) == 3 else 1


def _reach(zone: Zone, q: float, layer: int) -> Ints:
    """How far places go that lie within ``q`` (1/Å) of the zone axis, up to a layer."""
    plane = np.linalg.inv(zone.vectors[:2, :2])
    aside = np.abs(layer * zone.vectors[2, :2] @ plane)
    across = np.ceil(q * np.linalg.norm(plane, axis=0) + aside).astype(np.int64) + 1
    return np.array([*across, layer])


def _candidates(coupled: Ints, reach: Ints) -> Ints:
    """Places up to ``reach`` that any coupling joins, in layers from 0."""
    places = np.indices((2 * reach[0] + 1, 2 * reach[1] + 1, reach[2] + 1)).reshape(3, -1).T
    places = places - [reach[0], reach[1], 0]
    return places[_are_on(coupled, places)]
