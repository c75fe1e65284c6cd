"""Makes the stand-in network, which lies beside the tests of the disks, importable here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "disks"))
