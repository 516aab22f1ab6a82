"""One training run: its parts are assembled, then the loop. Teacher preparation, sparse pre-training, one-shot pruning
and fine-tuning are the same loop with other parts; there are no callbacks and no trainer classes.

The order of things at step t, which makes a resumed run repeat exactly what its checkpoint does not hold: save the
state with t updates; refresh the masks; under them rewind the weights, where the recipe says so; validate; then the
update t -> t + 1 and its metrics line. On resume at t every line of step t or later is cut, and written again with the
same values.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from ofa import dist
from ofa.board import open_board
from ofa.checkpoint import INDEX, CheckpointError, Checkpoints, Start, check
from ofa.config import TrainingConfig
from ofa.data.counter import key
from ofa.data.plan import micro_batch_numbers
from ofa.engine.process import start, stop
from ofa.engine.settings import layout
from ofa.export.hf import OF_A_RUN, check_replaceable
from ofa.inputs import RESUME_WORDS, without_resume
from ofa.journal import NotFinite
from ofa.models.compile import check_compiler
from ofa.progress import start_logging, stop_logging
from ofa.pruning.pruner import MaskChurn
from ofa.recipe import Knobs
from ofa.report import show_result
from ofa.run import Run, Totals
from ofa.run_files import check_resume, read_json, run_of
from ofa.run_folder import RunFolder
from ofa.stop import StopAgreement, StopRequest
from ofa.watch import Watch, together

LOG = logging.getLogger(__name__)

DONE, STOPPED_AND_SAVED = 0, 75
"""Exit statuses; 75 asks whoever started the run to start it again."""


class Data(Protocol):
    """What a run trains on, opened."""

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that decides what is read."""
        ...

    def check_records(self) -> None:
        """Look through all of it, once, before a run begins.

        Raises:
            ValueError: something is damaged.
        """
        ...


ConfigT = TypeVar("ConfigT", bound=TrainingConfig)
RunT = TypeVar("RunT", bound=Run)


@dataclass(frozen=True)
class Kind(Generic[ConfigT, RunT]):
    """What pre-training and fine-tuning do in their own way around the one loop."""

    check: Callable[[ConfigT, str], Data]
    """Open what a run needs; is given the config and `--resume`, and raises ValueError for what does not fit."""
    assemble: Callable[..., RunT]
    """From (config, folder, start, name=...) to the parts of the run (a collective call)."""
    finish: Callable[[RunT], RunT | None]
    """Export, score and report (a collective call); or begin the next stage, whose run it returns."""


def run_to_end(
    kind: Kind[ConfigT, RunT],
    config: ConfigT,
    run_dir: Path,
    *,
    name: str,
    resume: str = "auto",
    time_limit: float | None = None,
) -> int:
    """Do one run, from its start or from its newest checkpoint, and return the process's exit status.

    Args:
        kind: of run.
        config: what to run.
        run_dir: its folder; made if it is not there.
        name: what people call the run; stands in the exported model, so the folder's place does not show in its bytes.
        resume: `auto` continues what the folder holds; `never` refuses to; anything else is a checkpoint folder.
        time_limit: seconds from now after which the run is saved and ended.

    Raises:
        ValueError: of many kinds, each saying what is wrong with the config, the folder, the data or a model.
    """
    began, folder = time.perf_counter(), RunFolder(run_dir)
    request = StopRequest(folder.stop, time_limit)
    with together(config.engine.patience):
        start(config)
        board = open_board()
        watch = Watch(board, config.engine.patience)
    try:
        beginning = dist.on_rank_zero(lambda: _open(kind, folder, config, resume))
        if beginning.finished:
            if dist.rank() == 0:
                print(f"{folder.path}: already finished")
                show_result(folder)
            return DONE
        if dist.rank() != 0:
            start_logging(folder.log, active=False)
        run = kind.assemble(config, folder, beginning.start, name=name)
        run.began = began
        if run.start_step == run.steps_of_all_stages > 0:
            LOG.warning("nothing is left to train: the checkpoint is that of the last step; exporting it")
        if dist.rank() == 0 and not folder.has_started():
            folder.record(config, run.data_fingerprint, dist.world_size(), run.steps_of_all_stages)
        agreement, stage = StopAgreement(request, board), run
        request.install()
        while stage is not None:
            try:
                ended = train(stage, agreement)
            finally:
                stage.progress.stop()
            if not ended or stage.recipe.total_steps == stage.steps_of_all_stages:
                request.uninstall()  # nothing is left to save; between two stages it is heard, and kept for the next
            if not ended:
                request.done()
                LOG.info("stopped and saved: start the same command again to continue")
                return STOPPED_AND_SAVED
            stage = kind.finish(stage)
        return DONE
    except BaseException as error:
        LOG.debug("the run ended with an error", exc_info=True)  # for log.txt; the terminal gets its one line
        watch.failed(error)
        raise
    finally:
        watch.close()
        request.uninstall()
        stop_logging()
        folder.release()
        stop()


def train(run: Run, stop: StopAgreement) -> bool:
    """Run the loop to the end of the run's stage; False if it was asked to stop before, with its state saved."""
    step, total = run.start_step, run.recipe.total_steps
    batches = run.loader.batches(run.batch)
    while True:
        knobs = run.recipe.at(step)
        if _save_is_due(run, step):
            save(run, step)
        churn = run.pruner.before_step(knobs)
        if churn is not None:
            run.journal.masked.recount(run.pruner.keep)
        if knobs.rewind_to is not None:
            rewind(run, knobs.rewind_to)
        if run.validates_at(step):
            validate(run, knobs, churn if step == total else None)
        if step == total:
            batches.close()
            return True

        totals, terms = applied_update(run, knobs, batches)
        run.pruner.after_step(run.recipe.at(step + 1))

        if churn is not None or step % run.config.log.every == 0 or step == total - 1:
            norm, skipped = run.engine.grad_norm(), run.guard.total
            run.journal.log(
                knobs, terms, totals.counted, churn=churn, grad_norm=norm, skipped=skipped, more=run.more_for_the_line()
            )
        step += 1
        if stop.is_due(step):
            save(run, step)
            batches.close()
            return False


def applied_update(
    run: Run, knobs: Knobs, batches: Iterator[tuple[Totals, list[Any]]]
) -> tuple[Totals, dict[str, torch.Tensor]]:
    """The update knobs.step -> knobs.step + 1 on the first global batch on which it is not skipped.

    Raises:
        TooManySkips: it was, again and again.
    """
    while True:
        totals, micro_batches = next(batches)
        sums = update(run, knobs, totals, micro_batches)
        if run.engine.step_was_applied():
            run.guard.applied()
            run.loss_since_save += sums["loss"]
            return totals, sums
        run.guard.skipped(knobs.step, run.batch - 1, run.engine.grad_norm())
        run.pruner.enforce()  # where weights may return, DeepSpeed has copied dense masters over the live ones


def update(run: Run, knobs: Knobs, totals: Totals, micro_batches: list[Any]) -> dict[str, torch.Tensor]:
    """Try the update knobs.step -> knobs.step + 1; returns this rank's sums of the loss terms, still on the device."""
    sums: dict[str, torch.Tensor] = {}
    run.engine.set_lr(knobs.lr)
    numbers = micro_batch_numbers(run.config.batch, dist.rank(), dist.world_size())
    for number, batch in zip(numbers, micro_batches, strict=True):
        seed_dropout(run.config.seed, knobs.step, number)
        targets = run.teacher.targets(batch) if run.teacher else None
        loss, terms = run.engine(batch, totals, targets, run.engine.loss_scale)
        run.engine.backward(loss)
        run.engine.advance()
        for name, value in {**terms, "loss": loss.detach() / run.engine.loss_scale}.items():
            sums[name] = sums[name] + value if name in sums else value
    run.samples.append(knobs.step, run.batch, micro_batches)
    run.batch += 1
    run.journal.meter.count(totals.tokens)
    return sums


def seed_dropout(seed: int, step: int, micro_batch: int) -> None:
    """Make dropout a pure function of its place in the run, so that no random state has to be saved.

    Args:
        micro_batch: Its number in the global batch, not in the rank, so that every number of ranks draws alike.
    """
    torch.manual_seed(int(key(seed, "dropout", step, micro_batch)[0]) >> 1)


def rewind(run: Run, step: int) -> None:
    """Put every weight back to its value after `step` updates, under the masks of today; the optimizer starts anew (a
    collective call).

    Raises:
        CheckpointError: the checkpoint was damaged since the run began.
    """
    path = run.checkpoints.at(step)
    with run.journal.meter.pause():
        dist.on_rank_zero(lambda: check(path))
        run.engine.rewind(path)
        run.pruner.enforce()
    LOG.info("weights rewound to step %d", step)


def validate(run: Run, knobs: Knobs, churn: MaskChurn | None) -> None:
    """Score the student on the validation rows and write the line (a collective call).

    A refresh at the last step has no training line; its churn stands here.
    """
    step = knobs.step
    with run.journal.meter.pause():
        scores = run.scores()
        run.engine.train()
    changed = {"target_sparsity": knobs.sparsity, **asdict(churn)} if churn else {}
    run.journal.metrics.append({"step": step, **scores, **run.journal.masked.counted(), **changed})
    LOG.info("step %d: %s", step, run.in_words(scores))
    run.take_note(step, scores)


def save(run: Run, step: int) -> None:
    """Write a checkpoint with `step` updates applied (a collective call).

    Raises:
        NotFinite: a loss or the last gradient since the save before was not; that one stays the newest.
    """
    with run.journal.meter.pause():
        health = dist.sum_over_ranks({"loss": run.loss_since_save, "gradient": run.engine.grad_norm() or 0.0})
        if not all(map(math.isfinite, health.values())):
            raise NotFinite(f"not saved at step {step}: a loss or gradient was not finite; lower optimizer.lr")
        run.loss_since_save.zero_()
        run.journal.metrics.sync()
        run.samples.sync()
        state = {"step": step, **run.state_dict()}
        run.checkpoints.save(run.engine, step, state, needed=run.needed_steps())


def _save_is_due(run: Run, step: int) -> bool:
    """A run begins with its state on disk, but for a fresh one that will go back to its first weights."""
    if step == run.start_step:
        return step == run.config.rewind_target and not dist.on_rank_zero(run.checkpoints.at(step).is_dir)
    return run.saves_at(step)


@dataclass(frozen=True)
class _Beginning:
    finished: bool = False
    start: Start | None = None
    """The state to continue from; None: the run begins."""


def _open(kind: Kind[ConfigT, RunT], folder: RunFolder, config: ConfigT, resume: str) -> _Beginning:
    """Take the folder and decide where to begin; what is wrong with the inputs is said here, before anything is
    written."""
    check_resume(folder.path, resume)
    if folder.has_started():
        folder.check(config)
    if folder.is_finished():
        return _Beginning(finished=True)
    check_replaceable(folder.model, OF_A_RUN.occupied)
    start_logging(None, active=True)  # what is read may take minutes, and nothing is written before it fits
    data = kind.check(config, resume)
    if config.engine.compile:
        check_compiler(dist.device().type)
    if not folder.has_started():
        data.check_records()
    chosen = _chosen(Path(resume), config, data) if resume not in RESUME_WORDS else None
    folder.acquire()
    start_logging(folder.log, active=True)  # before warnings of damaged checkpoints
    if folder.has_started():
        folder.check(config, data.fingerprint)
    own = Checkpoints(folder.checkpoints, config.checkpoint)
    if chosen is not None and chosen.resolve().parent == own.folder.resolve():
        own.point_latest(chosen)  # so that a later `auto` continues from it, and not from what it leaves behind
    known = [path for path in (own.latest(), chosen) if path is not None]
    checkpoint = max(known, key=lambda path: path.name, default=None)  # a branch may have ended before its first save
    if checkpoint is None:
        if folder.has_started():
            LOG.warning("%s holds no checkpoint: the run begins at step 0 again", folder.path)
        return _Beginning()
    if checkpoint.parent == own.folder:
        own.set_aside(checkpoint)
    old = _rewind_checkpoint(checkpoint, config)
    if old is not None and old.resolve().parent != own.folder.resolve():
        own.take_over(old)
    return _Beginning(start=own.for_layout(checkpoint, layout(config, dist.world_size())))


def _rewind_checkpoint(continued: Path, config: TrainingConfig) -> Path | None:
    """The older checkpoint whose weights the steps after `continued`, which has been checked, go back to, found beside
    it; None if they never do.

    Raises:
        CheckpointError: it is missing or damaged, which is said now and not at the next refresh, hours later.
    """
    target = config.rewind_target
    if target is None or config.pruning is None:
        return None
    if not target < read_json(continued / INDEX)["step"] <= config.pruning.last_refresh:
        return None
    path = Checkpoints(continued.parent, config.checkpoint).at(target)
    if not path.is_dir():
        raise CheckpointError(
            f"{continued} cannot be continued without {path}, to whose weights the run goes back at every refresh: put "
            f"it back, or continue from a checkpoint of step {target} or before (--resume DIR), or start anew in "
            "another --run-dir"
        )
    check(path)
    return path


def _chosen(path: Path, config: TrainingConfig, data: Data) -> Path:
    """The checkpoint that `--resume DIR` means: a step-* folder, or a run folder's newest; held against its run."""
    newest = Checkpoints(path / "checkpoints", config.checkpoint).latest() if (path / "checkpoints").is_dir() else None
    if newest is None:
        check(path)  # `latest` has looked through what it gives
    RunFolder(run_of(path) or path).check(config, data.fingerprint, without_resume(config))
    path = newest or path
    _rewind_checkpoint(path, config)
    return path
