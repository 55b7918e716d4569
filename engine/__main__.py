"""``sr-engine``: export, check and describe models, and build plans from them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from engine.build_cli import Build, Cache
from engine.command_line import parse_command_line
from engine.commands import Export, Info, Verify
from engine.errors import EngineError

Command = Export | Build | Info | Verify | Cache


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand. Returns 0, 1 (a verdict of FAIL) or 2 (bad input)."""
    command = parse_command_line("sr-engine", arguments, _parse)
    try:
        return command.run()
    except (EngineError, OSError) as error:
        print(f"sr-engine: {error}", file=sys.stderr)
        return 2


def _parse(words: Sequence[str]) -> Command:
    return tyro.cli(Command, prog="sr-engine", description=__doc__, args=words)


if __name__ == "__main__":
    sys.exit(main())
