"""Work done ahead of its consumer: by threads on the CPU, and by a side stream on the way to a GPU.

In: a pure function of an index, or a generator. Out: the same values in the same order, only earlier. Threads rather
than processes: numpy releases the interpreter where it counts, tensors need no copy between processes, and there is
nothing to fork after CUDA has started.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import TypeVar

import torch

from ofa.data.tensors import Tensors

T = TypeVar("T")
C = TypeVar("C")
B = TypeVar("B", bound=Tensors)


def prepare_ahead(make: Callable[[int], T], indices: Iterable[int], workers: int) -> Generator[T]:
    """`make(index)` for each index, in order; `workers` threads are at most workers + 1 results ahead.

    0 workers: made when asked for. An exception of `make` is raised at its place in the sequence. Closing the iterator
    drops what has not begun and waits for what has.
    """
    if workers == 0:
        yield from map(make, indices)
        return
    remaining = iter(indices)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="loader")
    try:
        waiting: deque[Future[T]] = deque(pool.submit(make, index) for index in islice(remaining, workers + 1))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(make, index) for index in islice(remaining, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def step_batches(
    make: Callable[[int], tuple[C, list[B]]], steps: Iterable[int], workers: int, device: torch.device
) -> Generator[tuple[C, list[B]]]:
    """`make(step)` for each step: counts of its global batch, and this rank's micro-batches; prepared ahead by
    `workers` threads, and on a CUDA device copied there one step ahead."""
    if device.type != "cuda":
        return prepare_ahead(make, steps, workers)

    def pinned(step: int) -> tuple[C, list[B]]:
        totals, batches = make(step)
        return totals, [batch.pin() for batch in batches]

    return copy_ahead(prepare_ahead(pinned, steps, workers), device)


def copy_ahead(steps: Generator[tuple[C, list[B]]], device: torch.device) -> Generator[tuple[C, list[B]]]:
    """Each step's pinned micro-batches on a CUDA device, copied on a side stream while the step before is computed."""
    stream = torch.cuda.Stream(device)
    before: tuple[tuple[C, list[B]], torch.cuda.Event] | None = None
    with closing(steps):
        for totals, batches in steps:
            with torch.cuda.stream(stream):
                copied = totals, [batch.to(device) for batch in batches]
                event = torch.cuda.Event()
                event.record(stream)
            if before is not None:
                yield _arrived(*before, device)
            before = copied, event
        if before is not None:
            yield _arrived(*before, device)


def _arrived(step: tuple[C, list[B]], event: torch.cuda.Event, device: torch.device) -> tuple[C, list[B]]:
    """Let the current stream wait for the copy, and keep the memory until that stream is done with it."""
    current = torch.cuda.current_stream(device)
    current.wait_event(event)
    for batch in step[1]:
        for tensor in batch.tensors():
            tensor.record_stream(current)
    return step
