"""pyxem: diffraction vectors of a Diffraction2D signal; importing this registers the method."""

from __future__ import annotations

from typing import Any

from pyxem.signals import Diffraction2D, DiffractionVectors

from ..registration import register_or_warn
from .hyperspy import find_peaks, signal_probe

__all__ = ["find_bragg_disks_aiml"]


def find_bragg_disks_aiml(
    signal: Diffraction2D, probe: Any = None, **finder_options: Any
) -> DiffractionVectors:
    """Find the Bragg disks of a pyxem signal with a neural network.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        Eager or lazy, any number of navigation axes; without any it is a scan of one position.
    probe : array_like, Signal2D or py4DSTEM.Probe, optional
        The beam in vacuum, of the patterns' size. None: estimated from the scan.
    **finder_options
        Those of `BraggDiskFinder`, such as ``model`` or ``min_relative_intensity``.

    Returns
    -------
    pyxem.signals.DiffractionVectors
        Ragged, lazy where `signal` is: columns ``[ky, kx, intensity]`` in the units of the signal
        axes ("px" where they have none), counted from their zero; with `mc_samples` also the three
        uncertainties.

    Raises
    ------
    ValueError
        If the probe cannot be used or estimated, or an option is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from pyxem.signals import Diffraction2D
    >>> from py4dstem_ml.toolkits.pyxem import find_bragg_disks_aiml
    >>> row, col = np.ogrid[:128, :128]
    >>> disk = (np.hypot(row - 64, col - 64) < 5).astype("float32")
    >>> vectors = find_bragg_disks_aiml(Diffraction2D(np.zeros((2, 2, 128, 128))), disk)
    >>> vectors.data[0, 0].shape
    (0, 3)
    """
    from ..disks.predict import BraggDiskFinder

    finder = BraggDiskFinder(signal_probe(signal, probe), **finder_options)
    single = signal.axes_manager.navigation_dimension == 0
    peaks = find_peaks(type(signal)(signal.data[None]) if single else signal, finder)
    column, row = signal.axes_manager.signal_axes
    scales, units = [row.scale, column.scale], [_units(row), _units(column)]
    # from_peaks wants the pixel of the axes' zero, row first.
    zero = [-row.offset / row.scale, -column.offset / column.scale]
    names = ["ky", "kx"]
    if finder.mc_samples:
        zero += [0, 0, 0, 0]
        names += ["intensity", "sigma_ky", "sigma_kx", "sigma_intensity"]
        units = [*units, "a.u.", *units, "a.u."]
        scales = [*scales, 1, *scales, 1]
    return DiffractionVectors.from_peaks(
        peaks, center=zero, calibration=scales, column_names=names, units=units
    )


def _units(axis: Any) -> str:
    units = str(axis.units)  # hyperspy: a trait where unset
    return "px" if units in ("", "None", "<undefined>") else units


register_or_warn()
