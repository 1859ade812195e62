"""The command line: the options of every command except `bench`, which parses its own, and the exit codes."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Final

from channel_layer import __version__
from channel_layer_cli._config import CommandError, check, genkey, schema

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("BENCH_NEEDS", "main")

BENCH_NEEDS: Final = ("asgiref", "matplotlib", "rich")
"""The import packages of the extra ``bench``."""

_FAILED: Final = 1
"""Exit code: a package is missing, or the run was interrupted."""

_UNUSABLE: Final = 2
"""Exit code: the command cannot use its arguments. argparse exits with the same code for a wrong option."""


class _Options(argparse.Namespace):
    """The parsed command line; each command sets the attributes of its own options."""

    command: str
    source: str
    layer: str | None
    deploy: bool


def main() -> None:
    """Run the command line in ``sys.argv``.

    Raises:
        SystemExit: always, with the exit code of the command.
    """
    try:
        code = _run(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("Aborted!", file=sys.stderr)
        code = _FAILED
    except BrokenPipeError:
        # The reader of the pipe has exited, as `head` does. Python flushes stdout once more at its exit: redirect it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _FAILED
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["bench"]:
        return _bench(arguments[1:])
    parser = _parser()
    options = parser.parse_args(arguments, _Options())
    try:
        if options.command == "check":
            return check(options.source, options.layer, deploy=options.deploy)
        if options.command == "schema":
            schema(options.layer)
        else:
            genkey()
    except CommandError as exc:
        parser.exit(_UNUSABLE, f"{parser.prog} {options.command}: error: {exc}\n")
    return 0


def _bench(arguments: Sequence[str]) -> int:
    missing = [name for name in BENCH_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        print(f'channel-layer bench needs {", ".join(missing)}: pip install "channel-layer[bench]"', file=sys.stderr)
        return _FAILED
    from channel_layer_bench.command import run  # noqa: PLC0415 - it imports the packages of the extra

    return run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("channel-layer", description="Tools for channel layers.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"channel-layer, version {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    # Only for the list of commands: `_run` passes the arguments of the benchmark to its own parser.
    commands.add_parser("bench", help="Measure channel layers side by side.", add_help=False)

    checking = commands.add_parser(
        "check",
        help="Check a configuration.",
        description="Check a configuration, without making a layer or connecting to anything. "
        "SETTINGS is the dotted path of a Django settings module, which is imported as manage.py would, but without "
        "django.setup(). FILE is a .toml or .json with CHANNEL_LAYERS in it or, with --layer, with the options of one "
        "layer.",
        epilog="Exit codes: 0 no errors, 1 errors in the configuration, 2 it cannot be read, or an option is wrong.",
        allow_abbrev=False,
    )
    checking.add_argument("source", metavar="SETTINGS|FILE")
    checking.add_argument(
        "--layer",
        metavar="NAME",
        help="The file is the CONFIG of this one layer: redis, ipc, memory, or the name of another layer.",
    )
    checking.add_argument("--deploy", action="store_true", help="Also warn of what matters only in production.")

    describing = commands.add_parser(
        "schema",
        help="Print the JSON Schema of a configuration.",
        description="Print the JSON Schema of a configuration file, for editors and other programs.",
        allow_abbrev=False,
    )
    describing.add_argument(
        "--layer", metavar="NAME", help="For the CONFIG of this one layer: redis, ipc, memory, or the name of another."
    )

    commands.add_parser(
        "genkey",
        help="Make a key for symmetric_encryption_keys.",
        description="Print a fresh key for symmetric_encryption_keys: 32 random bytes as URL-safe base64.",
        allow_abbrev=False,
    )
    return parser
