"""What is wrong with a submission."""

from __future__ import annotations


class SubmitError(ValueError):
    """A job that cannot be submitted: what was found, and what to do."""
