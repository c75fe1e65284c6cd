"""hyperspy: files and signals to arrays. `BraggDiskFinder` itself is what `Signal.map` takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import os

    import h5py
    from hyperspy.api import signals

    from ..disks.predict import BraggDiskFinder

__all__ = ["Patterns", "find_peaks", "load_patterns", "load_probe", "signal_probe"]

_PY4DSTEM_SUFFIXES = (".h5", ".hdf5", ".emd")
# Images of a vacuum scan that serve for a probe; more would not make it better.
_PROBE_IMAGES = 64


class Patterns(NamedTuple):
    """Diffraction patterns as they lie in a file.

    Attributes
    ----------
    array : array-like, (..., H, W)
        Patterns, the navigation axes in front (row first); an HDF5 data set, whose file stays
        open as long as it is there, or a dask array where the file allows.
    pixel_size : float
        Of the detector, in `units`; 1.0 where unknown.
    units : str
        As the file says them; "pixels" where unknown.
    """

    array: Any
    pixel_size: float
    units: str


def load_patterns(path: str | os.PathLike) -> Patterns:
    """Read diffraction patterns from any file that hyperspy or py4DSTEM reads.

    Parameters
    ----------
    path : str or path
        ``.npy``; ``.h5``, ``.hdf5``, ``.emd`` written by py4DSTEM (its first DataCube); or a format
        of rosettasciio: ``.blo``, ``.dm3``, ``.dm4``, ``.mib``, ``.hspy``, ``.zspy``, ...

    Returns
    -------
    Patterns

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no patterns.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np, hyperspy.api as hs
    >>> from py4dstem_ml.toolkits.hyperspy import load_patterns
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "scan.hspy")
    ...     hs.signals.Signal2D(np.zeros((2, 3, 8, 8))).save(path)
    ...     load_patterns(path).array.shape
    (2, 3, 8, 8)
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".npy":
        return Patterns(np.load(path, mmap_mode="r", allow_pickle=False), 1.0, "pixels")
    if path.suffix.lower() in _PY4DSTEM_SUFFIXES:
        found = _load_py4dstem(path)
        if found is not None:
            return found
    return _load_hyperspy(path)


def _load_py4dstem(path: Path) -> Patterns | None:
    """The first DataCube of a py4DSTEM file; None if py4DSTEM did not write the file."""
    import h5py

    file = h5py.File(path)
    if not any("emd_group_type" in group.attrs for group in file.values()):
        return None
    cube = _first(file, "DataCube")
    if cube is None:
        raise ValueError(f"{path} holds no data cube")
    calibration = _first(file[cube.name.split("/")[1]], "Calibration") or {}
    size, units = (calibration.get(f"Q_pixel_{what}") for what in ("size", "units"))
    return Patterns(
        cube["data"],
        1.0 if size is None else float(size[()]),
        "pixels" if units is None else units.asstr()[()],
    )


def _first(group: h5py.Group, python_class: str) -> h5py.Group | None:
    """The first group in which py4DSTEM has stored an object of a class."""
    name = group.visititems(
        lambda name, item: name if item.attrs.get("python_class") == python_class else None
    )
    return None if name is None else group[name]


def load_probe(path: str | os.PathLike) -> np.ndarray:
    """Read a vacuum probe: a py4DSTEM Probe, an image, or a scan in vacuum.

    Parameters
    ----------
    path : str or path
        A file of py4DSTEM that holds a Probe, or any that `load_patterns` reads.

    Returns
    -------
    numpy.ndarray, (N, H, W)
        The Probe's image, or up to 64 images of the scan, which `BraggDiskFinder` aligns.

    Raises
    ------
    FileNotFoundError, ValueError
        As for `load_patterns`.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np, py4DSTEM
    >>> from py4dstem_ml.toolkits.hyperspy import load_probe
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "probe.h5")
    ...     py4DSTEM.save(path, py4DSTEM.Probe(np.eye(8)))
    ...     load_probe(path).shape
    (1, 8, 8)
    """
    import h5py

    from ..disks.probe import sample_patterns

    path = Path(path)
    if path.suffix.lower() in _PY4DSTEM_SUFFIXES and path.exists():
        with h5py.File(path) as file:
            probe = _first(file, "Probe")
            if probe is not None:
                return probe["data"][:1]  # a kernel may follow
    return sample_patterns(load_patterns(path).array, _PROBE_IMAGES)


def _load_hyperspy(path: Path) -> Patterns:
    import hyperspy.api as hs

    try:
        loaded = hs.load(str(path), lazy=True)
    except Exception as error:  # whatever a reader trips over in a file that is not its own
        raise ValueError(f"hyperspy cannot read {path} as patterns: {error}") from error
    images = [
        signal
        for signal in (loaded if isinstance(loaded, list) else [loaded])
        if signal.axes_manager.signal_dimension == 2 and signal.data.dtype.kind in "buif"
    ]
    if not images:
        raise ValueError(f"{path} holds no images that could be diffraction patterns")
    largest = max(images, key=lambda signal: signal.data.size)
    column = largest.axes_manager.signal_axes[0]
    units = str(column.units) if column.units else "pixels"  # hyperspy: a trait where unset
    if units == "<undefined>":
        units = "pixels"
    return Patterns(largest.data, float(getattr(column, "scale", 1.0)), units)


def signal_probe(signal: signals.Signal2D, probe: Any = None) -> np.ndarray:
    """The vacuum probe for a signal: an array, a signal or a py4DSTEM Probe, or an estimate.

    Parameters
    ----------
    signal : hyperspy.signals.Signal2D
        Whose patterns serve for the estimate; eager or lazy.
    probe : array_like, Signal2D or py4DSTEM.Probe, optional

    Returns
    -------
    numpy.ndarray, (H, W) or (N, H, W)

    Raises
    ------
    ValueError
        If it cannot be estimated.
    """
    if probe is None:
        from ..disks.probe import estimate_probe, sample_patterns

        return estimate_probe(sample_patterns(signal.data))
    if hasattr(probe, "axes_manager"):
        probe = probe.data
    return np.asarray(getattr(probe, "probe", probe))


def find_peaks(
    signal: signals.Signal2D, finder: BraggDiskFinder, **map_options: Any
) -> signals.BaseSignal:
    """Map a finder over a signal, with the options that ragged results need.

    Parameters
    ----------
    signal : hyperspy.signals.Signal2D
        Eager or lazy.
    finder : BraggDiskFinder
    **map_options
        Further options of ``Signal2D.map``, such as ``num_workers`` or ``show_progressbar``.

    Returns
    -------
    hyperspy.signals.BaseSignal
        Ragged, lazy where `signal` is: an array ``[row, col, intensity]`` in pixels for each
        position.

    Examples
    --------
    >>> import numpy as np, hyperspy.api as hs
    >>> from py4dstem_ml import BraggDiskFinder
    >>> from py4dstem_ml.toolkits.hyperspy import find_peaks
    >>> row, col = np.ogrid[:128, :128]
    >>> finder = BraggDiskFinder(np.hypot(row - 64, col - 64) < 5)
    >>> peaks = find_peaks(hs.signals.Signal2D(np.zeros((2, 3, 128, 128))), finder)
    >>> peaks.data.shape, peaks.data[0, 0].shape
    ((2, 3), (0, 3))
    """
    return signal.map(
        finder,
        ragged=True,
        inplace=False,
        output_signal_size=(),
        output_dtype=object,
        **map_options,
    )
