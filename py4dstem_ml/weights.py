"""Trained weights by name: found on disk or fetched, verified, and read.

A name is looked for in the folder `PY4DSTEM_ML_WEIGHTS`, the checkout's `weights/`, the wheel's
package data and the user's cache, in that order, and is fetched into the cache otherwise. Whatever
the place, a registered name is only used where its file has the registered sha256.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from py4dstem_ml.progress import is_interactive

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    import torch

SUFFIX = ".safetensors"
REGISTRY_FILE = Path(__file__).with_name("registry.toml")
_METADATA_KEY = "py4dstem_ml"  # one JSON text: the order of several keys would not be reproducible
_RETRIES = 2
_TIMEOUT_S = 30


class WeightsError(RuntimeError):
    """Weights that are unknown, damaged or out of reach; the message says what to do."""


@dataclass(frozen=True)
class Entry:
    """What the registry says of a name; the fields are explained in `registry.toml`."""

    name: str
    file: str
    sha256: str
    size: int
    system: str
    card: str
    bundled: bool = False
    default: bool = False


@dataclass(frozen=True)
class Registry:
    """The registered weights by name, and the address they are fetched from ("" for none)."""

    url: str
    entries: dict[str, Entry]


@functools.cache
def read_registry(path: Path = REGISTRY_FILE) -> Registry:
    """Read a registry file.

    Raises
    ------
    WeightsError
        If an entry lacks a field or has one that is not known.
    """
    content = tomllib.loads(path.read_text("utf-8"))
    entries = {}
    for name, fields in content["weights"].items():
        try:
            entries[name] = Entry(name=name, **fields)
        except TypeError as error:
            raise WeightsError(f"The entry {name!r} of {path} is not valid: {error}.") from None
    return Registry(url=content["url"], entries=entries)


def list_pretrained(pattern: str = "*") -> list[str]:
    """List the registered weights.

    Parameters
    ----------
    pattern : str
        As for file names, e.g. ``"fcunet.*"``.

    Returns
    -------
    list of str
        The names, sorted. Nothing is fetched.

    Examples
    --------
    >>> import py4dstem_ml
    >>> names = py4dstem_ml.list_pretrained("dualnet.*")
    """
    return sorted(fnmatch.filter(read_registry().entries, pattern))


def default_name(system: str) -> str:
    """Name the weights that a system takes when none are named.

    Raises
    ------
    WeightsError
        If the registry marks none as the default of that system.
    """
    for entry in read_registry().entries.values():
        if entry.default and entry.system == system:
            return entry.name
    raise WeightsError(f"No weights are registered as the default of {system!r}; name some.")


def resolve(name_or_path: str | os.PathLike) -> Path:
    """Find the file of some weights, fetching it if need be.

    Parameters
    ----------
    name_or_path : str or path
        A name, or a file: a path object, or a string that ends in ``.safetensors`` or has a
        path separator. A file given by its path is taken as it is.

    Returns
    -------
    Path
        For a registered name, of a file that has the registered sha256.

    Raises
    ------
    WeightsError
        If the name is unknown, the file is missing, damaged, or cannot be fetched.

    Examples
    --------
    >>> from py4dstem_ml import weights
    >>> paths = [weights.resolve(name) for name in weights.list_pretrained("*.compact.*")]
    """
    if _is_path(name_or_path):
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise WeightsError(f"There is no weights file {path}.")
        return path
    name = str(name_or_path)
    found = _in_folders(name)
    entry = read_registry().entries.get(name)
    if entry is None:
        if found is None:
            raise WeightsError(_unknown(name))
        return found  # the user's own weights, which no registry can vouch for
    if found is None:
        return _fetch(entry)
    verify(found, entry)
    return found


def locate(name: str) -> Path | None:
    """Find the file of a name on this machine, unverified; None if it is not there.

    Examples
    --------
    >>> from py4dstem_ml import weights
    >>> weights.locate("no.such.weights") is None
    True
    """
    found, entry = _in_folders(name), read_registry().entries.get(name)
    if found is not None or entry is None:
        return found
    try:
        cached = _cached(entry.file)
    except ModuleNotFoundError:  # without pooch nothing was ever fetched
        return None
    return cached if cached.is_file() else None


def verify(path: Path, entry: Entry) -> None:
    """Check a file against its registry entry; a file that has not changed is read only once.

    Raises
    ------
    WeightsError
        If the size or the sha256 differs.
    """
    size = path.stat().st_size
    if size != entry.size:
        what = "truncated" if size < entry.size else "not the registered file"
        raise WeightsError(
            f"The weights {entry.name!r} in {path} are {what}: {size} bytes where the registry "
            f"says {entry.size}. Delete that file, or copy it there once more."
        )
    found = _hash_once(path, size, path.stat().st_mtime_ns)
    if found != entry.sha256:
        raise WeightsError(
            f"The weights {entry.name!r} in {path} are not the registered file: their sha256 is "
            f"{found}, not {entry.sha256}. Delete that file; weights of your own need a name of "
            f"their own, or are given by their path."
        )


def load(name_or_path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read weights and what is said of them.

    Parameters
    ----------
    name_or_path : str or path
        As for `resolve`.

    Returns
    -------
    tensors : dict of str to torch.Tensor
        On the CPU.
    metadata : dict
        As it was given to `save`, and the file's ``"sha256"``.

    Raises
    ------
    WeightsError
        As for `resolve`, and if the file is not a readable safetensors file.

    Examples
    --------
    >>> import tempfile, torch
    >>> from py4dstem_ml import weights
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = weights.save(folder + "/a.safetensors", {"x": torch.ones(2)}, {"seed": 1})
    ...     tensors, metadata = weights.load(path)
    >>> metadata["seed"], len(metadata["sha256"])
    (1, 64)
    """
    from safetensors import SafetensorError, safe_open

    path = resolve(name_or_path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file ({error}). Copy or train it once more."
        ) from error
    # Read now, so that it names what was loaded even if the file is replaced later.
    return tensors, {**json.loads(metadata.get(_METADATA_KEY, "{}")), "sha256": _sha256(path)}


def save(
    path: str | os.PathLike, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
) -> Path:
    """Write weights: all or nothing, and the same bytes for the same content.

    Parameters
    ----------
    path : str or path
        Ends in ``.safetensors``; its folder is made if need be.
    tensors : mapping of str to torch.Tensor
        Any dtype, on any device.
    metadata : mapping
        Whatever JSON can say: the network's spec, the training recipe, the valid ranges.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    ValueError
        If the path ends otherwise.
    """
    from safetensors.torch import save as serialize

    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"Weights are saved as *{SUFFIX}, not as {path.name!r}.")
    content = serialize(
        {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()},
        {_METADATA_KEY: json.dumps(dict(metadata), sort_keys=True)},
    )
    _replace(path, content)
    return path


def new_entry(path: Path, *, system: str, bundled: bool = False, default: bool = False) -> str:
    """Describe a weights file as the registry does; for maintainers.

    Returns
    -------
    str
        The lines to append to `registry.toml`.

    Raises
    ------
    WeightsError
        If the name is taken, the model card is missing, or the system has a default already.
    """
    name, card = path.name.removesuffix(SUFFIX), path.with_suffix(".md")
    entries = read_registry().entries
    if not path.is_file() or path.suffix != SUFFIX:
        raise WeightsError(f"There is no weights file {path}.")
    if name in entries:
        raise WeightsError(f"The name {name!r} is taken; newer weights get a new name.")
    if not card.is_file():
        raise WeightsError(f"Weights have a model card: write {card} first.")
    if default and any(entry.default and entry.system == system for entry in entries.values()):
        raise WeightsError(f"{default_name(system)!r} is the default of {system!r} already.")
    lines = [
        f'[weights."{name}"]',
        f'file = "{path.name}"',
        f'sha256 = "{_sha256(path)}"',
        f"size = {path.stat().st_size}",
        f'system = "{system}"',
        f'card = "{card.name}"',
        f"bundled = {str(bundled).lower()}",
        f"default = {str(default).lower()}",
    ]
    return "\n".join(lines) + "\n"


def add_entry(entry: str) -> None:
    """Append the lines of `new_entry` to the registry; for maintainers."""
    _replace(REGISTRY_FILE, f"{REGISTRY_FILE.read_text('utf-8')}\n{entry}".encode())
    read_registry.cache_clear()


def _is_path(name_or_path: str | os.PathLike) -> bool:
    if not isinstance(name_or_path, str):
        return True
    return name_or_path.endswith(SUFFIX) or any(sep in name_or_path for sep in ("/", os.sep))


def _local_folders() -> list[Path]:
    package = Path(__file__).parent
    folders = [package / "_weights"]
    if (package.parent / "pyproject.toml").is_file():
        folders.insert(0, package.parent / "weights")
    if chosen := os.environ.get("PY4DSTEM_ML_WEIGHTS"):
        folders.insert(0, Path(chosen).expanduser())
    return folders


def _in_folders(name: str) -> Path | None:
    """The file of a name in the folders of weights, the user's cache left out."""
    entry = read_registry().entries.get(name)
    file = entry.file if entry is not None else name + SUFFIX
    paths = (folder / file for folder in _local_folders())
    return next((path for path in paths if path.is_file()), None)


def _cached(file: str) -> Path:
    import pooch

    return Path(pooch.os_cache("py4dstem_ml")) / "weights" / file


def _fetch(entry: Entry) -> Path:
    """The verified file in the user's cache; one that is missing or damaged is fetched."""
    import pooch

    path = _cached(entry.file)
    try:
        verify(path, entry)
        return path
    except (FileNotFoundError, WeightsError):
        pass
    url = os.environ.get("PY4DSTEM_ML_WEIGHTS_URL") or read_registry().url
    if not url:
        raise WeightsError(
            f"The weights {entry.name!r} are not on this machine and no address is known: put "
            f"{entry.file} into a folder and set PY4DSTEM_ML_WEIGHTS to it, or set "
            f"PY4DSTEM_ML_WEIGHTS_URL."
        )
    fetcher = pooch.create(
        path=path.parent,
        base_url=url.rstrip("/") + "/",
        registry={entry.file: f"sha256:{entry.sha256}"},
        retry_if_failed=_RETRIES,
    )
    download = pooch.HTTPDownloader(progressbar=is_interactive(), timeout=_TIMEOUT_S)
    try:
        fetcher.fetch(entry.file, downloader=download)
    except OSError as error:  # the network, the server, or the disk
        raise WeightsError(
            f"The weights {entry.name!r} could not be fetched from {fetcher.base_url} ({error}). "
            f"Try again with a network, or put {entry.file} into a folder and set "
            f"PY4DSTEM_ML_WEIGHTS to it."
        ) from error
    except ValueError as error:  # the hash, or an address that is none
        raise WeightsError(
            f"What {fetcher.base_url} gives for the weights {entry.name!r} is not the registered "
            f"file, and was not kept ({error}). Try again; if it stays so, the source is damaged "
            f"or was replaced."
        ) from error
    return path


def _unknown(name: str) -> str:
    known = list_pretrained()
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        return f"There are no weights {name!r}. Did you mean {' or '.join(map(repr, close))}?"
    listed = ", ".join(known) if known else "none"
    return f"There are no weights {name!r}. The registered ones are: {listed}."


@functools.cache
def _hash_once(path: Path, size: int, mtime_ns: int) -> str:
    """The sha256, computed once a process for a file that keeps its size and its date."""
    return _sha256(path)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that it is never half there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # a temporary file is private, weights are to be read
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
