"""Bragg disks: from diffraction patterns to peak positions and |V_g| intensities."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "peaks": ["find_peaks", "peak_spread"],
        "plot": ["plot_counts", "plot_peaks"],
        "predict": ["BraggDiskFinder"],
        "probe": ["VacuumProbe", "estimate_probe", "prepare_probe", "sample_patterns"],
    },
)
