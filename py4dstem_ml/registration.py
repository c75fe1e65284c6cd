"""The package's methods on the toolkits' own classes: set once, listed, and taken off again.

Setting a plain function on the class, rather than subclassing it, serves every object of that
class: subclasses, copies, and objects read from a file. What is saved stays readable where this
package is not installed.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

from py4dstem_ml import __version__

_MARKER = "__py4dstem_ml__"


class RegistrationError(RuntimeError):
    """A toolkit's class already has an attribute of that name, set by someone else."""


class RegisteredMethod(NamedTuple):
    """A method that this package has set on a class of a toolkit."""

    class_name: str
    name: str
    function: str
    version: str


class _Method(NamedTuple):
    toolkit: str
    module: str
    class_name: str
    name: str
    implementation: str  # a module of our toolkit floor that defines a function of the same name
    on_demand: bool  # True: only where the user has imported the toolkit, for its import is slow


_METHODS = (
    _Method(
        toolkit="py4DSTEM",
        module="py4DSTEM.datacube",
        class_name="DataCube",
        name="find_bragg_disks_aiml",
        implementation="py4dstem_ml.toolkits.py4dstem",
        on_demand=False,
    ),
    *(
        _Method(
            toolkit="py4DSTEM",
            module="py4DSTEM",
            class_name="BraggVectors",
            name=name,
            implementation="py4dstem_ml.toolkits.py4dstem_symmetry",
            on_demand=False,
        )
        for name in (
            "predict_crystal_system",
            "predict_space_group",
            "predict_lattice",
            "predict_crystal",
        )
    ),
    _Method(
        toolkit="py4DSTEM",
        module="py4DSTEM.process.diffraction",
        class_name="Crystal",
        name="generate_lacbed",
        implementation="py4dstem_ml.toolkits.py4dstem_lacbed",
        on_demand=False,
    ),
    _Method(
        toolkit="py4DSTEM",
        module="py4DSTEM.process.diffraction",
        class_name="Crystal",
        name="generate_lacbed_aiml",
        implementation="py4dstem_ml.toolkits.py4dstem_lacbed_aiml",
        on_demand=False,
    ),
    _Method(
        toolkit="pyxem",
        module="pyxem.signals",
        class_name="Diffraction2D",
        name="find_bragg_disks_aiml",
        implementation="py4dstem_ml.toolkits.pyxem",
        on_demand=True,
    ),
    _Method(
        toolkit="pyxem",
        module="pyxem.signals",
        class_name="DiffractionVectors",
        name="predict_crystal_system",
        implementation="py4dstem_ml.toolkits.pyxem_symmetry",
        on_demand=True,
    ),
)


def register() -> None:
    """Set the package's methods on the classes of the toolkits that are there.

    Runs once when the package is imported and may be called any number of times. py4DSTEM's
    classes are served where py4DSTEM is installed, pyxem's where pyxem is already imported: after
    a later ``import pyxem`` call it again, or ``import py4dstem_ml.toolkits.pyxem``, which does so.
    A toolkit that is installed but fails to import gets one warning, with the cause.

    Raises
    ------
    RegistrationError
        If a class already has an attribute of that name that is not ours. No method is set then.

    Examples
    --------
    >>> import py4dstem_ml
    >>> py4dstem_ml.register()
    """
    wanted = [(cls, method) for method in _METHODS if (cls := _find_class(method)) is not None]
    for cls, method in wanted:
        _refuse_foreign(cls, method)
    for cls, method in wanted:
        implementation = importlib.import_module(method.implementation)
        setattr(cls, method.name, _as_method(cls, getattr(implementation, method.name)))


def register_or_warn() -> None:
    """Register on import: someone else's method keeps its place, and our functions still work."""
    try:
        register()
    except RegistrationError as error:
        warnings.warn(str(error), UserWarning, stacklevel=3)


def unregister() -> None:
    """Take the package's methods off the toolkits' classes; `register` sets them again.

    Examples
    --------
    >>> import py4dstem_ml
    >>> py4dstem_ml.unregister()
    >>> py4dstem_ml.registered_methods()
    []
    >>> py4dstem_ml.register()
    """
    for cls, method in _registered():
        delattr(cls, method.name)


def registered_methods() -> list[RegisteredMethod]:
    """List the methods that are set now.

    Returns
    -------
    list of RegisteredMethod
        Named tuples ``(class_name, name, function, version)``, all strings.

    Examples
    --------
    >>> import py4dstem_ml
    >>> for method in py4dstem_ml.registered_methods():
    ...     text = f"{method.class_name}.{method.name}"
    """
    return [
        RegisteredMethod(
            class_name=f"{method.toolkit}.{cls.__name__}",
            name=method.name,
            function=f"{method.implementation}.{method.name}",
            version=getattr(inspect.getattr_static(cls, method.name), _MARKER),
        )
        for cls, method in _registered()
    ]


def _find_class(method: _Method) -> type | None:
    if method.on_demand and method.toolkit not in sys.modules:
        return None
    try:
        importlib.import_module(method.toolkit)
        return getattr(importlib.import_module(method.module), method.class_name)
    except Exception as error:  # whatever: a toolkit that is broken must not break this package
        if not (isinstance(error, ModuleNotFoundError) and error.name == method.toolkit):
            _warn_of_broken(method.toolkit, f"{type(error).__name__}: {error}")
        return None


@functools.cache
def _warn_of_broken(toolkit: str, cause: str) -> None:
    warnings.warn(
        f"{toolkit} is installed but cannot be imported ({cause}); py4dstem_ml works without its "
        f"methods on it. Mend that installation, then call py4dstem_ml.register().",
        UserWarning,
        stacklevel=2,
    )


def _registered() -> Iterator[tuple[type, _Method]]:
    for method in _METHODS:
        # A toolkit that nobody imported has no method of ours.
        cls = getattr(sys.modules.get(method.module), method.class_name, None)
        if cls is not None and hasattr(vars(cls).get(method.name), _MARKER):
            yield cls, method


def _refuse_foreign(cls: type, method: _Method) -> None:
    name = method.name
    current = inspect.getattr_static(cls, name, None)
    if current is None or hasattr(current, _MARKER):
        return
    owner = getattr(current, "__module__", None) or type(current).__module__
    raise RegistrationError(
        f"{cls.__module__}.{cls.__name__} already has an attribute {name!r}, set by {owner}; "
        f"py4dstem_ml leaves it as it is and sets none of its methods. Remove that attribute and "
        f"call py4dstem_ml.register(), or call the function {method.implementation}.{name} instead."
    )


def _as_method(cls: type, function: Callable) -> Callable:
    @functools.wraps(function)
    def method(self, *args, **kwargs):
        return function(self, *args, **kwargs)

    method.__qualname__ = f"{cls.__name__}.{function.__name__}"
    setattr(method, _MARKER, __version__)
    return method
