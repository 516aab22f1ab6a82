"""A function called in a fresh process: what it returns or raises comes back.

Threads are the whole process's, and memory counts from its start, so what depends on them is measured in one that has
done nothing else. A pool would keep its worker, and leave it behind where this process is killed.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import ParamSpec, TypeVar

from ofa.benchmark.models import BenchmarkError

Given = ParamSpec("Given")
Result = TypeVar("Result")


def in_fresh_process(function: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
    """Call a function of a module with arguments that can be pickled.

    Raises:
        BenchmarkError: the process was killed. A ValueError or OSError of the function passes through.
        RuntimeError: any other of its exceptions, with its traceback.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, given, named), daemon=True)
    process.start()
    sender.close()
    try:
        raised, value = receiver.recv()
    except EOFError:
        process.join()
        raise BenchmarkError(
            f"the process that measured has ended with status {process.exitcode}{_why(process.exitcode)}"
        ) from None
    except BaseException:
        process.terminate()
        raise
    process.join()
    if raised:
        raise value
    return value


def _call(sender: Connection, function: Callable, given: tuple, named: dict) -> None:
    try:
        answer = False, function(*given, **named)
    except (ValueError, OSError) as error:
        answer = True, error
    except Exception as error:  # others may hold what cannot be pickled, and their frames are in this process
        answer = True, RuntimeError("in the process that measured: " + "".join(traceback.format_exception(error)))
    sender.send(answer)


def _why(status: int | None) -> str:
    """What to do about it."""
    if status == -signal.SIGKILL:
        return ", most likely for want of memory: measure fewer models at once, or smaller batches"
    return ", without a word"
