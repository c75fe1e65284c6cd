from .disks.predict import BraggDiskFinder
from .physics.crystal import Crystal
from .registration import RegistrationError, register, registered_methods, unregister
from .symmetry.predict import CrystalSystemPredictor
from .toolkits.py4dstem import find_bragg_disks_aiml
from .weights import WeightsError, list_pretrained

__version__: str

__all__ = [
    "BraggDiskFinder",
    "Crystal",
    "CrystalSystemPredictor",
    "RegistrationError",
    "WeightsError",
    "__version__",
    "find_bragg_disks_aiml",
    "list_pretrained",
    "register",
    "registered_methods",
    "unregister",
]
