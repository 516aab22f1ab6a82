"""What is said of a chain of jobs to whoever submitted it: where to see them, how to stop those of this machine, and
what is left to do."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from ofa.cluster.errors import StepFailed, StillAtWork
from ofa.cluster.submit import Link, Submitted
from ofa.cluster.verdict import STOPPED_AND_SAVED

RUNS = "runs"
"""The folder that `launch/status.py` looks into where it is told none."""


def how_to_watch(chain: Sequence[Link]) -> str:
    """The command that shows what the jobs do."""
    folders = [call.run_dir for link in chain for call in link.calls if call.run_dir]
    elsewhere = dict.fromkeys(str(folder) for folder in folders if not folder.is_relative_to(RUNS))
    return f"watch: {shlex.join(['python', 'launch/status.py', *([RUNS, *elsewhere] if elsewhere else []), '--watch'])}"


def how_a_chain_goes_on(chain: Sequence[Link]) -> str:
    """Who keeps a chain of this machine going."""
    return f"{len(chain)} steps, each after the success of the one before: this command waits; Ctrl-C leaves jobs alone"


def how_to_stop(jobs: Sequence[Submitted]) -> str:
    """The command that ends jobs of this machine."""
    saves = any(one.call.saves for one in jobs)
    return f"stop: kill {' '.join(one.job for one in jobs)}{' (it saves first)' if saves else ''}"


def after_failure(failed: StepFailed, chain: Sequence[Link], command: Callable[[int], str]) -> str:
    """Why a chain of this machine has ended, and what is left of it.

    Args:
        failed: its step.
        chain: in order.
        command: gives that which begins with a step.
    """
    left = _names(chain[failed.step + 1 :])
    then = "go on with" if failed.status == STOPPED_AND_SAVED else "mend that, then go on with"
    return f"{failed}; not begun: {left}; {then}: {command(failed.step)}" if left else str(failed)


def after_ctrl_c(left: StillAtWork[Submitted], chain: Sequence[Link], command: Callable[[int], str]) -> str:
    """What goes on, and what does not; arguments as those of `after_failure`."""
    numbers = ", ".join(one.job for one in left.jobs)
    goes_on = f"job{'s' * (len(left.jobs) > 1)} {numbers} go{'es' * (len(left.jobs) == 1)} on"
    parts = [f"no longer following: {goes_on}", how_to_watch(chain), how_to_stop(left.jobs)] if left.jobs else []
    later = not_begun(left, chain)
    parts += [f"not begun: {later}", f"once that is done, go on with: {command(left.step)}"] if later else []
    return "; ".join(parts) or "interrupted"


def not_begun(left: StillAtWork[Submitted], chain: Sequence[Link]) -> str:
    """Names of the jobs that Ctrl-C has left out; empty: none."""
    calls = chain[left.step].calls
    of_step = [call.name for call in calls[len(calls) - left.not_begun :]]
    return ", ".join([*of_step, *filter(None, [_names(chain[left.step + 1 :])])])


def _names(chain: Sequence[Link]) -> str:
    return ", ".join(call.name for link in chain for call in link.calls)
