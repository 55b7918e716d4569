"""PyAV's fractions as Python's: since version 19 they are a type of its own."""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol


class Rational(Protocol):
    """``fractions.Fraction`` or ``av.rational.AVRational``."""

    @property
    def numerator(self) -> int:
        """Above the line."""

    @property
    def denominator(self) -> int:
        """Below the line; 0 for "not known" in PyAV 19."""


def fraction(value: Rational | None) -> Fraction | None:
    """``value`` as a Fraction; None when it says nothing (None, 0/1, x/0)."""
    if value is None or not value.numerator or not value.denominator:
        return None
    return Fraction(value.numerator, value.denominator)
