"""submitit's local jobs, each in a session of its own: what happens to the terminal in which one was submitted (Ctrl-C,
Ctrl-Z, its end) is no signal to the job.

submitit starts them in the caller's process group, where Ctrl-C reaches the controller of a job, which gives the run a
second to end and then kills it; there is no option for another group, so the process is started here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import submitit
from submitit.local.local import LocalJob

from ofa.cluster.shares import on_cores


class LocalExecutor(submitit.LocalExecutor):
    """As submitit's. SIGTERM to the process of a job, whose number is the job's, reaches all its tasks."""

    def __init__(self, folder: Path, variables: Mapping[str, str], cores: Collection[int]):
        """
        Args:
            folder: of submitit's files.
            variables: of the environment, which its jobs have besides this process's.
            cores: their numbers, on which its jobs run.
        """
        super().__init__(folder)
        self._variables, self._cores = variables, cores

    def _submit_command(self, command: str) -> LocalJob[Any]:
        """As `submitit.local.local.start_controller`, but for the session and what was open in the terminal: a pipe
        behind `submit.py` would else not end before the job does."""
        asked = self.parameters
        tasks = asked.get("tasks_per_node", 1)
        own = {
            "SUBMITIT_LOCAL_NTASKS": str(tasks),
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_TIMEOUT_S": str(int(60 * asked["timeout_min"])),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": str(int(asked["signal_delay_s"])),
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_STDERR_TO_STDOUT": "1" if asked.get("stderr_to_stdout") else "",
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
        }
        with on_cores(self._cores):
            process = subprocess.Popen(
                [sys.executable, "-m", "submitit.local._local", str(self.folder)],
                env={**os.environ, **self._variables, **own},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return LocalJob(self.folder, str(process.pid), tasks=list(range(tasks)), process=process)
