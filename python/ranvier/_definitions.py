"""`Definition`: what layers, losses, optimisers and the like have in common."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any

__all__ = ["Definition"]


class Definition:
    """Base of frozen dataclasses without a `repr` and an `eq` of their own.

    Those that `dataclass` writes for each class would double the time that importing takes.
    """

    def _fields(self) -> tuple[Field[Any], ...]:
        return fields(self)  # type: ignore[arg-type]

    def _key(self) -> tuple[Any, ...]:
        return tuple(getattr(self, f.name) for f in self._fields() if f.compare)

    def __eq__(self, other: object) -> bool:
        """Whether class and options are the same."""
        if type(self) is not type(other):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        """Of class and options."""
        return hash((type(self), self._key()))

    def __repr__(self) -> str:
        """The call that makes the definition, without defaults."""
        options = []
        for field in self._fields():
            value = getattr(self, field.name)
            if field.init and value != field.default:
                # What is needed and may come without its name comes first.
                first = field.default is MISSING and not field.kw_only
                options.append((not first, repr(value) if first else f"{field.name}={value!r}"))
        options.sort(key=lambda option: option[0])
        return f"{type(self).__name__}({', '.join(text for _, text in options)})"
