"""py4DSTEM: Bragg vectors of a data cube, and crystals to and from the physics floor."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import os

    import torch
    from py4DSTEM import BraggVectors, DataCube
    from py4DSTEM.process.diffraction import Crystal as Py4DSTEMCrystal

    from ..disks.predict import BraggDiskFinder
    from ..physics.crystal import Crystal

__all__ = ["crystal_from_py4dstem", "crystal_to_py4dstem", "find_bragg_disks_aiml", "probe_array"]

_log = logging.getLogger(__name__)

_FIELDS = ("qx", "qy", "intensity")
_MC_FIELDS = (*_FIELDS, "sigma_qx", "sigma_qy", "sigma_intensity")


def find_bragg_disks_aiml(
    datacube: DataCube,
    probe: Any = None,
    data: Any = None,
    *,
    model: str | os.PathLike | torch.nn.Module | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 64,
    mc_samples: int = 0,
    min_relative_intensity: float | None = None,
    min_spacing: float | None = None,
    edge_boundary: float | None = None,
    max_num_peaks: int | None = None,
    seed: int = 0,
    name: str = "braggvectors_aiml",
    progress: bool | None = None,
    returncalc: bool = True,
) -> Any:
    """Find the Bragg disks of a data cube with a neural network.

    The scan is read in blocks, never whole: the cube's data may be an array, a memory map, an
    HDF5 data set or a dask array. An interrupted run leaves what it found in the cube's tree.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube or array_like, (R_Nx, R_Ny, Q_Nx, Q_Ny)
        Calibrated or not; peaks are in detector pixels as py4DSTEM stores them. An array is taken
        as an uncalibrated data cube.
    probe : py4DSTEM.Probe or array_like, optional
        The beam in vacuum, (Q_Nx, Q_Ny) or a stack of such. None: the Probe in the cube's tree,
        or, without one, estimated from the scan.
    data : optional
        None: the whole scan. ``(rx, ry)``: one position if numbers, several if arrays. A list of
        ``(rx, ry)``, or a boolean mask of the scan's shape: these positions.
    model, device, batch_size, mc_samples, seed
        See `BraggDiskFinder`.
    min_relative_intensity, min_spacing, edge_boundary, max_num_peaks
        See `BraggDiskFinder`, whose defaults hold where None: they scale with the probe.
    name : str
        Of the BraggVectors in the cube's tree. An earlier one of that name is replaced, but not
        by what an interrupted run found: that is then named ``<name>_partial``.
    progress : bool, optional
        None: a bar in a terminal or a notebook.
    returncalc : bool
        Whether to return the result.

    Returns
    -------
    py4DSTEM.BraggVectors
        For the whole scan; also in the cube's tree. Fields ``qx, qy, intensity``, with
        `mc_samples` also ``sigma_qx, sigma_qy, sigma_intensity``. Model and parameters stand in
        ``.metadata["aiml"]["parameters"]``, a JSON text; there ``complete`` is false after an
        interruption, and ``positions_done`` counts the positions searched.
    py4DSTEM.data.QPoints, or a list of them
        Where `data` names one position, or several. With `mc_samples` the uncertainties are
        further fields, as above.

    Raises
    ------
    TypeError
        If what is given is no data cube and no 4-D array.
    ValueError
        If probe, data or a parameter do not fit; the message says what to do.

    Examples
    --------
    >>> import numpy as np, py4DSTEM, py4dstem_ml
    >>> row, col = np.ogrid[:128, :128]
    >>> disk = (np.hypot(row - 64, col - 64) < 5).astype("float32")
    >>> cube = py4DSTEM.DataCube(np.zeros((2, 2, 128, 128), "float32"))
    >>> peaks = cube.find_bragg_disks_aiml(disk, data=(0, 1))
    >>> len(peaks.data)
    0

    Notes
    -----
    Network after Munshi et al., npj Comput. Mater. 8 (2022) 254.
    """
    from ..disks.predict import BraggDiskFinder

    datacube = _as_datacube(datacube)
    if getattr(datacube.data, "ndim", 0) != 4:
        raise ValueError(
            f"the data cube must hold 4-D data, not {getattr(datacube.data, 'ndim', 0)}-D; give "
            f"a single pattern as DataCube(pattern[None, None])"
        )
    positions, single = _positions(data, datacube.data.shape[:2])
    limits = {
        "min_relative_intensity": min_relative_intensity,
        "min_spacing": min_spacing,
        "edge_boundary": edge_boundary,
        "max_num_peaks": max_num_peaks,
    }
    probe = _probe_in_tree(datacube) if probe is None else probe
    finder = BraggDiskFinder(
        probe_array(datacube, probe),
        model=model,
        device=device,
        batch_size=batch_size,
        mc_samples=mc_samples,
        seed=seed,
        **{key: value for key, value in limits.items() if value is not None},
    )
    parameters = _parameters(finder, estimated=probe is None)
    found: dict[tuple[int, int], np.ndarray] = {}
    try:
        _find(finder, datacube.data, positions, progress, found)
    except BaseException:
        _keep_partial(found, datacube, name, parameters)
        raise
    if data is None:
        result: Any = _to_braggvectors(found, datacube, name, parameters)
        _attach(datacube, result)
    else:
        result = [_to_qpoints(found[position]) for position in map(tuple, positions.tolist())]
        result = result[0] if single else result
    return result if returncalc else None


def _as_datacube(data: Any) -> DataCube:
    import py4DSTEM

    if isinstance(data, py4DSTEM.DataCube):
        return data
    if isinstance(getattr(data, "dtype", None), np.dtype) and len(data.shape) == 4:
        return py4DSTEM.DataCube(data)
    raise TypeError(
        f"a py4DSTEM DataCube or a 4-D array is needed, not {type(data).__name__}; give a single "
        f"pattern as pattern[None, None], a hyperspy signal as its .data, or map the signal with "
        f"py4dstem_ml.BraggDiskFinder(probe)"
    )


def _probe_in_tree(datacube: DataCube) -> Any:
    """The Probe that is attached to a data cube, None where there is none.

    Raises
    ------
    ValueError
        If there are several.
    """
    import py4DSTEM

    names = [
        name
        for name in datacube._branch.keys()  # noqa: SIM118
        if isinstance(datacube.tree(name), py4DSTEM.Probe)
    ]
    if len(names) > 1:
        raise ValueError(f"the data cube holds several probes, {names}: say which by probe=")
    if not names:
        return None
    _log.info("no probe given: taken is %r of the data cube", names[0])
    return datacube.tree(names[0])


def probe_array(datacube: DataCube, probe: Any = None) -> np.ndarray:
    """The vacuum probe as an array: that of a py4DSTEM Probe, an array as it is, or an estimate.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        Whose patterns serve for the estimate.
    probe : py4DSTEM.Probe or array_like, optional

    Returns
    -------
    numpy.ndarray, (Q_Nx, Q_Ny) or a stack of such

    Raises
    ------
    ValueError
        If it cannot be estimated.
    """
    if probe is None:
        from ..disks.probe import estimate_probe, prepare_probe, sample_patterns

        estimate = estimate_probe(sample_patterns(datacube.data))
        _log.info(
            "no probe given: estimated from the scan, radius %.1f px",
            prepare_probe(estimate).radius,
        )
        return estimate
    return np.asarray(getattr(probe, "probe", probe))


def _positions(data: Any, scan: tuple[int, int]) -> tuple[np.ndarray | None, bool]:
    """Positions (n, 2) that `data` asks for, None for all; and whether it asks for just one."""
    if data is None:
        return None, False
    if _is_mask(data):
        mask = np.asarray(data)
        if mask.shape != tuple(scan):
            raise ValueError(f"the mask has shape {mask.shape} but the scan {tuple(scan)}")
        return np.argwhere(mask), False
    try:
        if isinstance(data, tuple):
            rx, ry = data
            found = np.stack(np.broadcast_arrays(rx, ry), axis=-1)
        else:
            found = np.asarray(data)
        whole = found.astype(int).reshape(-1, 2)
        if found.shape[-1:] != (2,) and found.size or (whole != found.reshape(-1, 2)).any():
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            "data must be None, a position (rx, ry), a tuple of two arrays rx and ry, a list of "
            "positions, or a boolean mask of the scan's shape"
        ) from None
    if ((whole < 0) | (whole >= scan)).any():
        raise ValueError(f"data asks for a position outside of the scan of {tuple(scan)} positions")
    return whole, found.ndim == 1 and isinstance(data, tuple)


def _is_mask(data: Any) -> bool:
    try:
        return np.asarray(data).dtype == bool
    except ValueError:  # ragged, as (1, [2, 3]) is
        return False


def _find(
    finder: BraggDiskFinder,
    data: Any,
    positions: np.ndarray | None,
    progress: bool | None,
    found: dict[tuple[int, int], np.ndarray],
) -> None:
    """Put the peaks of the asked positions, of all if None, into `found` as they are found."""
    from ..compute import iter_blocks
    from ..progress import progress_bar

    scan = data.shape[:2]
    total = scan[0] * scan[1] if positions is None else len(positions)
    with progress_bar(total=total, description="Bragg disks", progress=progress) as bar:
        for indices, block in iter_blocks(data, finder.patterns_at_once, positions):
            where = np.column_stack(np.unravel_index(indices, scan)).tolist()
            found.update(zip(map(tuple, where), finder.find(block), strict=True))
            bar.update(len(indices))


def _keep_partial(
    found: dict[tuple[int, int], np.ndarray],
    datacube: DataCube,
    name: str,
    parameters: dict[str, Any],
) -> None:
    """Save what an interrupted run found from being lost, in the cube's tree."""
    if not found:
        return
    if name in datacube._branch.keys():  # noqa: SIM118
        name += "_partial"
    _attach(datacube, _to_braggvectors(found, datacube, name, parameters, complete=False))
    _log.warning(
        "interrupted: the peaks of %d positions, up to scan position %s, are in the data cube's "
        "tree as %r",
        len(found), list(found)[-1], name,
    )  # fmt: skip


def _structured(peaks: np.ndarray) -> np.ndarray:
    """Peaks [row, col, intensity, ...] as py4DSTEM's records: qx is the row, qy the column."""
    names = _MC_FIELDS if peaks.shape[1] == len(_MC_FIELDS) else _FIELDS
    records = np.zeros(len(peaks), [(field, float) for field in names])
    for field, column in zip(names, peaks.T, strict=True):
        records[field] = column
    return records


def _to_qpoints(peaks: np.ndarray) -> Any:
    from py4DSTEM.data import QPoints

    records = _structured(peaks)
    points = QPoints(np.zeros(0, records.dtype[list(_FIELDS)]))
    points.data = records  # QPoints' own constructor allows for no fields beyond three
    return points


def _to_braggvectors(
    found: dict[tuple[int, int], np.ndarray],
    datacube: DataCube,
    name: str,
    parameters: dict[str, Any],
    complete: bool = True,
) -> BraggVectors:
    import py4DSTEM
    from emdfile import Metadata, PointListArray

    scan = tuple(int(n) for n in datacube.data.shape[:2])
    vectors = py4DSTEM.BraggVectors(scan, tuple(datacube.data.shape[2:]), name=name)
    dtype = _structured(next(iter(found.values()))).dtype
    raw = PointListArray(dtype=dtype, shape=scan, name="_v_uncal")
    for position, peaks in found.items():
        raw[position].add(_structured(peaks))
    vectors.set_raw_vectors(raw)
    parameters = {**parameters, "complete": complete, "positions_done": len(found)}
    # As one JSON text: an EMD file cannot hold nested values.
    vectors.metadata = Metadata(name="aiml", data={"parameters": json.dumps(parameters)})
    return vectors


def _parameters(finder: BraggDiskFinder, *, estimated: bool) -> dict[str, Any]:
    """What makes the vectors; the network is loaded for it, and refused before any work."""
    from .. import __version__

    return {
        "method": "find_bragg_disks_aiml",
        "version": __version__,
        **_model_identity(finder),
        "probe_radius_px": round(finder.probe.radius, 3),
        "probe_estimated": estimated,
        "min_relative_intensity": finder.min_relative_intensity,
        "min_spacing": finder.min_spacing,
        "edge_boundary": finder.edge_boundary,
        "max_num_peaks": finder.max_num_peaks,
        "mc_samples": finder.mc_samples,
        "seed": finder.seed,
    }


def _model_identity(finder: BraggDiskFinder) -> dict[str, str | None]:
    import torch

    from ..weights import default_name

    network = finder.network
    # A network in memory may have learned since it was loaded.
    if isinstance(finder.model, torch.nn.Module):
        return {"model": type(finder.model).__name__, "sha256": None}
    model = finder.model or default_name("disks")
    return {"model": str(model), "sha256": network.metadata["sha256"]}


def _attach(datacube: DataCube, vectors: BraggVectors) -> None:
    """Put vectors into the cube's tree, under the cube's calibration."""
    name = vectors.name
    if name in datacube._branch.keys():  # noqa: SIM118
        # The tree forgets what it replaces, the calibration would go on updating it.
        datacube.calibration.unregister_target(datacube._branch[name])
    datacube.attach(vectors)
    # Attaching swaps the calibration but leaves the state that was set for the old one.
    vectors.setcal()


def crystal_to_py4dstem(crystal: Crystal) -> Py4DSTEMCrystal:
    """Crystal of the physics floor to py4DSTEM's. Thermal motion has no place there and is lost.

    Parameters
    ----------
    crystal : py4dstem_ml.Crystal

    Returns
    -------
    py4DSTEM.process.diffraction.Crystal

    Examples
    --------
    >>> from py4dstem_ml import Crystal
    >>> from py4dstem_ml.toolkits.py4dstem import crystal_to_py4dstem
    >>> polonium = Crystal.cubic(3.36, [84], [[0, 0, 0]])
    >>> float(crystal_to_py4dstem(polonium).cell[0])
    3.36
    """
    from py4DSTEM.process.diffraction import Crystal as Py4DSTEMCrystal

    def array(values: Any) -> np.ndarray:
        return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)

    return Py4DSTEMCrystal(
        array(crystal.positions),
        array(crystal.numbers),
        array(crystal.lattice),
        occupancy=array(crystal.occupancies),
    )


def crystal_from_py4dstem(crystal: Py4DSTEMCrystal, b_iso: Any = None) -> Crystal:
    """py4DSTEM's crystal to that of the physics floor.

    Parameters
    ----------
    crystal : py4DSTEM.process.diffraction.Crystal
    b_iso : float or array_like, (n,), optional
        Isotropic thermal motion B = 8 pi^2 <u^2> in Å^2, for all atoms or each, which py4DSTEM's
        crystal does not hold. None: the physics floor's default.

    Returns
    -------
    py4dstem_ml.Crystal

    Examples
    --------
    >>> from py4DSTEM.process.diffraction import Crystal
    >>> from py4dstem_ml.toolkits.py4dstem import crystal_from_py4dstem
    >>> crystal_from_py4dstem(Crystal([[0, 0, 0]], 84, 3.36), b_iso=0.7).b_iso.tolist()
    [0.7]
    """
    from ..physics.crystal import Crystal

    thermal = {} if b_iso is None else {"b_iso": b_iso}
    return Crystal(
        lattice=np.array(crystal.lat_real, dtype=float),
        numbers=np.array(crystal.numbers),
        positions=np.array(crystal.positions, dtype=float),
        occupancies=np.array(crystal.occupancy, dtype=float),
        **thermal,
    )
