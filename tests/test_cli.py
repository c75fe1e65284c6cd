"""The command line: one module a command, one line an error, and the weights' tools."""

import logging
import sys
import types
from pathlib import Path

import pytest
import torch

from py4dstem_ml import cli, weights


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A module in the place of `train disks`; what its `run` returns or raises can be set."""
    state = types.SimpleNamespace(result=None, error=None, args=None)

    def add_arguments(parser) -> None:
        parser.add_argument("--epochs", type=int, default=1)

    def run(args) -> str | None:
        state.args = args
        if state.error is not None:
            raise state.error
        return state.result

    module = types.ModuleType("train")
    module.add_arguments, module.run = add_arguments, run
    monkeypatch.setitem(sys.modules, "a_floor.disks.train", module)
    monkeypatch.setitem(cli._MODULES, "train", "a_floor.{system}.train")
    return state


def test_a_command_gets_its_arguments_and_prints_its_text(command, capsys) -> None:
    command.result = "a table"
    assert cli.main(["train", "disks", "--epochs", "3"]) == 0
    assert command.args.epochs == 3
    assert capsys.readouterr().out == "a table\n"


def test_a_command_may_print_nothing(command, capsys) -> None:
    assert cli.main(["train", "disks"]) == 0
    assert capsys.readouterr().out == ""


def test_an_error_is_one_line(command, capsys) -> None:
    command.error = ValueError("The probe has another size.")
    assert cli.main(["train", "disks"]) == 1
    assert capsys.readouterr().err == "py4dstem-ml: error: The probe has another size.\n"


def test_the_origin_of_an_error_can_be_asked_for(command) -> None:
    command.error = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        cli.main(["--traceback", "train", "disks"])


def test_a_mistake_in_the_code_is_no_user_error(command) -> None:
    command.error = TypeError("a bug")
    with pytest.raises(TypeError):
        cli.main(["train", "disks"])


def test_an_interruption_has_its_status(command, capsys) -> None:
    command.error = KeyboardInterrupt()
    assert cli.main(["train", "disks"]) == 130


def test_the_log_is_left_as_it_was(command, monkeypatch: pytest.MonkeyPatch) -> None:
    log = logging.getLogger("py4dstem_ml")
    monkeypatch.setattr(log, "level", logging.ERROR)
    handlers = list(log.handlers)
    assert cli.main(["train", "disks"]) == 0
    assert (log.level, log.handlers) == (logging.ERROR, handlers)


def test_only_the_called_module_is_imported(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: pytest.fail(name))
    assert cli.main(["weights", "list"]) == 0
    with pytest.raises(SystemExit) as done:
        cli.main(["--help"])
    assert done.value.code == 0
    assert "predict" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["train"], ["train", "nothing"], ["weights"]])
def test_an_unfinished_command_shows_the_usage(words: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(words)
    assert done.value.code == 2
    assert "usage: py4dstem-ml" in capsys.readouterr().err


def test_the_version(capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.count(".") == 2


def test_the_demo_is_called_with_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    folders = []
    demo = types.ModuleType("py4dstem_ml.demo")
    demo.run = folders.append
    monkeypatch.setitem(sys.modules, "py4dstem_ml.demo", demo)
    monkeypatch.setattr("py4dstem_ml.demo", demo, raising=False)
    assert cli.main(["demo", "--output", str(tmp_path)]) == 0
    assert folders == [tmp_path]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of one's own, in the folder of the environment."""
    monkeypatch.setenv("PY4DSTEM_ML_WEIGHTS", str(tmp_path))
    path = weights.save(tmp_path / "mine.v1.safetensors", {"a": torch.ones(1)}, {})
    path.with_suffix(".md").write_text("# card")
    return path


def test_the_path_of_weights(mine: Path, capsys) -> None:
    for action in ("path", "fetch"):
        assert cli.main(["weights", action, "mine.v1"]) == 0
        assert capsys.readouterr().out.strip() == str(mine)


def test_unknown_weights(capsys) -> None:
    assert cli.main(["weights", "path", "no.such.weights"]) == 1
    assert "There are no weights 'no.such.weights'" in capsys.readouterr().err


def test_weights_are_verified(mine: Path, capsys) -> None:
    assert cli.main(["weights", "verify", "mine.v1", "nothing.v1"]) == 0
    assert "mine.v1  not registered" in capsys.readouterr().out


def test_weights_are_registered(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    registry = tmp_path / "registry.toml"
    registry.write_text('url = ""\n\n[weights]\n')
    monkeypatch.setattr(weights, "REGISTRY_FILE", registry)
    # The argument's default is the shipped registry, which has a default network already.
    monkeypatch.setattr(weights.read_registry.__wrapped__, "__defaults__", (registry,))
    weights.read_registry.cache_clear()
    assert cli.main(["weights", "add", str(mine), "--bundled"]) == 0
    assert '[weights."mine.v1"]' in capsys.readouterr().out
    assert "mine" not in registry.read_text()
    assert cli.main(["weights", "add", str(mine), "--default", "--write"]) == 0
    entry = weights.read_registry(registry).entries["mine.v1"]
    assert entry.default and not entry.bundled
    weights.verify(mine, entry)
    weights.read_registry.cache_clear()
