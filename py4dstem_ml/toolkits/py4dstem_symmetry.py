"""py4DSTEM: crystal system, space group and lattice of Bragg vectors, as maps of the scan."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    import os

    from py4DSTEM import BraggVectors, RealSlice

    from ..symmetry.lists import BraggLists
    from ..symmetry.predict import CrystalSystemPredictor
    from ..symmetry.prediction import CrystalPrediction

__all__ = [
    "bragg_lists",
    "predict_crystal",
    "predict_crystal_system",
    "predict_lattice",
    "predict_space_group",
]

#: Maps by name, in the order of `predict_crystal`.
_SYSTEM, _SURENESS, _PROBABILITY = "crystal_system", "crystal_confidence", "crystal_probabilities"
_GROUP, _LATTICE = "space_group", "lattice"


def predict_crystal_system(
    braggvectors: BraggVectors,
    *,
    model: str | os.PathLike | None = None,
    regions: npt.ArrayLike | str | None = None,
    min_peaks: int = 5,
    median_filter: int = 5,
    min_difference: float = 0.005,
    device: Any = None,
    progress: bool | None = None,
) -> RealSlice:
    """Map the crystal system of each position of a scan.

    Parameters
    ----------
    braggvectors : py4DSTEM.BraggVectors
        Calibrated: with the origin, and the pixel size in A^-1.
    model, min_peaks, device
        See `CrystalSystemPredictor`.
    regions : array_like of int or bool, (R_Nx, R_Ny), or "particles", optional
        Grains or particles, numbered from 1; 0 is none. All positions of a region are read
        together, and have the same values; a mask is one region. "particles": those that stand
        out in the dark field, see `py4dstem_ml.symmetry.find_particles`.
    median_filter : int
        Width in positions of the median filter of the maps of difference confidence of all
        systems, an odd number; 1: none. Not used with `regions`.
    min_difference : float
        Positions where the best system leads the next one by less are left out.
    progress : bool, optional
        None: a bar in a terminal or a notebook.

    Returns
    -------
    py4DSTEM.RealSlice
        ``crystal_system``: indices, int16, -1 where there is none. The names are in
        ``.metadata["legend"]["systems"]``. It is in the tree of the Bragg vectors, and with it
        ``crystal_confidence``, a stack: ``lead``, the filtered difference confidence of the system
        shown; and of each position by itself ``confidence``, ``difference`` and ``mixed``, the
        probability of two crystals. ``crystal_probabilities``, a stack by system, is of each
        position by itself, too.

    Raises
    ------
    ValueError
        If the vectors are not calibrated, or an argument does not fit; the message says what to
        do.

    Examples
    --------
    >>> import py4DSTEM, py4dstem_ml
    >>> bragg = py4DSTEM.BraggVectors((2, 3), (64, 64))
    >>> bragg.calibration.set_origin((32, 32))
    >>> bragg.calibration.set_Q_pixel_size(0.02)
    >>> bragg.calibration.set_Q_pixel_units("A^-1")
    >>> bragg.predict_crystal_system().data.tolist()  # no peaks, no crystal
    [[-1, -1, -1], [-1, -1, -1]]

    Notes
    -----
    Filter and floor after Gleason et al., PR Materials 8 (2024) 093802. There three of the six
    systems are left out of the map; here all are in it.
    """
    options = _Options(model, regions, min_peaks, median_filter, min_difference, device, progress)
    maps = _predicted(braggvectors, options, system_only=True)
    return maps[_SYSTEM]


def predict_space_group(braggvectors: BraggVectors, **options: Any) -> RealSlice:
    """Map the space group of each position of a scan, given its likeliest crystal system.

    Parameters
    ----------
    braggvectors : py4DSTEM.BraggVectors
        Calibrated.
    **options
        Those of `predict_crystal_system`.

    Returns
    -------
    py4DSTEM.RealSlice
        ``space_group``, a stack: number (-1 where there is none), confidence given the system.
        It is in the tree of the Bragg vectors.

    Raises
    ------
    ValueError
        As `predict_crystal_system`.

    Examples
    --------
    >>> bragg.predict_space_group()["number"]  # doctest: +SKIP
    """
    return predict_crystal(braggvectors, **options)[_GROUP]


def predict_lattice(braggvectors: BraggVectors, **options: Any) -> RealSlice:
    """Map the lengths of the conventional cell, given the likeliest crystal system.

    Parameters
    ----------
    braggvectors : py4DSTEM.BraggVectors
        Calibrated.
    **options
        Those of `predict_crystal_system`.

    Returns
    -------
    py4DSTEM.RealSlice
        ``lattice``, a stack: a, b, c in Å, and half the width of the central 68 % of each,
        a_spread, b_spread, c_spread; NaN where there is none. It is in the tree of the Bragg
        vectors.

    Raises
    ------
    ValueError
        As `predict_crystal_system`.

    Examples
    --------
    >>> bragg.predict_lattice()["a"]  # doctest: +SKIP
    """
    return predict_crystal(braggvectors, **options)[_LATTICE]


def predict_crystal(
    braggvectors: BraggVectors,
    *,
    model: str | os.PathLike | None = None,
    regions: npt.ArrayLike | str | None = None,
    min_peaks: int = 5,
    median_filter: int = 5,
    min_difference: float = 0.005,
    device: Any = None,
    progress: bool | None = None,
) -> dict[str, RealSlice]:
    """Map crystal system, space group and lattice of each position of a scan, all in one pass.

    Parameters
    ----------
    braggvectors, model, regions, min_peaks, median_filter, min_difference, device, progress
        See `predict_crystal_system`.

    Returns
    -------
    dict of str to py4DSTEM.RealSlice
        ``crystal_system``, ``crystal_confidence``, ``crystal_probabilities``, ``space_group`` and
        ``lattice``, see `predict_crystal_system`, `predict_space_group` and `predict_lattice`. All
        are in the tree of the Bragg vectors.

    Raises
    ------
    ValueError
        As `predict_crystal_system`.

    Examples
    --------
    >>> maps = bragg.predict_crystal()  # doctest: +SKIP
    >>> py4DSTEM.save("maps.h5", bragg)  # doctest: +SKIP
    """
    options = _Options(model, regions, min_peaks, median_filter, min_difference, device, progress)
    return _predicted(braggvectors, options)


class _Options(NamedTuple):
    """The arguments of `predict_crystal`."""

    model: Any
    regions: Any
    min_peaks: int
    median_filter: int
    min_difference: float
    device: Any
    progress: bool | None


def _predicted(
    braggvectors: BraggVectors, options: _Options, *, system_only: bool = False
) -> dict[str, RealSlice]:
    from ..symmetry.predict import CrystalSystemPredictor

    if options.median_filter < 1 or options.median_filter % 2 == 0:
        raise ValueError(
            f"median_filter must be an odd number, 1 for none, not {options.median_filter}"
        )
    predictor = CrystalSystemPredictor(
        options.model, device=options.device, min_peaks=options.min_peaks
    )
    lists = bragg_lists(braggvectors)
    scan = tuple(int(n) for n in braggvectors.Rshape)
    if options.regions is None:
        found = predictor.predict(lists, system_only=system_only, progress=options.progress)
        system, lead = filtered_systems(found, scan, options.median_filter, options.min_difference)
        if not system_only:
            found = predictor.within(lists, found, system.reshape(-1))
    else:
        found = _by_region(predictor, lists, options.regions, scan)
        kept = np.nan_to_num(found.difference) >= options.min_difference
        system = np.where(kept, found.system, -1).astype(np.int16).reshape(scan)
        lead = np.where(kept, found.difference, np.nan).reshape(scan)
    made = _maps(system, lead, found, scan, system_only)
    parameters = _parameters(predictor, options)
    maps = {name: _real_slice(name, *parts, parameters) for name, parts in made.items()}
    for made_map in maps.values():
        braggvectors.attach(made_map)
    return maps


def bragg_lists(braggvectors: BraggVectors) -> BraggLists:
    """Return calibrated Bragg vectors as flat lists, a list a position, row by row.

    Parameters
    ----------
    braggvectors : py4DSTEM.BraggVectors
        Centred, corrected for the ellipse where one is set, and scaled as py4DSTEM does; not
        rotated.

    Raises
    ------
    TypeError
        If what is given are no Bragg vectors.
    ValueError
        If the origin is unknown, or the pixel size is not in A^-1.
    """
    from ..symmetry.lists import BraggLists

    raw = getattr(braggvectors, "_v_uncal", None)
    if raw is None:
        raise TypeError(
            f"py4DSTEM BraggVectors are needed, not {type(braggvectors).__name__}; find them with "
            "datacube.find_bragg_disks_aiml(probe)"
        )
    scan = braggvectors.Rshape
    lists = [raw[x, y].data for x in range(scan[0]) for y in range(scan[1])]
    offsets = np.cumsum([0, *map(len, lists)])
    joined = np.concatenate(lists)
    peaks = np.column_stack([joined[name] for name in ("qx", "qy", "intensity")]).astype(float)
    owner = np.repeat(np.arange(len(lists)), np.diff(offsets))
    peaks[:, :2] = _calibrated(peaks[:, :2], owner, braggvectors.calibration)
    return BraggLists(peaks, offsets)


def _calibrated(q: npt.NDArray, owner: npt.NDArray, calibration: Any) -> npt.NDArray:
    """Positions in pixels (m, 2) to 1/Å about the direct beam; the order is py4DSTEM's."""
    if calibration.get_Q_pixel_units() != "A^-1":
        raise ValueError(
            "the Bragg vectors are not calibrated in 1/Å, the size of their pixels is in "
            f"{calibration.get_Q_pixel_units()!r}: set it with "
            "bragg.calibration.set_Q_pixel_size(SIZE) and "
            'bragg.calibration.set_Q_pixel_units("A^-1"), and the origin, too'
        )
    if calibration.get_origin() is None:
        raise ValueError(
            "the Bragg vectors have no origin: measure it with "
            "bragg.calibration.set_origin(bragg.measure_origin()[:2])"
        )
    if not calibration.get_Q_pixel_size() > 0:
        raise ValueError(f"the size of a pixel is {calibration.get_Q_pixel_size()}, not above 0")
    origin = [_each(value, owner) for value in calibration.get_origin()]
    q = q - np.column_stack(np.broadcast_arrays(*origin, q[:, 0])[:2])
    ellipse = calibration.get_ellipse()
    if ellipse is not None:
        a, b, theta = (_each(value, owner) for value in ellipse)
        ratio, sine, cosine = b / a, np.sin(theta - np.pi / 2), np.cos(theta - np.pi / 2)
        mixed = sine * cosine * (1.0 - ratio)
        x, y = q.T
        q = np.column_stack([
            (ratio * sine**2 + cosine**2) * x + mixed * y,
            mixed * x + (sine**2 + ratio * cosine**2) * y,
        ])  # fmt: skip
    return q * calibration.get_Q_pixel_size()


def _each(value: Any, owner: npt.NDArray) -> npt.NDArray:
    """A calibration that may be one number, or one for each position, for each peak."""
    array = np.asarray(value, dtype=float)
    return array.reshape(-1)[owner] if array.ndim else array


def filtered_systems(
    found: CrystalPrediction, scan: tuple[int, ...], width: int, min_difference: float
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
    """Return the map of systems after the paper's filter, and the lead that each has there.

    Positions that could not be read, or where no system leads by enough, are -1, with a lead of
    NaN.
    """
    from scipy.ndimage import median_filter

    stack = np.zeros((found.probabilities.shape[1], len(found)), dtype=np.float32)
    rows = np.flatnonzero(found.valid)
    stack[found.system[rows], rows] = found.difference[rows]
    stack = stack.reshape(-1, *scan)
    if width > 1:
        # Beyond the border as before it, where the paper has zeros: no scan loses its rim.
        stack = median_filter(stack, size=(1, width, width))
    best, lead = stack.argmax(0).astype(np.int16), stack.max(0)
    # Zero everywhere is nothing, whatever the floor.
    kept = (lead >= min_difference) & (lead > 0) & found.valid.reshape(scan)
    lost = int(found.valid.sum() - kept.sum())
    if lost:
        _log.info("%d of %d positions that were read have no clear system", lost, len(rows))
    return np.where(kept, best, np.int16(-1)), np.where(kept, lead, np.float32(np.nan))


def _by_region(
    predictor: CrystalSystemPredictor, lists: BraggLists, regions: Any, scan: tuple[int, ...]
) -> CrystalPrediction:
    """Each position has what all those of its region say together."""
    from ..symmetry.particles import dark_field, find_particles
    from ..symmetry.prediction import CrystalPrediction

    if isinstance(regions, str) and regions == "particles":
        regions = find_particles(dark_field(lists, scan))
    labels = np.asarray(regions)
    if isinstance(regions, str):
        raise ValueError(f'regions must be a map of numbers or "particles", not {regions!r}')
    if labels.shape != scan:
        raise ValueError(f"regions have shape {labels.shape}, but the scan {scan}")
    if labels.dtype != bool and not np.issubdtype(labels.dtype, np.integer):
        raise ValueError("regions must be numbers, 0 for none, or a mask, not " + str(labels.dtype))
    if labels.dtype != bool and labels.min() < 0:
        raise ValueError("regions are numbered from 1, 0 being none: there is a negative one")
    if not labels.any():
        _log.warning("there is no region: nothing stands out, or all numbers are 0")
    # Numbers with gaps are fine.
    _, bag = np.unique(np.append(0, labels.astype(np.int64).reshape(-1)), return_inverse=True)
    bag = bag[1:] - 1
    of_region = predictor.aggregate(lists, bag)
    found = CrystalPrediction.nothing(len(lists))
    inside = np.flatnonzero(bag >= 0)
    found.put(inside, of_region.take(bag[inside]))
    return found


def _parameters(predictor: CrystalSystemPredictor, options: _Options) -> dict[str, Any]:
    from .. import __version__
    from ..weights import default_name

    by_region = options.regions is not None
    return {
        "version": __version__, "model": str(options.model or default_name("symmetry")),
        "sha256": predictor.loaded.metadata.get("sha256"), "min_peaks": options.min_peaks,
        "median_filter": 1 if by_region else options.median_filter,
        "min_difference": options.min_difference, "by_region": by_region,
    }  # fmt: skip


def _maps(
    system: npt.NDArray, lead: npt.NDArray, found: CrystalPrediction, scan: tuple[int, ...],
    system_only: bool,
) -> dict[str, tuple[npt.NDArray, list[str] | None]]:  # fmt: skip
    """Arrays by name, and the labels of their slices."""
    from ..symmetry.crystal_classes import SYSTEMS

    sureness = np.stack([lead.reshape(-1), found.confidence, found.difference, found.mixed])
    stacks = {
        _SURENESS: (sureness, ["lead", "confidence", "difference", "mixed"]),
        _PROBABILITY: (found.probabilities.T, list(SYSTEMS)),
    }
    if not system_only:
        group = np.stack([found.space_group, found.space_group_confidence])
        lattice = np.concatenate([found.lattice.T, found.lattice_spread.T])
        axes = ["a", "b", "c"]
        stacks[_GROUP] = (group.astype(np.float32), ["number", "confidence"])
        stacks[_LATTICE] = (lattice, [*axes, *(f"{axis}_spread" for axis in axes)])
    shaped = {
        name: (values.reshape(-1, *scan), labels) for name, (values, labels) in stacks.items()
    }
    return {_SYSTEM: (system, None), **shaped}


def _real_slice(
    name: str, values: npt.NDArray, labels: list[str] | None, parameters: dict[str, Any]
) -> RealSlice:
    import py4DSTEM
    from emdfile import Metadata

    from ..symmetry.crystal_classes import SYSTEMS

    made = py4DSTEM.RealSlice(values, name=name, slicelabels=labels)
    # As one JSON text: an EMD file cannot hold nested values.
    made.metadata = Metadata(name="aiml", data={"parameters": json.dumps(parameters)})
    if name == _SYSTEM:
        made.metadata = Metadata(name="legend", data={"systems": list(SYSTEMS)})
    return made
