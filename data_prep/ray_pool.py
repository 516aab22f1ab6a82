"""The work done as tasks of Ray: of the cluster that RAY_ADDRESS names, whose nodes share the disk; else of this
machine.

Near duplicates go the same way: datatrove's own executor for Ray would start a pool of processes in each task, and says
of one that failed only that not all were completed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from data_prep.documents import DataPrepError
from data_prep.workers import STOPS, ResultT
from ofa.slurm.environment import python_path


class RayPool:
    """As `data_prep.workers.Workers`: `with RayPool(...) as pool: for result in pool.map(function, arguments): ...`"""

    def __init__(self, at_a_time: int):
        """
        Args:
            at_a_time: Tasks that run side by side, of one core each.

        Raises:
            DataPrepError: Ray is not installed, or its cluster does not answer.
        """
        try:
            import ray  # pyright: ignore[reportMissingImports], installed where it is wanted
        except ImportError:
            raise DataPrepError("--cluster ray needs Ray on all nodes: pip install 'sparse-ofa[ray]'") from None
        self._ray, self._at_a_time = ray, at_a_time
        one_thread = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": python_path()}
        address = os.environ.get("RAY_ADDRESS")
        where = {"address": address} if address else {"address": "local", "num_cpus": at_a_time}
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            with _own_handlers():
                ray.init(runtime_env={"env_vars": one_thread}, include_dashboard=False, **quiet, **where)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise DataPrepError(f"--cluster ray: {' '.join(str(error).split())}") from None

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()  # which ends the tasks of this run, also in a cluster

    def map(self, function: Callable[..., ResultT], arguments: Iterable[tuple[Any, ...]]) -> Iterator[ResultT]:
        """Call `function` with each tuple of arguments; results come in order.

        Raises:
            DataPrepError: a task failed, in the words of its error, or its process was killed.
        """
        task = self._ray.remote(function).options(num_cpus=1, max_retries=2)
        ordered: list[Any] = []
        at_work: list[Any] = []
        for one in arguments:
            if len(at_work) == self._at_a_time:
                _, at_work = self._ray.wait(at_work)
            ordered.append(task.remote(*one))
            at_work.append(ordered[-1])
            while ordered[0] not in at_work:
                yield self._result(ordered.pop(0))
        for one in ordered:
            yield self._result(one)

    def _result(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, (DataPrepError, OSError)):
                raise cause from None
            raise DataPrepError(f"a task of Ray failed: {cause!r}; run again: finished parts are kept") from None
        except self._ray.exceptions.RayError as error:
            said = " ".join(str(error).split())
            raise DataPrepError(f"a task of Ray failed: {said}; run again: finished parts are kept") from None


@contextlib.contextmanager
def _own_handlers() -> Iterator[None]:
    """Ray puts a handler of its own in place of that by which the main process stops."""
    before = {one: signal.getsignal(one) for one in STOPS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for one, handler in before.items():
                signal.signal(one, handler)
