"""A pool of worker processes that do units of work; results come in the order of the units.

Workers are spawned, single-threaded (`RAYON_NUM_THREADS=1`), ignore the signals that stop it, and end when the main
process does, however that ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import Any, TypeVar

from data_prep.documents import DataPrepError

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""Signals by which people and schedulers ask to stop, and the end of a session."""

OF_A_TERMINAL = (signal.SIGINT, signal.SIGHUP)
"""Those of them that Ctrl-C and a closed window send to all that was started there."""

ResultT = TypeVar("ResultT")


class Workers:
    """`with Workers(n) as workers: for result in workers.map(function, arguments): ...`"""

    def __init__(self, count: int):
        context = multiprocessing.get_context("spawn")
        with stops_wait():
            resource_tracker.ensure_running()  # which unblocks signals in this process as it starts its own
        self._others = set(multiprocessing.active_children())
        self._pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start)
        self._ahead = 2 * count

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:  # what a worker is at now is not needed, and may take a minute
            for process in set(multiprocessing.active_children()) - self._others:
                process.kill()  # SIGTERM is ignored there
        self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[..., ResultT], arguments: Iterable[tuple[Any, ...]]) -> Iterator[ResultT]:
        """Call `function` with each tuple of arguments; few calls are queued ahead, so that memory stays small.

        Raises:
            DataPrepError: a worker was killed. Its own errors pass through.
        """
        pending: list[Future[ResultT]] = []
        try:
            for one in arguments:
                with stops_wait():
                    pending.append(self._pool.submit(function, *one))
                if len(pending) > self._ahead:
                    yield pending.pop(0).result()
            while pending:
                yield pending.pop(0).result()
        except BrokenProcessPool:
            raise DataPrepError(
                "a worker process was killed, most likely for want of memory: use fewer --workers or a smaller "
                "shard_characters, and run again; finished parts are kept"
            ) from None


@contextlib.contextmanager
def stops_wait(signals: Sequence[signal.Signals] = STOPS) -> Iterator[None]:
    """Processes that are started meanwhile hear nothing of these signals, which go to all of a group and would end what
    does not ignore them yet; in this one they come when it is over."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start() -> None:
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for number in STOPS:  # a terminal, or a scheduler, sends them to all of a job
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
