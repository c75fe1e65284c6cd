"""What `import py4dstem_ml` costs: nothing heavy of its own, and no surprise in its names."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "sklearn", "scipy", "matplotlib", "hyperspy", "pyxem", "h5py", "ase", "spglib"}
HEAVY |= {"pooch", "safetensors", "joblib", "skimage", "tqdm", "dask", "requests", "pandas"}


def run(code: str) -> str:
    """Run code in a fresh Python, where py4DSTEM counts as not installed."""
    code = f"import sys; sys.modules['py4DSTEM'] = None\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.strip()


def test_the_import_loads_nothing_heavy() -> None:
    loaded = run("import py4dstem_ml; print(*{name.split('.')[0] for name in sys.modules})")
    assert not set(loaded.split()) & HEAVY


def test_without_py4dstem_nothing_is_registered() -> None:
    assert run("import py4dstem_ml; print(py4dstem_ml.registered_methods())") == "[]"


def test_the_import_does_not_load_the_lazy_toolkits() -> None:
    code = "import sys, py4dstem_ml; print('hyperspy' in sys.modules, 'pyxem' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_unknown_and_underscore_names_import_nothing() -> None:
    # emdfile asks every loaded module for `_emd_hook` while it walks sys.modules.
    code = (
        "import py4dstem_ml\n"
        "before = set(sys.modules)\n"
        "found = [hasattr(py4dstem_ml, name) for name in ('_emd_hook', '_x', 'no_such_name')]\n"
        "print(found, set(sys.modules) - before)"
    )
    assert run(code) == "[False, False, False] set()"


def test_every_public_name_is_there() -> None:
    import py4dstem_ml

    assert set(py4dstem_ml.__all__) <= set(dir(py4dstem_ml))
    for name in py4dstem_ml.__all__:
        assert getattr(py4dstem_ml, name).__doc__
    assert py4dstem_ml.__version__.count(".") == 2


def test_the_stub_and_the_module_name_the_same() -> None:
    import ast
    from pathlib import Path

    import py4dstem_ml

    stub = ast.parse(Path(py4dstem_ml.__file__).with_suffix(".pyi").read_text("utf-8"))
    (listed,) = [ast.literal_eval(n.value) for n in stub.body if isinstance(n, ast.Assign)]
    assert set(listed) == {*py4dstem_ml.__all__, "__version__"}


def test_an_unknown_name_is_refused() -> None:
    import py4dstem_ml

    with pytest.raises(AttributeError, match="no_such_name"):
        py4dstem_ml.no_such_name  # noqa: B018
