"""What the values of options are made of; argparse shows what is wrong with one."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def positive(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text}")
    return int(text)


def seed(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to 2^64 - 1, got {text}")
    return int(text)


def _number(text: str, expected: str, suits: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not suits(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text}")
    return value


def share(text: str) -> float:
    return _number(text, "a share of the rows from 0 to 0.9", lambda value: 0.0 <= value <= 0.9)


def rate(text: str) -> float:
    return _number(text, "a rate, 0 or more and below 1", lambda value: 0.0 <= value < 1.0)


def above_zero(text: str) -> float:
    return _number(text, "a number above 0", lambda value: value > 0.0)


def zero_or_more(text: str) -> float:
    return _number(text, "a number, 0 or more", lambda value: value >= 0.0)


def widths(text: str) -> tuple[int, ...]:
    if not text.strip():
        return ()
    try:
        return tuple(positive(part.strip()) for part in text.split(","))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"expected the widths of the hidden layers, such as 64,64, got {text}"
        ) from None


def words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def separator(text: str) -> str:
    text = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(text) != 1 or text in '"\r\n' or not text.isascii():
        raise argparse.ArgumentTypeError(f"expected one character, or tab, got {text!r}")
    return text


def percentile(text: str) -> float:
    """A share of the values that is kept, in per cent."""
    return _number(text, "a number from 50 to 100", lambda value: 50.0 <= value <= 100.0)


def layers(text: str) -> list[str | int]:
    """Layers by number, or the ends."""
    found: list[str | int] = []
    for word in words(text):
        number = word.isascii() and word.isdecimal()
        if not number and word not in ("first", "last"):
            raise argparse.ArgumentTypeError(
                f"expected first, last or numbers of layers, got {word}"
            )
        found.append(int(word) if number else word)
    return found
