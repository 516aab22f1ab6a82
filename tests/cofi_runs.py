"""Runs of launch/cofi.py in this process, for tests that look at what comes out of them."""

from collections.abc import Callable
from pathlib import Path

from tests.commands import command, overrides
from tests.run_files import metrics


def prune(project: Path, config: str, run_dir: str, *pairs: str) -> Path:
    """Run a config to its end; its folder."""
    answer = command("cofi.py", "--config", config, "--run-dir", run_dir, *overrides(*pairs), cwd=project)
    assert answer.status == 0, answer.err
    return project / run_dir


def pruned_once(project: Path, config: str) -> Callable[..., Path]:
    """pruned(*overrides) -> the run folder of a config; a run that is there is not made again."""
    made: dict[tuple[str, ...], Path] = {}

    def pruned(*pairs: str) -> Path:
        if pairs not in made:
            made[pairs] = prune(project, config, f"made/{len(made)}", *pairs)
        return made[pairs]

    return pruned


def validated(folder: Path) -> list[dict]:
    """Validation lines."""
    return [line for line in metrics(folder) if "validation_loss" in line]
