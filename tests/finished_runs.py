"""Runs of the entry scripts in this process, for tests that look at what comes out of them."""

from collections.abc import Callable
from pathlib import Path

from tests.commands import command, overrides


def finish(script: str, project: Path, config: str, run_dir: str, *pairs: str) -> Path:
    """Run `launch/<script>` on `<config>.json` of a folder to its end; the run folder."""
    answer = command(script, "--config", f"{config}.json", "--run-dir", run_dir, *overrides(*pairs), cwd=project)
    assert answer.status == 0, answer.err
    return project / run_dir


def finished_once(script: str, project: Path) -> Callable[..., Path]:
    """finished(config, *overrides) -> the run folder; a run that is there is not made again."""
    made: dict[tuple[str, ...], Path] = {}

    def finished(config: str, *pairs: str) -> Path:
        if (config, *pairs) not in made:
            made[config, *pairs] = finish(script, project, config, f"made/{len(made)}", *pairs)
        return made[config, *pairs]

    return finished
