"""What every section of a config has in common.

A field's meaning stands below it and reaches the JSON schema. An unknown key is an error. What is wrong in a value is
refused by the sections; what needs the model or the data is refused where they are opened.
"""

from __future__ import annotations

import difflib

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One object of a config file; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def nearest(word: str, known: list[str]) -> str:
    """The end of a message about a word that is not known: the one that was meant, else all there are."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
