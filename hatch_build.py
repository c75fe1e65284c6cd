"""Build hook: the wheel carries the weights that the registry marks as bundled, and their cards."""

import sys
import zlib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


#: Package indexes take files of 100 MB without asking, and not everyone has a fast line.
LARGEST_WHEEL_BYTES = 96_000_000


class BundledWeights(BuildHookInterface):
    """Places weights and card of every bundled registry entry in `py4dstem_ml/_weights`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # a checkout finds its own weights/ folder
            return
        root = Path(self.root)
        registry = tomllib.loads((root / "py4dstem_ml" / "registry.toml").read_text("utf-8"))
        total = 0
        for name, entry in registry["weights"].items():
            if not entry.get("bundled", False):
                continue
            for file in (entry["file"], entry["card"]):
                source = root / "weights" / file
                if not source.is_file():
                    raise FileNotFoundError(
                        f"{name} is marked as bundled, but {source} is missing."
                    )
                total += len(zlib.compress(source.read_bytes()))
                build_data["force_include"][str(source)] = f"py4dstem_ml/_weights/{file}"
        if total > LARGEST_WHEEL_BYTES:
            raise ValueError(
                f"The bundled weights have {total / 1e6:.0f} MB, of which a wheel carries "
                f"{LARGEST_WHEEL_BYTES / 1e6:.0f} at most: let the larger ones be fetched."
            )
