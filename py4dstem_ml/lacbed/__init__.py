"""LACBED: bright fields of projected potentials, and potentials of bright fields."""

from ..lazy import lazy_names

_HOMES = {
    "Explanation": "explain",
    "LacbedGenerator": "predict",
    "PotentialPredictor": "predict",
    "Refinement": "refine",
    "plot_by_group": "plot",
    "plot_comparison": "plot",
    "refine_potential": "refine",
}
__all__ = sorted(_HOMES)

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
