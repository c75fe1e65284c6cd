"""What the build hook puts into a wheel; hatchling itself is not needed."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENTRY = '[weights."net.v1"]\nfile = "net.v1.safetensors"\ncard = "net.v1.md"\nbundled = true\n'


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The hook on a checkout with one bundled file, and its module."""
    interface = types.ModuleType("hatchling.builders.hooks.plugin.interface")
    interface.BuildHookInterface = object
    for name in ("hatchling", "hatchling.builders", "hatchling.builders.hooks"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "hatchling.builders.hooks.plugin", types.ModuleType("plugin"))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    (tmp_path / "py4dstem_ml").mkdir()
    (tmp_path / "py4dstem_ml" / "registry.toml").write_text(f'url = ""\n[weights]\n{ENTRY}')
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "net.v1.safetensors").write_bytes(bytes(range(100)))
    (tmp_path / "weights" / "net.v1.md").write_text("# card")
    made = module.BundledWeights()
    made.root = str(tmp_path)
    return made, module


def test_the_wheel_carries_bundled_weights_and_their_cards(hook) -> None:
    build_data = {"force_include": {}}
    hook[0].initialize("standard", build_data)
    assert sorted(build_data["force_include"].values()) == [
        "py4dstem_ml/_weights/net.v1.md", "py4dstem_ml/_weights/net.v1.safetensors",
    ]  # fmt: skip


def test_a_wheel_is_not_too_large(hook, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hook[1].LARGEST_WHEEL_BYTES == 96e6
    monkeypatch.setattr(hook[1], "LARGEST_WHEEL_BYTES", 104)
    with pytest.raises(ValueError, match="a wheel carries"):
        hook[0].initialize("standard", {"force_include": {}})


def test_a_bundled_file_that_is_missing_stops_the_build(hook) -> None:
    (Path(hook[0].root) / "weights" / "net.v1.md").unlink()
    with pytest.raises(FileNotFoundError, match="bundled"):
        hook[0].initialize("standard", {"force_include": {}})


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "py4dstem_ml" / "py.typed").is_file()
