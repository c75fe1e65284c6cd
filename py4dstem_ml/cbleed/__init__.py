"""CBLEED of Si(001)-(2x1): beam energy and dimer displacements from single images."""

from ..lazy import lazy_names

_MODULES = {
    "dataset": ("TARGETS", "CbleedData"),
    "images": ("Screen", "normalised", "resampled"),
    "library": ("LibraryConfig", "Physics", "simulate_disks"),
    "live": ("Frame", "follow"),
    "plot": ("plot_latent", "plot_latent_sizes", "plot_predictions", "plot_reconstructions"),
    "predict": ("COLUMNS", "CBLEEDAutoencoder", "CBLEEDRegressor"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOMES)

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
