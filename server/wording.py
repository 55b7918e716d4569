"""What is wrong with a parameter, in our words: what was found, and what to send instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Finding = Mapping[str, Any]
"""One entry of pydantic's ``ValidationError.errors()``."""


def about_parameter(finding: Finding, name: str) -> str:
    """One sentence on a finding about the parameter ``name``."""
    say = _SENTENCES.get(str(finding["type"]))
    if say is None:
        return f"{name} cannot be {_sent(finding)}; see /docs for what it takes"
    return f"{name} {say(finding)}"


def _sent(finding: Finding) -> str:
    """What was sent, as far as it can be shown in a sentence."""
    value = finding.get("input")
    if isinstance(value, str | int | float):
        return repr(value[:100]) if isinstance(value, str) else str(value)
    return "that"


def _takes(what: str) -> Callable[[Finding], str]:
    return lambda finding: f"takes {what}, not {_sent(finding)}"


def _bound(word: str, name: str) -> Callable[[Finding], str]:
    return lambda finding: f"must be {word} {finding['ctx'][name]}, not {_sent(finding)}"


def _choices(finding: Finding) -> str:
    names = str(finding["ctx"]["expected"]).replace("'", "")
    return f"takes {names}, not {_sent(finding)}"


def _own(finding: Finding) -> str:
    return f"{finding['ctx']['error']}, not {_sent(finding)}"


_SENTENCES: dict[str, Callable[[Finding], str]] = {
    "extra_forbidden": lambda _: "is no parameter here; /docs lists those there are",
    "missing": lambda _: "is missing; send it",
    "literal_error": _choices,
    "bool_parsing": _takes("true or false"),
    "bool_type": _takes("true or false"),
    "int_parsing": _takes("a whole number"),
    "int_parsing_size": _takes("a smaller whole number"),
    "int_from_float": _takes("a whole number"),
    "int_type": _takes("a whole number"),
    "float_parsing": _takes("a number"),
    "string_type": _takes("text"),
    "greater_than_equal": _bound("at least", "ge"),
    "less_than_equal": _bound("at most", "le"),
    "string_too_long": lambda finding: (
        f"must be at most {finding['ctx']['max_length']} characters long, "
        f"not {len(str(finding.get('input')))}"
    ),
    "value_error": _own,
}
