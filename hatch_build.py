"""Build hook: the wheel carries the weights that the registry marks as bundled."""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class BundledWeights(BuildHookInterface):
    """Places `weights/<file>` of every bundled registry entry at `py4dstem_ml/_weights/<file>`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # a checkout finds its own weights/ folder
            return
        root = Path(self.root)
        registry = tomllib.loads((root / "py4dstem_ml" / "registry.toml").read_text("utf-8"))
        for name, entry in registry["weights"].items():
            if not entry.get("bundled", False):
                continue
            source = root / "weights" / entry["file"]
            if not source.is_file():
                raise FileNotFoundError(f"{name} is marked as bundled, but {source} is missing.")
            build_data["force_include"][str(source)] = f"py4dstem_ml/_weights/{entry['file']}"
