"""Methods on the toolkits' classes: set once, never over someone else's, and taken off again."""

import importlib
import inspect
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import py4dstem_ml
from py4dstem_ml import registration


class Scan:
    """Stands for a class of a toolkit."""


def count_disks(scan: Scan, probe: int, *, factor: int = 2) -> int:
    """Count the disks."""
    return probe * factor


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """A toolkit of one class, and one function to set on it."""
    toolkit = types.ModuleType("a_toolkit")
    toolkit.Scan = type("Scan", (), {})
    ours = types.ModuleType("our_floor")
    ours.count_disks = count_disks
    monkeypatch.setitem(sys.modules, "a_toolkit", toolkit)
    monkeypatch.setitem(sys.modules, "our_floor", ours)
    method = registration._Method(
        toolkit="a_toolkit",
        module="a_toolkit",
        class_name="Scan",
        name="count_disks",
        implementation="our_floor",
        on_demand=True,
    )
    monkeypatch.setattr(registration, "_METHODS", (method,))
    yield toolkit.Scan


def test_a_method_is_the_function_with_the_object_first(table: type) -> None:
    py4dstem_ml.register()
    assert table().count_disks(3) == 6
    assert table().count_disks(3, factor=5) == 15
    assert table.count_disks.__doc__ == count_disks.__doc__
    assert table.count_disks.__qualname__ == "Scan.count_disks"
    assert list(inspect.signature(table().count_disks).parameters) == ["probe", "factor"]
    assert not hasattr(count_disks, "__py4dstem_ml__")  # the function itself is untouched


def test_registering_twice_is_the_same(table: type) -> None:
    py4dstem_ml.register()
    py4dstem_ml.register()
    assert len(py4dstem_ml.registered_methods()) == 1


def test_the_methods_are_listed(table: type) -> None:
    assert py4dstem_ml.registered_methods() == []
    py4dstem_ml.register()
    assert py4dstem_ml.registered_methods() == [
        ("a_toolkit.Scan", "count_disks", "our_floor.count_disks", py4dstem_ml.__version__)
    ]


def test_unregistering_takes_them_off(table: type) -> None:
    py4dstem_ml.register()
    py4dstem_ml.unregister()
    assert not hasattr(table, "count_disks")
    py4dstem_ml.unregister()
    py4dstem_ml.register()
    assert table().count_disks(1) == 2


def test_a_method_of_someone_else_stays(table: type) -> None:
    def theirs(scan: Scan) -> str:
        return "theirs"

    table.count_disks = theirs
    with pytest.raises(
        py4dstem_ml.RegistrationError, match=f"'count_disks', set by {__name__}"
    ) as e:
        py4dstem_ml.register()
    assert "call the function our_floor.count_disks instead" in str(e.value)
    py4dstem_ml.unregister()
    assert table().count_disks() == "theirs"


def test_an_inherited_method_of_someone_else_stays_too(table: type) -> None:
    toolkit = sys.modules["a_toolkit"]
    toolkit.Scan = type("Scan", (type("Base", (), {"count_disks": 1}),), {})
    with pytest.raises(py4dstem_ml.RegistrationError):
        py4dstem_ml.register()


def test_one_refusal_registers_nothing(table: type, monkeypatch: pytest.MonkeyPatch) -> None:
    (method,) = registration._METHODS
    sys.modules["a_toolkit"].Other = type("Other", (), {"count_disks": 1})
    refused = method._replace(class_name="Other")
    monkeypatch.setattr(registration, "_METHODS", (method, refused))
    with pytest.raises(py4dstem_ml.RegistrationError):
        py4dstem_ml.register()
    assert not hasattr(table, "count_disks")


def test_a_toolkit_that_is_not_imported_is_left_alone(
    table: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "a_toolkit")
    py4dstem_ml.register()
    assert py4dstem_ml.registered_methods() == []


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'a_dependency'", name="a_dependency"),
        AttributeError("_ARRAY_API not found"),
    ],
)
def test_a_broken_toolkit_says_so_once(
    table: type, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(name: str) -> types.ModuleType:
        raise error

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.warns(UserWarning) as caught:
        py4dstem_ml.register()
        py4dstem_ml.register()
    (warning,) = caught
    assert f"a_toolkit is installed but cannot be imported ({type(error).__name__}" in str(
        warning.message
    )
    assert str(error) in str(warning.message)


def test_the_package_survives_a_broken_toolkit(tmp_path: Path) -> None:
    (tmp_path / "py4DSTEM.py").write_text("raise RuntimeError('broken beyond repair')")
    code = (
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    import py4dstem_ml\n"
        "    py4dstem_ml.register()\n"
        "(warning,) = caught\n"
        "assert 'RuntimeError: broken beyond repair' in str(warning.message)\n"
        "assert py4dstem_ml.registered_methods() == []\n"
        "py4dstem_ml.BraggDiskFinder\n"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_it_survives_a_reload(table: type) -> None:
    py4dstem_ml.register()
    method = vars(table)["count_disks"]
    importlib.reload(registration)  # forgets all but what stands on the class
    assert hasattr(method, registration._MARKER)


def test_py4dstem_has_the_method() -> None:
    from py4DSTEM import DataCube

    py4dstem_ml.register()
    assert "probe" in inspect.signature(DataCube.find_bragg_disks_aiml).parameters
    listed = {(m.class_name, m.name) for m in py4dstem_ml.registered_methods()}
    assert ("py4DSTEM.DataCube", "find_bragg_disks_aiml") in listed


def test_pyxem_gets_it_once_it_is_imported() -> None:
    code = (
        "import py4dstem_ml, sys\n"
        "assert 'pyxem' not in sys.modules\n"
        "from pyxem.signals import Diffraction2D, LazyElectronDiffraction2D\n"
        "assert not hasattr(Diffraction2D, 'find_bragg_disks_aiml')\n"
        "py4dstem_ml.register()\n"
        "assert hasattr(LazyElectronDiffraction2D, 'find_bragg_disks_aiml')\n"
        "py4dstem_ml.unregister()\n"
        "assert not hasattr(Diffraction2D, 'find_bragg_disks_aiml')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_our_floor_for_pyxem_registers_it() -> None:
    code = (
        "import py4dstem_ml\n"
        "import py4dstem_ml.toolkits.pyxem as ours\n"
        "from pyxem.signals import Diffraction2D\n"
        "method = Diffraction2D.find_bragg_disks_aiml\n"
        "assert method.__wrapped__ is ours.find_bragg_disks_aiml\n"
        "names = [m.class_name for m in py4dstem_ml.registered_methods()]\n"
        "assert names.count('pyxem.Diffraction2D') == 1\n"
    )
    # Whichever comes first.
    for first in ("", "import pyxem.signals\n", "import py4dstem_ml.toolkits.pyxem\n"):
        done = subprocess.run([sys.executable, "-c", first + code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_import_survives_a_foreign_method() -> None:
    code = (
        "import py4DSTEM, warnings\n"
        "py4DSTEM.DataCube.find_bragg_disks_aiml = lambda cube: 'theirs'\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    import py4dstem_ml\n"
        "assert any('find_bragg_disks_aiml' in str(w.message) for w in caught), caught\n"
        "assert py4dstem_ml.registered_methods() == []\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
