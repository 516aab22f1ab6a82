"""What every section of a config has in common.

A field's meaning stands below it and reaches the JSON schema. An unknown key is an error. What is wrong in a value is
refused by the sections; what needs the model or the data is refused where they are opened.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

LARGEST_EXACT = 2**53
"""Up to here a whole number written as 1e6 is the number that is meant."""


class Section(BaseModel):
    """One object of a config file; an unknown key is an error, and so is a value of another type: `"8"` and `true` are
    no numbers. A whole number may be written as 1e6."""

    DOTTED: ClassVar[tuple[str, ...]] = ()
    """Fields that are objects whose keys are keys of another config, in dots."""

    NAMED: ClassVar[tuple[str, ...]] = ()
    """Sections whose own keys are names that users give; null takes one away."""

    ELSEWHERE: ClassVar[dict[str, str]] = {}
    """Keys that the section of this name has in configs of another kind, and what means the same here."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _as_json_writes_it(cls, value: Any, info: ValidationInfo) -> Any:
        """JSON has no tuples, and writes a large whole number as it likes."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = {annotation, get_origin(annotation), *get_args(annotation)}
        if isinstance(value, bool) and any(type(kind) is int for kind in kinds):  # Literal takes true for 1
            raise ValueError(f"expected a number, found {json.dumps(value)}")
        if isinstance(value, list) and tuple in kinds:
            return tuple(value)
        if isinstance(value, float) and int in kinds and float not in kinds:
            exact = value.is_integer() and abs(value) <= LARGEST_EXACT
            return int(value) if exact else value
        return value


def nearest(word: str, known: list[str], besides: Sequence[str] = ()) -> str:
    """The end of a message about a word that is not known: the one that was meant, else all that are known; `besides`
    are others that may have been meant, which nobody wants to read all of."""
    meant = likely(word, [*besides, *known])
    return f"; did you mean {meant}?" if meant else f"; known: {', '.join(known)}"


def likely(word: str, known: Iterable[str]) -> str | None:
    """Of known words the one that was meant by another; None: none looks like it."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)), None)
