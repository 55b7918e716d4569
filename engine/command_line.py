"""Command lines by tyro, except that what is wrong with one is said in one line.

tyro explains a mistake in a box of many lines. Here its words become one sentence with the place
where help is; ``--help`` itself stays as tyro draws it.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import re
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

Parsed = TypeVar("Parsed")
USAGE_ERROR = 2

_OPTION = re.compile(r"--?[A-Za-z][\w.-]*")
_NUMBERS = {"INT": "a whole number", "FLOAT": "a number"}


def parse_command_line(
    prog: str, arguments: Sequence[str] | None, parse: Callable[[Sequence[str]], Parsed]
) -> Parsed:
    """What ``parse`` makes of a command line.

    Args:
        prog: the command as a person types it.
        arguments: without the command; None: those of this process.
        parse: calls tyro, and nothing else, with the arguments that it is given.

    Raises:
        SystemExit: 0 after ``--help``; 2 after one line on stderr about what is wrong.
    """
    words = sys.argv[1:] if arguments is None else arguments
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse(words)
    except SystemExit as stopped:
        if stopped.code != USAGE_ERROR:
            sys.stderr.write(said.getvalue())
            raise
    problem = _unknown_option(words, parse) or _in_one_line(said.getvalue())
    command = " ".join([prog, *_subcommand(words, said.getvalue(), prog)])
    print(f"{prog}: {problem}: see {command} --help", file=sys.stderr)
    raise SystemExit(USAGE_ERROR)


def _unknown_option(words: Sequence[str], parse: Callable[[Sequence[str]], object]) -> str | None:
    """The first word that looks like an option and is in no help.

    tyro would often speak of what it then misses instead.
    """
    first = next((n for n, word in enumerate(words) if word.startswith("-")), len(words))
    shown = io.StringIO()
    with (
        contextlib.suppress(SystemExit),
        contextlib.redirect_stdout(shown),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        parse([*words[:first], "--help"])
    known = set(_OPTION.findall(shown.getvalue()))
    if not known:
        return None
    for word in words:
        name = word.partition("=")[0]
        if word == "--" or not _OPTION.fullmatch(name) or name.replace("_", "-") in known:
            continue
        close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75)
        return f"unknown option {name}" + (f" (is it {close[0]}?)" if close else "")
    return None


def _in_one_line(box: str) -> str:
    """The message of one of tyro's boxes, without frame, advice and line breaks."""
    # The first line is the title; a frame is drawn only where the terminal knows its characters.
    lines = [line.strip("│╭╮╰╯").rstrip() for line in box.splitlines()[1:]]
    sections: list[list[str]] = [[]]
    for line in lines:
        if line and not line.strip(" ─-"):
            sections.append([])
        else:
            sections[-1].append(line)
    message = next(filter(any, sections), [])
    text = " ".join(" ".join(message).split())
    if text.startswith("Missing from"):
        return _missing(message)
    for advice in sections:
        if found := re.match(r" *Available subcommands: (.+)", " ".join(advice)):
            names = " ".join(found[1].split())
            return f"{text.replace('Unrecognized options:', 'no command')}, there are {names}"
    for pattern, say in _SENTENCES:
        if found := re.search(pattern, text):
            return say(*found.groups())
    return text.rstrip(".") or "the arguments cannot be understood"


def _missing(lines: Sequence[str]) -> str:
    """Names stand four columns further in than the first line, what is said of them eight."""
    margin = len(lines[0]) - len(lines[0].lstrip()) + 4
    named = [line for line in lines if re.match(rf" {{{margin}}}\S", line)]
    names = [line.replace("(required)", "").strip() for line in named]
    return f"{' and '.join(names)} must be given"


def _wrong_type(name: str, kinds: str, value: str) -> str:
    wanted = " or ".join(_NUMBERS.get(kind, kind) for kind in kinds.split("|") if kind != "{None}")
    return f"{name} takes {wanted}, not {value}"


def _unrecognized(words: str) -> str:
    many = "s" if "," in words else ""
    return f"unexpected word{many} {words}"


def _wrong_choice(value: str, name: str, choices: str) -> str:
    names = choices.replace("'", "")
    return f"{name} takes one of {names}, not {value}"


_SENTENCES: tuple[tuple[str, Callable[..., str]], ...] = (
    (r"Missing value for argument '(-.+?)'", lambda name: f"{name} needs a value"),
    (r"Unrecognized options: (.+)", _unrecognized),
    (r"Expected one of \{(.+?)\}", lambda names: f"a command must be given, one of {names}"),
    (r"invalid choice '(.*?)' for argument '(.+?)'. Expected one of \((.+?),?\)", _wrong_choice),
    (r"Error parsing (\S+): no type matching (\S+) could .* from \['(.*?)'\]", _wrong_type),
    (
        r"Error parsing (\S+): invalid literal for int\(\) with base 10: '(.*?)'",
        lambda name, value: _wrong_type(name, "INT", value),
    ),
    (
        r"Error parsing (\S+): could not convert string to float: '(.*?)'",
        lambda name, value: _wrong_type(name, "FLOAT", value),
    ),
)


def _subcommand(words: Sequence[str], box: str, prog: str) -> list[str]:
    """The subcommand whose help tyro points at, if it names one."""
    found = re.search(rf"{re.escape(prog)} ([a-z]\w*) --help", " ".join(box.split()))
    known = found[1] if found else ""
    return [known] if known and known in words[:1] else []
