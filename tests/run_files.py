"""What two runs that must be equal are compared by."""

import json
from pathlib import Path
from typing import Any

TIMES = {"time", "tokens_per_second", "mfu"}


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Lines without what measures time."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def model_bytes(folder: Path) -> dict[str, bytes]:
    """Every exported file."""
    return {path.name: path.read_bytes() for path in sorted((folder / "model").iterdir())}


def validated(folder: Path) -> list[dict[str, Any]]:
    """Lines of a validation."""
    return [line for line in metrics(folder) if "validation_loss" in line]
