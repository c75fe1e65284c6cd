"""Bragg disks: from diffraction patterns to peak positions and |V_g| intensities."""

from ..lazy import lazy_names

_MODULES = {
    "peaks": ("find_peaks", "peak_spread"),
    "plot": ("plot_counts", "plot_peaks"),
    "predict": ("BraggDiskFinder",),
    "probe": ("VacuumProbe", "estimate_probe", "prepare_probe", "sample_patterns"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOMES)


__getattr__, __dir__ = lazy_names(__name__, _HOMES)
