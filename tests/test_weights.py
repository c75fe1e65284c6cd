"""Weights by name: the order of the places, the hash of every file, and what goes wrong."""

import hashlib
import http.server
import os
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from py4dstem_ml import WeightsError, list_pretrained, weights

NAME = "net.tiny.v1"
FILE = NAME + weights.SUFFIX
CACHED = weights._cached


class Server(http.server.ThreadingHTTPServer):
    """Serves one content under every address; may break off before its end."""

    content: bytes = b""
    announced: int | None = None
    requests: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(200 if self.server.content else 404)
        self.send_header("Content-Length", str(self.server.announced or len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("PY4DSTEM_ML_WEIGHTS_URL", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Every place that weights are looked for in, empty, and one registered name."""
    places = {place: tmp_path / place for place in ("chosen", "checkout", "wheel", "cache")}
    monkeypatch.setattr(weights, "_RETRIES", 0)
    monkeypatch.setattr(weights, "_local_folders", lambda: list(places.values())[:3])
    monkeypatch.setattr(weights, "_cached", lambda file: places["cache"] / file)
    monkeypatch.delenv("PY4DSTEM_ML_WEIGHTS_URL", raising=False)
    return places


@pytest.fixture
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The bytes of the registered weights."""
    path = weights.save(tmp_path / FILE, {"a": torch.arange(3.0)}, {"spec": {"width": 8}})
    path.with_suffix(".md").write_text("# the card")
    registry = tmp_path / "registry.toml"
    registry.write_text('url = ""\n\n[weights]\n')
    monkeypatch.setattr(weights, "REGISTRY_FILE", registry)
    monkeypatch.setattr(weights, "read_registry", ReadRegistry(registry))
    weights.add_entry(weights.new_entry(path, system="disks", default=True))
    return path.read_bytes()


class ReadRegistry:
    """`read_registry` of another file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> weights.Registry:
        return weights_read_registry(self.path)

    def cache_clear(self) -> None:
        weights_read_registry.cache_clear()


weights_read_registry = weights.read_registry


def put(folder: Path, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    path.write_bytes(content)
    return path


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*")]


# --- the shipped registry


def test_the_registry_is_valid() -> None:
    registry = weights_read_registry()
    for entry in registry.entries.values():
        assert len(entry.sha256) == 64
        assert entry.file == entry.name + weights.SUFFIX
        assert entry.card == entry.name + ".md"
    defaults = [entry.system for entry in registry.entries.values() if entry.default]
    assert len(defaults) == len(set(defaults))
    folder = Path(__file__).parents[1] / "weights"
    bundled = [entry.file for entry in registry.entries.values() if entry.bundled]
    # As they are in a wheel, which is a zip.
    assert sum(len(zlib.compress((folder / file).read_bytes())) for file in bundled) <= 96e6
    assert all(entry.size <= 40e6 for entry in registry.entries.values())


def test_the_bundled_weights_are_in_the_checkout_with_their_cards() -> None:
    folder = Path(__file__).parents[1] / "weights"
    for entry in weights_read_registry().entries.values():
        if entry.bundled:
            weights.verify(folder / entry.file, entry)
            assert (folder / entry.card).is_file()


def test_a_registry_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text('url = ""\n[weights.a]\nfile = "a"\nweight = 1\n')
    with pytest.raises(WeightsError, match="'a' of .* is not valid.*weight"):
        weights_read_registry(path)


# --- files


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6).reshape(2, 3).T, "b": torch.tensor(1 + 2j)}
    metadata = {"valid": {"energy_ev": [6e4, 3e5]}, "note": "ä", "seed": 1}
    path = weights.save(tmp_path / "deep" / "x.safetensors", tensors, metadata)
    loaded, said = weights.load(path)
    assert said.pop("sha256") == hashlib.sha256(path.read_bytes()).hexdigest()
    assert said == metadata
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)
    assert files(tmp_path / "deep") == ["x.safetensors"]


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    metadata = {key: key for key in "abcdefgh"}
    paths = [
        weights.save(tmp_path / f"{i}.safetensors", {"a": torch.ones(2)}, metadata)
        for i in range(3)
    ]
    assert len({path.read_bytes() for path in paths}) == 1


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="safetensors"):
        weights.save(tmp_path / "x.pt", {}, {})


def test_metadata_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = weights.save(tmp_path / "x.safetensors", {"a": torch.ones(1)}, {})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        weights.save(path, {"a": torch.zeros(1)}, {"function": print})
    assert path.read_bytes() == before


def test_a_truncated_file_is_said_to_be_so(tmp_path: Path) -> None:
    path = weights.save(tmp_path / "x.safetensors", {"a": torch.ones(100)}, {})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        weights.load(path)


def test_a_file_of_someone_else_has_no_metadata(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", {"format": "pt"})
    assert set(weights.load(tmp_path / "x.safetensors")[1]) == {"sha256"}


@pytest.mark.parametrize("kind", [str, Path])
def test_a_missing_path_is_named(tmp_path: Path, kind: type) -> None:
    with pytest.raises(WeightsError, match="There is no weights file .*nothing"):
        weights.resolve(kind(tmp_path / "nothing.safetensors"))


# --- names and places


def test_names_are_listed(content: bytes) -> None:
    assert list_pretrained() == [NAME]
    assert list_pretrained("other.*") == []
    assert weights.default_name("disks") == NAME
    with pytest.raises(WeightsError, match="'cbleed'"):
        weights.default_name("cbleed")


def test_a_close_name_is_offered(content: bytes) -> None:
    with pytest.raises(WeightsError, match=f"Did you mean '{NAME}'"):
        weights.resolve("net.tiny.v2")
    with pytest.raises(WeightsError, match=f"'zzz'. The registered ones are: {NAME}"):
        weights.resolve("zzz")


def test_the_first_place_wins(content: bytes, places: dict[str, Path]) -> None:
    for place in reversed(places):
        path = put(places[place], content)
        assert weights.resolve(NAME) == path
    assert weights.load(NAME)[1]["spec"] == {"width": 8}


def test_weights_of_your_own_need_no_registry(content: bytes, places: dict[str, Path]) -> None:
    path = weights.save(places["chosen"] / "mine.v1.safetensors", {"a": torch.ones(1)}, {})
    assert weights.resolve("mine.v1") == path


@pytest.mark.parametrize("place", ["chosen", "checkout", "wheel"])
def test_a_wrong_file_is_refused_in_every_place(
    content: bytes, places: dict[str, Path], place: str
) -> None:
    put(places[place], bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(WeightsError, match="not the registered file: their sha256 is"):
        weights.resolve(NAME)
    put(places[place], content[:-1])
    with pytest.raises(WeightsError, match=f"truncated: {len(content) - 1} bytes"):
        weights.resolve(NAME)


def test_a_file_is_hashed_once(
    content: bytes, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(places["chosen"], content)
    weights.resolve(NAME)
    monkeypatch.setattr(weights, "_sha256", lambda path: pytest.fail("read once more"))
    assert weights.resolve(NAME) == path


def test_a_file_that_changes_is_hashed_again(content: bytes, places: dict[str, Path]) -> None:
    path = put(places["chosen"], content)
    weights.resolve(NAME)
    put(places["chosen"], bytes(len(content)))
    os.utime(path, ns=(1, 1))
    with pytest.raises(WeightsError, match="sha256"):
        weights.resolve(NAME)


def test_the_folder_of_the_environment_comes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PY4DSTEM_ML_WEIGHTS", str(tmp_path))
    assert weights._local_folders()[0] == tmp_path


# --- fetching


def test_a_download_is_verified_and_kept(
    content: bytes, places: dict[str, Path], server: Server
) -> None:
    server.content = content
    path = weights.resolve(NAME)
    assert path == places["cache"] / FILE
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(content).digest()
    assert weights.resolve(NAME) == path
    assert server.requests == 1
    assert files(places["cache"]) == [FILE]


def test_a_corrupt_download_is_not_kept(
    content: bytes, places: dict[str, Path], server: Server
) -> None:
    server.content = bytes(len(content))
    with pytest.raises(WeightsError, match="is not the registered file, and was not kept"):
        weights.resolve(NAME)
    assert files(places["cache"]) == []


def test_a_truncated_download_is_not_kept(
    content: bytes, places: dict[str, Path], server: Server
) -> None:
    server.content, server.announced = content[:-10], len(content)
    with pytest.raises(WeightsError, match="could not be fetched from http://127.0.0.1"):
        weights.resolve(NAME)
    assert files(places["cache"]) == []


def test_a_missing_download_is_named(
    content: bytes, places: dict[str, Path], server: Server
) -> None:
    with pytest.raises(WeightsError, match="404"):
        weights.resolve(NAME)
    assert files(places["cache"]) == []


def test_no_network(
    content: bytes, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PY4DSTEM_ML_WEIGHTS_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(WeightsError, match="Try again with a network, or put"):
        weights.resolve(NAME)
    assert files(places["cache"]) == []


def test_no_address(content: bytes) -> None:
    with pytest.raises(WeightsError, match="no address is known.*PY4DSTEM_ML_WEIGHTS_URL"):
        weights.resolve(NAME)


def test_a_second_try_succeeds(
    content: bytes, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = bytes(len(content))
    monkeypatch.setattr(weights, "_RETRIES", 1)

    def recover(seconds: float) -> None:
        server.content = content

    monkeypatch.setattr("time.sleep", recover)
    assert weights.resolve(NAME).read_bytes() == content


def test_a_damaged_cache_is_mended(content: bytes, places: dict[str, Path], server: Server) -> None:
    put(places["cache"], content[:-1])
    server.content = content
    assert weights.resolve(NAME).read_bytes() == content


def test_a_damaged_cache_without_a_network_is_an_error(
    content: bytes, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(places["cache"], content[:-1])
    monkeypatch.setenv("PY4DSTEM_ML_WEIGHTS_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(WeightsError, match="could not be fetched"):
        weights.resolve(NAME)


# --- the maintainer's tool


def test_a_name_is_registered_once(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is taken; newer weights get a new name"):
        weights.new_entry(tmp_path / FILE, system="disks")


def test_weights_without_a_card_are_not_registered(content: bytes, tmp_path: Path) -> None:
    path = weights.save(tmp_path / "b.v1.safetensors", {"a": torch.ones(1)}, {})
    with pytest.raises(WeightsError, match="model card"):
        weights.new_entry(path, system="disks")
    path.with_suffix(".md").write_text("# card")
    with pytest.raises(WeightsError, match=f"'{NAME}' is the default of 'disks' already"):
        weights.new_entry(path, system="disks", default=True)
    weights.add_entry(weights.new_entry(path, system="disks", bundled=True))
    assert list_pretrained() == ["b.v1", NAME]


def test_local_weights_need_no_pooch(
    content: bytes, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.setattr(weights, "_cached", CACHED)
    assert weights.locate(NAME) is None
    places["checkout"].mkdir()
    (places["checkout"] / FILE).write_bytes(content)
    assert weights.resolve(NAME) == weights.locate(NAME) == places["checkout"] / FILE
