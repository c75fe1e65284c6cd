"""Makes the stand-in network importable for the tests of this folder, which lies beside those of the disks."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "disks"))
