"""Counts of what happened to documents, and a few of those that were dropped, by reason.

The sample is the documents whose ids have the smallest hashes: it does not depend on the order in which they come, so
the samples of units join to the sample of the whole, whatever the number of workers.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

SHOWN = 600
"""Characters of a rejected text that are kept."""

Reject = dict[str, Any]
"""`reason`, `id`, `characters`, `text` (its beginning), `hash` (the order)."""


class Tally(Counter[str]):
    """Counts by name; `reject` also keeps a sample."""

    def __init__(self, *given: Any, sample: int = 0):
        """
        Args:
            given: As those of Counter.
            sample: Rejects kept for each reason.
        """
        super().__init__(*given)
        self.sample = sample
        self._rejects: dict[str, list[Reject]] = {}

    def reject(self, reason: str, identifier: str, text: str) -> None:
        """Count a document that is not taken.

        Args:
            reason: Name of the count, such as `dropped_short`.
            identifier: Of the document.
            text: Of the document.
        """
        self[reason] += 1
        if not self.sample:
            return
        mark = hashlib.blake2b(f"{reason}:{identifier}".encode("utf-8", "replace"), digest_size=8).hexdigest()
        kept = self._rejects.setdefault(reason, [])
        if len(kept) < self.sample or mark < kept[-1]["hash"]:
            shown = text[:SHOWN].encode("utf-8", "replace").decode()
            kept.append({"reason": reason, "id": identifier, "characters": len(text), "text": shown, "hash": mark})
            kept.sort(key=lambda one: one["hash"])
            del kept[self.sample :]

    @property
    def rejects(self) -> list[Reject]:
        """The sample, by reason."""
        return [one for reason in sorted(self._rejects) for one in self._rejects[reason]]


def joined_rejects(samples: Iterable[list[Reject]], size: int) -> list[Reject]:
    """The sample of the whole from those of its parts.

    Args:
        samples: Of the parts, each of this size or larger.
        size: Rejects kept for each reason.
    """
    by_reason: dict[str, list[Reject]] = {}
    for sample in samples:
        for one in sample:
            kept = by_reason.setdefault(one["reason"], [])
            kept.append(one)
            kept.sort(key=lambda reject: (reject["hash"], reject["id"]))
            del kept[size:]
    return [one for reason in sorted(by_reason) for one in by_reason[reason]]
