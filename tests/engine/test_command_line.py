"""A mistake on a command line is told in one line; help stays help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

import pytest

from engine.__main__ import main as engine
from engine.command_line import parse_command_line
from engine.selection import BackendName
from server.__main__ import main as server
from server.upscale_cli import main as upscale
from trainer.__main__ import main as train

COMMANDS: dict[str, Callable[[Sequence[str]], object]] = {
    "sr-upscale": upscale,
    "sr-server": lambda words: server(list(words)),
    "sr-engine": engine,
    "sr-train": train,
}

BACKENDS = ", ".join(get_args(BackendName))
MISTAKES = {
    "sr-upscale": "IN and OUT must be given",
    "sr-upscale --foo": "unknown option --foo",
    "sr-upscale a b --hight=3": "unknown option --hight (is it --height?)",
    "sr-upscale a b c": "unexpected word c",
    "sr-upscale a b --height": "--height needs a value",
    "sr-upscale a b --height high": "--height takes a whole number, not high",
    "sr-upscale a b --backend gpu": f"--backend takes one of {BACKENDS}, not gpu",
    "sr-server --port high": "--port takes a whole number, not high",
    "sr-engine": "a command must be given, one of export, build, info, verify, cache",
    "sr-engine bogus": "no command bogus, there are export, build, info, verify, cache",
    "sr-engine build --foo": "unknown option --foo",
    "sr-train fit --data x --iterations many": "--iterations takes a whole number, not many",
    "sr-train fit": "--data PATH must be given",
    "sr-train fit --data x --foo 1": "unknown option --foo",
}


@pytest.mark.parametrize(("line", "problem"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    line: str, problem: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")  # no line of tyro's is as long as its message
    command, *words = line.split()
    with pytest.raises(SystemExit) as stopped:
        COMMANDS[command](words)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    start, _, help_of = said.err.removesuffix(" --help\n").rpartition(": see ")
    assert start == f"{command}: {problem}"
    assert help_of.startswith(command)
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_stays_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        COMMANDS[command](["--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr()
    assert "usage: " + command in said.out
    assert said.out.count("\n") > 10
    assert said.err == ""


def test_words_that_tyro_may_find_tomorrow_are_passed_on_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def parse(_: Sequence[str]) -> None:
        import sys

        print("╭─ Something ─╮\n│ It is all  │\n│ too much.  │\n╰────────────╯", file=sys.stderr)
        raise SystemExit(2)

    with pytest.raises(SystemExit):
        parse_command_line("prog", ["a"], parse)
    assert capsys.readouterr().err == "prog: It is all too much: see prog --help\n"
