"""Bragg disks: from diffraction patterns to peak positions and |V_g| intensities."""

from importlib import import_module
from typing import Any

_MODULES = {
    "peaks": ("find_peaks", "peak_spread"),
    "plot": ("plot_counts", "plot_peaks"),
    "predict": ("BraggDiskFinder",),
    "probe": ("VacuumProbe", "estimate_probe", "prepare_probe", "sample_patterns"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
