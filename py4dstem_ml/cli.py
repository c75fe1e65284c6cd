"""The command line, `py4dstem-ml`: only this file prints.

A command on a system, e.g. `py4dstem-ml train disks`, is a module with two functions:
`add_arguments(parser)`, and `run(args)`, which may return a text to print. Only the module that is
called is imported.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

SYSTEMS = ("disks", "symmetry", "cbleed", "lacbed")
_DESCRIPTION = "Machine learning for electron diffraction."

# What is built of a system so far.
_COMMANDS = {
    "disks": ("simulate", "train", "tune", "evaluate", "predict"),
    "symmetry": ("simulate", "train", "train-forest", "evaluate", "predict"),
    "cbleed": ("simulate", "train", "fit", "evaluate", "predict"),
    "lacbed": ("simulate", "train", "fit", "evaluate"),
}
# The module that runs a command on a system.
_MODULES = {
    "simulate": "py4dstem_ml.{system}.library",
    "train": "py4dstem_ml.{system}.train",
    "train-forest": "py4dstem_ml.{system}.train_forest",
    "fit": "py4dstem_ml.{system}.fit",
    "tune": "py4dstem_ml.{system}.tune",
    "evaluate": "py4dstem_ml.{system}.evaluate",
    "predict": "py4dstem_ml.toolkits.predict_{system}",
}
_HELP = {
    "simulate": "simulate the training library of a system",
    "train": "train the networks of a system",
    "train-forest": "train the random forests of a system",
    "fit": "fit what a system needs beside its network: regressors, an atlas of crystals",
    "tune": "search the hyper-parameters of a network (extra: tune)",
    "evaluate": "measure weights on held-out material",
    "predict": "run a system on a file of measured patterns",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process by default.

    Returns
    -------
    int
        The exit status: 0, 1 after an error, 130 after an interruption.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    args = _parser(arguments).parse_args(arguments)
    # Our own log only: the toolkits' debug output helps nobody here.
    log = logging.getLogger("py4dstem_ml")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        text = args.run(args)
    except KeyboardInterrupt:
        print("py4dstem-ml: interrupted", file=sys.stderr)
        return 130
    except (OSError, RuntimeError, ValueError) as error:
        if args.traceback:
            raise
        print(f"py4dstem-ml: error: {error}", file=sys.stderr)
        return 1
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
    if text:
        print(text)
    return 0


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    from py4dstem_ml import __version__

    parser = argparse.ArgumentParser(prog="py4dstem-ml", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    called_words = [word for word in arguments if not word.startswith("-")][:2]
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, module in _MODULES.items():
        systems = commands.add_parser(command, help=_HELP[command]).add_subparsers(
            dest="system", required=True, metavar="SYSTEM"
        )
        for system in (name for name in SYSTEMS if command in _COMMANDS[name]):
            called = systems.add_parser(system, help=f"{_HELP[command]}: {system}")
            if called_words == [command, system]:
                implementation = importlib.import_module(module.format(system=system))
                implementation.add_arguments(called)
                called.set_defaults(run=implementation.run)
    _add_weights(commands.add_parser("weights", help="list, find and check the trained weights"))
    demo = commands.add_parser("demo", help="detect the disks of an embedded example")
    demo.add_argument("--output", type=Path, default=Path("demo"), help="folder (default: demo)")
    demo.set_defaults(run=_run_demo)
    return parser


def _run_demo(args: argparse.Namespace) -> str | None:
    from py4dstem_ml import demo

    return demo.run(args.output)


def _add_weights(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    action = actions.add_parser("list", help="the registered weights, and where they are")
    action.add_argument("pattern", nargs="?", default="*", help='e.g. "dualnet.*"')
    action.set_defaults(run=_list_weights)

    action = actions.add_parser("path", help="where a verified file is, fetched if need be")
    action.add_argument("name")
    action.set_defaults(run=_weights_path)

    action = actions.add_parser("fetch", help="have weights on this machine, to work offline")
    action.add_argument("name", nargs="+")
    action.set_defaults(run=_fetch_weights)

    action = actions.add_parser("verify", help="check the files on this machine; fetches nothing")
    action.add_argument("name", nargs="*", help="all registered ones by default")
    action.set_defaults(run=_verify_weights)

    action = actions.add_parser("add", help="print the registry entry of a new file (maintainers)")
    action.add_argument("path", type=Path, help="weights/<name>.safetensors")
    # LACBED has a default for each direction, and for its known crystals.
    systems = (*SYSTEMS, "lacbed-inverse", "lacbed-atlas")
    action.add_argument("--system", choices=systems, default=SYSTEMS[0])
    action.add_argument("--bundled", action="store_true", help="the wheel carries it")
    action.add_argument("--default", action="store_true", help="the system's default")
    action.add_argument("--write", action="store_true", help="append it to the registry")
    action.set_defaults(run=_add_entry)


def _list_weights(args: argparse.Namespace) -> str:
    from py4dstem_ml import weights

    lines = []
    for name in weights.list_pretrained(args.pattern):
        entry = weights.read_registry().entries[name]
        place = weights.locate(name) or "not on this machine"
        default = " (default)" if entry.default else ""
        lines.append(f"{name}  {entry.system}{default}  {entry.size / 1e6:.1f} MB  {place}")
    return "\n".join(lines) or "No weights are registered under that name."


def _weights_path(args: argparse.Namespace) -> str:
    from py4dstem_ml import weights

    return str(weights.resolve(args.name))


def _fetch_weights(args: argparse.Namespace) -> str:
    from py4dstem_ml import weights

    return "\n".join(str(weights.resolve(name)) for name in args.name)


def _verify_weights(args: argparse.Namespace) -> str:
    from py4dstem_ml import weights

    entries = weights.read_registry().entries
    lines = []
    for name in args.name or weights.list_pretrained():
        path = weights.locate(name)
        if path is None:
            lines.append(f"{name}  not on this machine")
        elif name not in entries:
            lines.append(f"{name}  not registered  {path}")
        else:
            weights.verify(path, entries[name])
            lines.append(f"{name}  ok  {path}")
    return "\n".join(lines)


def _add_entry(args: argparse.Namespace) -> str:
    from py4dstem_ml import weights

    entry = weights.new_entry(
        args.path, system=args.system, bundled=args.bundled, default=args.default
    )
    if args.write:
        weights.add_entry(entry)
    return entry.rstrip()


if __name__ == "__main__":
    sys.exit(main())
