"""The floors of the house: physics, systems, toolkits; a floor imports only from those below."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "py4dstem_ml"
FILES = sorted(PACKAGE.rglob("*.py"))
TOOLKITS = {"py4DSTEM", "hyperspy", "pyxem", "emdfile", "orix"}
PHYSICS_MAY = {"torch", "numpy", "scipy"}
STRUCTURES_MAY = PHYSICS_MAY | {"ase", "spglib"}
# From crystals to weights on any GPU machine: nothing else need be installed there.
TRAINING = {
    "train", "library", "augment", "network", "layers", "radial_basis", "lists", "invariants",
    "crystal_classes", "dataset", "calibration", "prediction", "peakset", "natural", "scores",
    "bragg_lines", "bright_field", "random_cells", "linenet", "pix2pix", "vae", "images",
}  # fmt: skip
TRAINING_MAY = PHYSICS_MAY | {"h5py"}  # safetensors through our own weights
TRAINING_MAY_OURS = {"physics", "weights", "progress", "compute", "shards", "training", "replay"}
SYSTEMS_MAY = TRAINING_MAY | {"sklearn", "joblib", "matplotlib"}
LAZY_EXTRAS = {"evaluate.py": {"skimage"}, "tune.py": {"optuna"}, "fit.py": {"xgboost"}}
# Imported by `forest` when trees are first walked on a CPU.
COMPILED = {"forest_walk.py": {"numba"}}
PLUMBING_MAY = {"torch", "numpy", "h5py", "safetensors", "pooch", "tqdm", "tomli", "matplotlib"}

# The plumbing knows no floor, but these two are the roof: they call every floor, lazily.
ROOF = {"cli.py", "demo.py"}


def floor_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    if len(parts) == 1:
        return "roof" if parts[0] in ROOF else "plumbing"
    return parts[0] if parts[0] in {"physics", "toolkits"} else "system"


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The modules that a file imports by statement, and whether that happens at its import."""
    tree = ast.parse(path.read_text("utf-8"))
    later = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        or (isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING")
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in later
        elif isinstance(node, ast.ImportFrom):
            for module in absolute(path, node):
                yield module, id(node) not in later


def absolute(path: Path, node: ast.ImportFrom) -> list[str]:
    """The module and, as each may be a module too, every name taken from it."""
    base = node.module or ""
    if node.level:
        folder = path.parent.relative_to(PACKAGE.parent).parts
        parts = folder[: len(folder) - node.level + 1]
        base = ".".join([*parts, node.module] if node.module else parts)
    return [f"{base}.{alias.name}" for alias in node.names]


def outside(path: Path) -> set[str]:
    """The packages that a file imports, the standard library and our own left out."""
    roots = {module.split(".")[0] for module, _ in imports(path)}
    return roots - set(sys.stdlib_module_names) - {"py4dstem_ml"}


def inside(path: Path) -> set[str]:
    """The parts of our own package that a file imports."""
    modules = [module.split(".") for module, _ in imports(path)]
    return {m[1] for m in modules if m[0] == "py4dstem_ml" and len(m) > 1}


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_floor_imports_only_from_floors_below(path: Path) -> None:
    floor = floor_of(path)
    used = inside(path)
    systems = {p.name for p in PACKAGE.iterdir() if p.is_dir()} - {"physics", "toolkits"}
    if floor == "physics":
        assert not used & (systems | {"toolkits"} | {"cli", "demo"})
    elif floor == "system":
        own = path.relative_to(PACKAGE).parts[0]
        assert not used & ((systems - {own}) | {"toolkits", "cli", "demo"})
    elif floor == "toolkits":
        assert not used & {"cli", "demo"}
    elif floor == "plumbing":
        assert not used & (systems | {"physics", "toolkits", "cli", "demo"})


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_floor_knows_only_its_own_libraries(path: Path) -> None:
    floor = floor_of(path)
    if floor == "physics":
        allowed = STRUCTURES_MAY if path.name == "structures.py" else PHYSICS_MAY
        assert outside(path) <= allowed
    elif floor == "system":
        assert outside(path) <= SYSTEMS_MAY | LAZY_EXTRAS.get(path.name, set()) | COMPILED.get(
            path.name, set()
        )
    elif floor == "plumbing":
        assert outside(path) <= PLUMBING_MAY
    if floor != "toolkits" and path.name != "demo.py":
        assert not outside(path) & TOOLKITS


TRAINING_FILES = [path for path in FILES if floor_of(path) == "system" and path.stem in TRAINING]


@pytest.mark.parametrize("path", TRAINING_FILES, ids=name)
def test_training_needs_little(path: Path) -> None:
    system = path.parent.name
    assert outside(path) <= TRAINING_MAY
    for module in (name for name, _ in imports(path) if name.startswith("py4dstem_ml.")):
        _, part, *inner = module.split(".")
        assert part in TRAINING_MAY_OURS or (part == system and inner[0] in TRAINING), module


def test_every_name_of_an_import_is_seen() -> None:
    path = PACKAGE / "disks" / "no_such_file.py"
    for line, expected in {
        "from .. import weights, toolkits": ["weights", "toolkits"],
        "from py4dstem_ml import weights, toolkits": ["weights", "toolkits"],
        "from . import train, predict": ["disks.train", "disks.predict"],
        "from ..toolkits import pyxem": ["toolkits.pyxem"],
    }.items():
        node = ast.parse(line).body[0]
        assert isinstance(node, ast.ImportFrom)
        assert absolute(path, node) == [f"py4dstem_ml.{name}" for name in expected]


def test_the_roof_the_structures_and_the_extras_import_lazily() -> None:
    for path in FILES:
        heavy = {module.split(".")[0] for module, at_import in imports(path) if at_import}
        assert not heavy & LAZY_EXTRAS.get(path.name, set()), name(path)
        if floor_of(path) == "roof":
            assert not heavy & (TOOLKITS | {"torch"}), name(path)
        if path.name == "structures.py":
            assert not heavy & {"ase", "spglib"}, name(path)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_only_the_command_line_prints(path: Path) -> None:
    if path.name != "cli.py":
        assert "print" not in called_names(path)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_weights_are_data_not_code(path: Path) -> None:
    forbidden = {"pickle.load", "pickle.loads", "joblib.load", "torch.load", "dill.load"}
    assert not called_names(path) & forbidden
    assert not outside(path) & {"dill", "cloudpickle"}
    assert "pickle" not in {module.split(".")[0] for module, _ in imports(path)}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_hook_into_the_file_format_of_emdfile(path: Path) -> None:
    # A module or a class with this attribute takes over the reading of everyone's files.
    names = {node.id for node in ast.walk(ast.parse(path.read_text("utf-8"))) if is_name(node)}
    assert "_emd_hook" not in names


def is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name)


def called_names(path: Path) -> set[str]:
    """The functions that a file calls, as they are written, e.g. "torch.load"."""
    tree = ast.parse(path.read_text("utf-8"))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
