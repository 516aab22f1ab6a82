"""What saving a run costs, whether it continues exactly, and what pruning with a teacher costs beside training without.

    python benchmarks/checkpoint.py [--layers 4] [--hidden 256] [--rows 16] [--json]

A run of the product on random words, on one rank: a student that is pruned and distilled at masked positions, in fp32
on a CPU. In turns in one process are timed: an update of it, a save of its whole state (which ends when the files are
on the disk), a refresh of its masks, an update of the same model without pruning and teacher, and a forward of the
teacher up to its logits. Medians over rounds of ratios within a round count; absolute times belong to the machine.

What is asked: the stall of a save is at most 2 s for each GB, or at most one update; an update with pruning and teacher
has at least 0.9 of the throughput of one without and a teacher's forward; refreshes at the published frequency take at
most 1 % of the time; and a run that is continued from its checkpoint has the next ten losses bit for bit. The exit
status is 1 if a figure is not as wanted. `disk_seconds_per_gb` is what the same bytes cost in one file that is written
and flushed: what a save cannot be faster than.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.common import architecture_of, parsed, size_options
from benchmarks.gpu_common import write_data
from benchmarks.made_by import made_by
from ofa.assemble import PretrainingRun, assemble
from ofa.config import ObjectiveConfig, RunConfig, load, parse
from ofa.engine.process import start, stop
from ofa.models.build import build_model
from ofa.pretrain import pretrain
from ofa.run_folder import RunFolder
from ofa.tables import table
from ofa.timing import interleaved, ratios, timed
from ofa.train import save, update

LOSSES = 10
"""Compared after a restart, and updates before it."""

PUBLISHED = "ofa_90.json"
"""The recipe whose frequency of refreshes counts."""

AT_MOST = {"seconds_per_gb": 2.0, "updates_per_save": 1.0, "refresh_share": 0.01}
AT_LEAST = {"throughput": 0.9}
EITHER = ("seconds_per_gb", "updates_per_save")
"""Of these one is enough."""

QUICK = {"layers": 2, "hidden": 64, "vocab": 500, "sequence": 32, "rows": 4, "rounds": 2}


def main() -> int:
    """Measure and print; returns the exit status."""
    options = arguments()
    found = measure(options)
    print(json.dumps(found, indent=1) if options.json else report(found))
    return 0 if is_right(found) else 1


def arguments() -> argparse.Namespace:
    """The command line."""
    sizes = size_options("an update", layers=4, hidden=256, vocab=8192, sequence=128, rows=16)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[sizes]
    )
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="in which everything has its turn")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parsed(parser, QUICK)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures, and what they were measured on."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        place = Path(folder)
        write_data(place / "data", rows=max(200, 40 * options.rows), length=options.sequence, vocab=options.vocab)
        config = run_config(place, options)
        # Weights as they are drawn serve: only time and repetition are looked at.
        build_model(config.model.model_copy(update={"init": None}), seed=1).save_pretrained(place / "teacher")
        losses = losses_of_both(config, place)
        figures = timings(config, place, options.rounds)
    frequency = published_frequency()
    return {
        **figures,
        **shares(figures, frequency),
        "published_frequency": frequency,
        "losses": losses["alone"],
        "losses_of_the_continued_run": losses["continued"],
        **made_by(threads=options.threads),
        "settings": vars(options),
    }


def run_config(place: Path, options: argparse.Namespace) -> RunConfig:
    """The pruned run: weights may return, dropout is on, and a refresh lies within the losses that are compared."""
    steps = 2 * LOSSES
    architecture = architecture_of(options.layers, options.hidden, options.vocab, options.sequence)
    values = {
        "model": {"architecture": architecture, "init": str(place / "teacher")},
        "teacher": {"init": str(place / "teacher")},
        "data": {"path": str(place / "data"), "sequence_length": options.sequence},
        "batch": {"global_size": options.rows, "micro_size": options.rows},
        "optimizer": {"lr": 1e-4},
        "schedule": {"total_steps": steps},
        "pruning": {"sparsity": 0.9, "ramp_end": steps - 2, "end": steps, "frequency": LOSSES // 2},
        "engine": {"threads": options.threads},
        "checkpoint": {"every": LOSSES},
        "log": {"every": 1, "tensorboard": False},
        "evaluate": {"rows": options.rows},
    }
    return parse(RunConfig, values, origin="benchmarks/checkpoint.py")


def losses_of_both(config: RunConfig, place: Path) -> dict[str, list[float]]:
    """The last losses of a whole run, and of one that continues from its checkpoint."""
    checkpoint = place / "alone" / "checkpoints" / f"step-{LOSSES:08d}"
    losses = {}
    for name, resume in (("alone", "auto"), ("continued", str(checkpoint))):
        assert pretrain(config, place / name, name="benchmark", resume=resume) == 0
        lines = map(json.loads, (place / name / "metrics.jsonl").read_text().splitlines())
        losses[name] = [line["loss"] for line in lines if "loss" in line and line["step"] >= LOSSES]
    return losses


def timings(config: RunConfig, place: Path, rounds: int) -> dict[str, Any]:
    """Medians of seconds, and the ratios that must be taken within a round."""
    start(config)
    pruned = assembled(config, place / "pruned")
    alone = {"pruning": None, "teacher": None, "objective": ObjectiveConfig(ce_weight=1.0, kd_weight=0.0)}
    dense = assembled(config.model_copy(update=alone), place / "dense")
    device = str(pruned.engine.device)
    works = works_of(pruned, dense)
    for work in works.values():
        work(0)  # the first time memory is taken and code is chosen
    seconds = interleaved({name: partial(_seconds, work, device) for name, work in works.items()}, rounds)
    size = saved_bytes(pruned)
    disk = [timed(partial(write_and_flush, place / "plain", size)) for _ in range(rounds)]
    for run in (pruned, dense):
        run.progress.stop()
    stop()
    beside = [a + b for a, b in zip(seconds["dense update"], seconds["teacher"], strict=True)]
    return {
        "seconds": {name: statistics.median(of_name) for name, of_name in seconds.items()},
        "saved_bytes": size,
        "disk_seconds_per_gb": statistics.median(disk) / (size / 1e9),
        "throughput_ratios": ratios(beside, seconds["update"]),
        "updates_per_save_ratios": ratios(seconds["save"], seconds["update"]),
        "refresh_per_update_ratios": ratios(seconds["refresh"], seconds["update"]),
        "device": device,
    }


def assembled(config: RunConfig, path: Path) -> PretrainingRun:
    """The parts of a run in a folder of its own."""
    path.mkdir()
    return assemble(config, RunFolder(path), None, name="benchmark")


def works_of(pruned: PretrainingRun, dense: PretrainingRun) -> dict[str, Callable[[int], object]]:
    """What takes turns; each is called with the number of its round."""
    totals, micro = pruned.loader.global_batch(0)
    micro = [batch.to(pruned.engine.device) for batch in micro]
    grid = [step for step in range(2 * LOSSES) if pruned.recipe.at(step).update_mask and step]

    def trained(run: PretrainingRun, _: int) -> None:
        update(run, run.recipe.at(1), totals, micro)
        run.pruner.after_step(run.recipe.at(2))

    def teach(_: int) -> None:
        assert pruned.teacher is not None
        for batch in micro:
            rows = pruned.teacher.targets(batch).rows
            assert rows is not None
            torch.nn.functional.linear(rows.hidden, rows.weight, rows.bias)

    return {
        "update": partial(trained, pruned),
        "dense update": partial(trained, dense),
        "teacher": teach,
        "refresh": lambda number: pruned.pruner.before_step(pruned.recipe.at(grid[number % 2])),
        "save": lambda number: save(pruned, number),
    }


def saved_bytes(run: PretrainingRun) -> int:
    """Of the newest checkpoint."""
    newest = run.checkpoints.folder / (run.checkpoints.folder / "latest").read_text().strip()
    return sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())


def write_and_flush(path: Path, size: int) -> None:
    """One file of so many bytes, pushed to the disk and removed."""
    block = os.urandom(min(size, 1 << 24))
    with path.open("wb") as file:
        for begin in range(0, size, len(block)):
            file.write(block[: size - begin])
        file.flush()
        os.fsync(file.fileno())
    path.unlink()


def published_frequency() -> int:
    """Updates between two refreshes of the published recipe."""
    pruning = load(RunConfig, PUBLISHED).pruning
    assert pruning is not None
    return pruning.frequency


def shares(figures: Mapping[str, Any], frequency: int) -> dict[str, float]:
    """The figures that have limits, from those that were timed; refreshes count among the updates."""
    refresh = figures["refresh_per_update_ratios"]["median"]
    return {
        "seconds_per_gb": figures["seconds"]["save"] / (figures["saved_bytes"] / 1e9),
        "updates_per_save": figures["updates_per_save_ratios"]["median"],
        "throughput": figures["throughput_ratios"]["median"] * frequency / (frequency + refresh),
        "refresh_share": refresh / (frequency + refresh),
    }


def verdicts(found: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """By figure: what is wanted, and whether it is so."""
    said = {name: (f"at most {limit:g}", found[name] <= limit) for name, limit in AT_MOST.items()}
    said |= {name: (f"at least {limit:g}", found[name] >= limit) for name, limit in AT_LEAST.items()}
    one = any(said[name][1] for name in EITHER)
    said |= {name: (f"{said[name][0]}, or the other", one) for name in EITHER}
    same = found["losses"] == found["losses_of_the_continued_run"] and len(found["losses"]) == LOSSES
    return {**said, "losses": (f"{LOSSES} equal bit for bit", same)}


def is_right(found: Mapping[str, Any]) -> bool:
    """Whether every figure is as wanted."""
    return all(holds for _, holds in verdicts(found).values())


def report(found: Mapping[str, Any]) -> str:
    """One table and what it was measured on."""
    said = verdicts(found)
    shown = {name: f"{found[name]:.4g}" for name in (*AT_MOST, *AT_LEAST)}
    shown["losses"] = f"{sum(map(float.__eq__, found['losses'], found['losses_of_the_continued_run']))} equal"
    rows = [[name.replace("_", " "), shown[name], said[name][0], "yes" if said[name][1] else "NO"] for name in shown]
    rows += [[f"{name}, ms", f"{1e3 * value:.1f}", "", ""] for name, value in found["seconds"].items()]
    rows.append(["plain file, s/GB", f"{found['disk_seconds_per_gb']:.2f}", "", ""])
    settings, machine = found["settings"], found["hardware"]
    size = f"a checkpoint has {found['saved_bytes'] / 1e6:.1f} MB"
    model = (
        f"{settings['layers']} layers of {settings['hidden']}, {settings['rows']} rows of {settings['sequence']} tokens"
    )
    on = f"{machine['device']}, {found['device']}, {machine['threads']} threads"
    return "\n".join(
        [
            table(["", "median", "wanted", "holds"], rows),
            "",
            f"{size}; new masks every {found['published_frequency']:,} updates",
            f"{model}; {on}; {settings['rounds']} rounds",
        ]
    )


def _seconds(work: Callable[[int], object], device: str, number: int) -> float:
    return timed(partial(work, number), device)


if __name__ == "__main__":
    sys.exit(main())
