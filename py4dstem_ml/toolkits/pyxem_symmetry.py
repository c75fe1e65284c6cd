"""pyxem: crystals of diffraction vectors, as a crystal map of orix; importing this registers it."""

from __future__ import annotations

from typing import Any

import numpy as np
from orix.crystal_map import CrystalMap, PhaseList
from orix.quaternion import Rotation
from pyxem.signals import DiffractionVectors

from ..registration import register_or_warn
from ..symmetry.crystal_classes import SYSTEMS
from ..symmetry.lists import BraggLists
from ..symmetry.predict import CrystalSystemPredictor

__all__ = ["predict_crystal_system"]

#: The point group of the lattice of each system.
_HOLOHEDRIES = ("m-3m", "6/mmm", "-3m", "4/mmm", "mmm", "2/m", "-1")
_PER_ANGSTROM = {
    "1/å": 1.0, "å^-1": 1.0, "1/a": 1.0, "a^-1": 1.0, "$a^{-1}$": 1.0, "å$^{-1}$": 1.0,
    "$\\aa^{-1}$": 1.0, "1/nm": 0.1, "nm^-1": 0.1, "nm$^{-1}$": 0.1, "$nm^{-1}$": 0.1,
}  # fmt: skip


def predict_crystal_system(
    vectors: DiffractionVectors,
    *,
    model: Any = None,
    min_peaks: int = 5,
    device: Any = None,
    progress: bool | None = None,
) -> CrystalMap:
    """Map the crystal system, space group and lattice of each position of a scan.

    Parameters
    ----------
    vectors : pyxem.signals.DiffractionVectors
        With columns ky, kx, intensity, centred, in units of 1/Å or 1/nm; a scan of one or two
        dimensions, eager or lazy.
    model, min_peaks, device
        See `CrystalSystemPredictor`, which can also be mapped by itself:
        ``vectors.map(CrystalSystemPredictor(), inplace=False, ragged=False,
        output_signal_size=(19,), output_dtype="float32")``, where the vectors are in 1/Å.
    progress : bool, optional
        None: a bar in a terminal or a notebook.

    Returns
    -------
    orix.crystal_map.CrystalMap
        Its phases are the crystal systems, those of the positions without one -1 ("not_indexed").
        Properties: ``confidence``, ``difference``, ``space_group``, ``space_group_confidence``,
        ``a``, ``b``, ``c`` (Å), ``a_spread``, ``b_spread``, ``c_spread``, ``mixed``. Rotations
        are the identity: orientations are not predicted.

    Raises
    ------
    ValueError
        If the vectors have no intensity, or their units are not known.

    Examples
    --------
    >>> crystal_map = vectors.predict_crystal_system()  # doctest: +SKIP
    >>> crystal_map["hexagonal"].prop["a"]  # doctest: +SKIP
    """
    predictor = CrystalSystemPredictor(model, device=device, min_peaks=min_peaks)
    data = _positions(vectors)
    chosen, scale = _columns(vectors), _scale(vectors)
    lists = BraggLists.pack(
        [_chosen(one, chosen) * [scale, scale, 1.0] for one in data.reshape(-1)]
    )
    found = predictor.predict(lists, progress=progress)
    rows, columns = data.shape if data.ndim == 2 else (1, len(data))
    axes = list(vectors.axes_manager.navigation_axes)
    steps = [axis.scale for axis in axes] + [1.0]
    y, x = np.divmod(np.arange(rows * columns), columns)
    names = ("confidence", "difference", "space_group", "space_group_confidence", "mixed")
    prop = {name: getattr(found, name) for name in names}
    for i, axis in enumerate("abc"):
        prop[axis], prop[f"{axis}_spread"] = found.lattice[:, i], found.lattice_spread[:, i]
    phases = PhaseList(
        names=list(SYSTEMS), point_groups=list(_HOLOHEDRIES), ids=list(range(len(SYSTEMS)))
    )
    return CrystalMap(
        Rotation.identity((rows * columns,)), phase_id=found.system.astype(int), x=x * steps[0],
        y=y * steps[1] if rows > 1 else None, phase_list=phases, prop=prop,
        scan_unit=str(axes[0].units) if axes and isinstance(axes[0].units, str) else "px",
    )  # fmt: skip


def _positions(vectors: DiffractionVectors) -> np.ndarray:
    """Lists by scan position; those of a single pattern are a scan of one."""
    if vectors.data.dtype != object:
        single = np.empty(1, dtype=object)
        single[0] = np.asarray(vectors.data)
        return single
    data = np.asarray(vectors.data)
    if data.ndim not in (1, 2):
        raise ValueError(f"the scan must have one or two dimensions, not {data.ndim}")
    return data


def _columns(vectors: DiffractionVectors) -> list[int]:
    """Where ky, kx and intensity stand."""
    names = list(vectors.metadata.VectorMetadata.column_names)
    wanted = ["ky", "kx", "intensity"]
    if not set(wanted) <= set(names):
        raise ValueError(
            f"the vectors have the columns {names}, but ky, kx and intensity are needed: find them "
            "with get_intensity=True, or with signal.find_bragg_disks_aiml(probe)"
        )
    return [names.index(name) for name in wanted]


def _chosen(one: Any, columns: list[int]) -> np.ndarray:
    peaks = np.asarray(one, dtype=float)
    return peaks[:, columns] if peaks.size else np.empty((0, 3))


def _scale(vectors: DiffractionVectors) -> float:
    """What a unit of the vectors is in 1/Å."""
    units = vectors.metadata.VectorMetadata.units
    unit = str(units[0] if isinstance(units, list | tuple | np.ndarray) else units).lower()
    if unit not in _PER_ANGSTROM:
        raise ValueError(
            f"the vectors are in {unit!r}, not in 1/Å or 1/nm: calibrate the signal "
            '(signal.calibration(scale=0.02, units="1/Å", center=None)) before finding them'
        )
    return _PER_ANGSTROM[unit]


register_or_warn()
