"""The work done as tasks of Ray: of the cluster that RAY_ADDRESS names, whose nodes share the disk; else of this
machine.

Near duplicates go the same way: datatrove's own executor for Ray would start a pool of processes in each task, and says
of one that failed only that not all were completed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from data_prep.documents import DataPrepError
from data_prep.workers import ResultT
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
        here = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": at_a_time, "include_dashboard": False}
        try:
            ray.init(runtime_env={"env_vars": one_thread}, log_to_driver=False, logging_level="ERROR", **here)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise DataPrepError(f"--cluster ray: {' '.join(str(error).split())}") from None

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()  # which ends the tasks of this run, also in a cluster

    def map(self, function: Callable[..., ResultT], arguments: Iterable[tuple[Any, ...]]) -> Iterator[ResultT]:
        """Call `function` with each tuple of arguments; results come in order, few calls wait ahead.

        Raises:
            DataPrepError: a task failed, in the words of its error, or its process was killed.
        """
        task = self._ray.remote(function).options(num_cpus=1, max_retries=2)
        pending: list[Any] = []
        for one in arguments:
            pending.append(task.remote(*one))
            if len(pending) > 2 * self._at_a_time:
                yield self._result(pending.pop(0))
        while pending:
            yield self._result(pending.pop(0))

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
