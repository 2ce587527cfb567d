# SPDX-License-Identifier: Apache-2.0
"""Entry of the `unbrickd` command: finds the command, runs it, and turns errors into words and an exit code.

Knows no command beyond its name. A command is a module with `add_parser(subparsers)`, which returns the parser it made,
and `run(args) -> int`; it is imported only when it is called, or when all of them are listed for help.
Data goes to stdout, logs and errors to stderr. Exit codes: 0 done, 1 and up by the class of error (unbrickd.errors),
130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias, cast

from unbrickd import __version__
from unbrickd.errors import UnbrickdError

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""

COMMANDS: dict[str, str] = {
    "demo": "unbrickd.cli.demo",
    "serve": "unbrickd.cli.serve",
    "gateway": "unbrickd.cli.gateway",
    "devices": "unbrickd.cli.devices",
    "generations": "unbrickd.cli.generations",
    "show": "unbrickd.cli.show",
    "verify": "unbrickd.cli.verify",
    "export": "unbrickd.cli.export",
    "delete": "unbrickd.cli.delete",
    "pin": "unbrickd.cli.pin",
    "unpin": "unbrickd.cli.unpin",
    "keys": "unbrickd.cli.keys",
    "agent": "unbrickd.cli.agent",
    "recover": "unbrickd.cli.recover",
    "doctor": "unbrickd.cli.doctor",
}
"""Command → the module that is it, in the order of the help. To add a command, add a line."""


class Command(Protocol):
    """What a command's module offers."""

    def add_parser(self, subparsers: Subparsers) -> argparse.ArgumentParser: ...

    def run(self, args: argparse.Namespace) -> int: ...


def build_parser(commands: Iterable[str]) -> argparse.ArgumentParser:
    """The parser that knows these commands; each sets `run` in the namespace."""
    parser = argparse.ArgumentParser(
        prog="unbrickd",
        description="Keeps a copy of your router's software on this computer, and heals the router with it.",
        epilog="Start with `unbrickd serve`. `unbrickd COMMAND --help` explains each command with an example.",
    )
    parser.add_argument("--version", action="version", version=f"unbrickd {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in commands:
        command = cast(Command, importlib.import_module(COMMANDS[name]))
        command.add_parser(subparsers).set_defaults(run=command.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code; never raises what the user should read."""
    words = sys.argv[1:] if argv is None else argv
    named = words[0] if words else ""
    try:
        args = build_parser([named] if named in COMMANDS else COMMANDS).parse_args(words)
        run = cast(Callable[[argparse.Namespace], int], args.run)
        code = run(args)
        sys.stdout.flush()
    except UnbrickdError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader went away (`unbrickd devices | head`). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
