"""Progress is shown where someone watches, and nowhere else."""

import sys
import types

import pytest

from py4dstem_ml.progress import is_interactive, progress_bar


def test_the_items_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress_bar(range(3), description="reading")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_it_can_be_forced(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress_bar(iter("ab"), total=2, description="reading", progress=True))
    assert "reading: 100%" in capsys.readouterr().err


def test_it_can_be_moved_by_hand() -> None:
    with progress_bar(total=2, progress=False) as bar:
        bar.update(1)


def test_it_does_without_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert list(progress_bar(range(3), progress=True)) == [0, 1, 2]
    with progress_bar(total=2) as bar:
        bar.update(1)


def test_a_terminal_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_interactive()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert is_interactive()


@pytest.mark.parametrize(("config", "watched"), [({"IPKernelApp": {}}, True), ({}, False)])
def test_a_notebook_is_watched(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, object], watched: bool
) -> None:
    shell = types.SimpleNamespace(config=config)
    ipython = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert is_interactive() is watched
