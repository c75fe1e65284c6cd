"""Crystal system, space group and lattice from Bragg lists."""

from ..lazy import lazy_names

_HOMES = {
    "COLUMNS": "predict",
    "BraggLists": "lists",
    "CrystalPrediction": "prediction",
    "CrystalSystemPredictor": "predict",
    "RadialBasis": "radial_basis",
    "SYSTEMS": "crystal_classes",
    "dark_field": "particles",
    "find_particles": "particles",
    "plot_basis": "plot",
    "plot_lattice": "plot",
    "plot_reliability": "plot",
    "plot_shares": "plot",
    "plot_systems": "plot",
}
__all__ = sorted(_HOMES)

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
