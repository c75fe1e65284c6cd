"""README does what it says: its Python runs, and its commands, targets and names exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from py4dstem_ml import cli, weights

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>runnable[^>]*?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
WITH_WEIGHTS = "runnable: with weights"


def script(mark: str) -> str:
    """The blocks with this mark as one program, whose line numbers are those of README."""
    lines = [""] * README.count("\n")
    for block in BLOCK.finditer(README):
        if block["mark"] == mark:
            first = README.count("\n", 0, block.start("code"))
            code = block["code"].splitlines()
            lines[first : first + len(code)] = code
    return "\n".join(lines)


def commands() -> list[list[str]]:
    """The arguments of every call of our command line."""
    found = []
    for block in BLOCK.finditer(README):
        if block["language"] == "sh":
            for line in block["code"].replace("\\\n", " ").splitlines():
                called = re.search(r"(?:^|\s)py4dstem(?:-ml|_ml\.cli)\s+(.*)", line)
                if called:
                    found.append(shlex.split(called[1], comments=True))
    return found


@pytest.mark.parametrize("mark", ["runnable", WITH_WEIGHTS])
def test_its_python_runs(mark, tmp_path):
    program = script(mark)
    assert program.strip()
    path = tmp_path / "README.py"
    path.write_text(program, "utf-8")
    # A process of its own: what the examples import and register is not for the other tests.
    ran = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stderr


def test_all_its_python_is_marked_runnable():
    marks = [block["mark"] for block in BLOCK.finditer(README) if block["language"] == "python"]
    assert set(marks) == {"runnable", WITH_WEIGHTS}


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_its_commands_parse(arguments):
    assert cli._parser(arguments).parse_args(arguments).run


def test_it_shows_every_command():
    called = {arguments[0] for arguments in commands()}
    assert {"simulate", "train", "evaluate", "predict", "weights"} <= called


def test_its_make_targets_exist():
    code = "\n".join(
        [b["code"] for b in BLOCK.finditer(README)] + re.findall(r"`([^`\n]+)`", README)
    )
    targets = set(re.findall(r"\bmake ([a-z][a-z-]*)", code))
    assert {"demo", "test"} <= targets
    assert targets <= set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))


def test_its_environment_variables_are_those_of_the_code():
    sources = [*(ROOT / "py4dstem_ml").rglob("*.py"), ROOT / "tests" / "conftest.py"]
    pattern = re.compile(r"\bPY4DSTEM_ML_[A-Z_]+\b")
    used = {name for path in sources for name in pattern.findall(path.read_text("utf-8"))}
    assert set(pattern.findall(README)) == used


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_its_weights_are_the_registered_ones():
    named = set(re.findall(r"`(\w+(?:\.\w+)*\.v\d+)`", README))
    assert named == set(weights.list_pretrained())
    defaults = [e.name for e in weights.read_registry().entries.values() if e.default]
    assert all(f"| `{name}` |" in README for name in defaults)
