"""What has cut a chain of this machine off."""

from __future__ import annotations

from typing import Generic, TypeVar

from ofa.slurm.errors import SubmitError

JobT = TypeVar("JobT")


class StepFailed(SubmitError):
    """A step of a chain of this machine that has not done its work; those after it are not begun."""

    def __init__(self, words: str, step: int, status: int, *, was_said: bool = False):
        """
        Args:
            words: which job, and why.
            step: its number in the chain, from 0.
            status: exit status of the job's run, above 0.
            was_said: why stands in this terminal already.
        """
        super().__init__(words)
        self.step = step
        self.status = status
        self.was_said = was_said


class StillAtWork(KeyboardInterrupt, Generic[JobT]):
    """Ctrl-C while jobs of this machine were waited for, which go on."""

    def __init__(self, step: int, jobs: list[JobT], not_begun: int):
        """
        Args:
            step: of the chain, from 0.
            jobs: that go on.
            not_begun: how many more the step was to have.
        """
        super().__init__()
        self.step = step
        self.jobs = jobs
        self.not_begun = not_begun
