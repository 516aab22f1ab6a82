"""Start-up of a process."""

import os

import pytest

from ofa.engine.process import own_threads

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("said", "here", "threads"),
    [
        ("3", "1", 3),
        ("5,2", "1", 5),
        (None, "1", CORES),
        ("", "1", CORES),
        ("0", "1", CORES),
        ("3", "2", max(1, CORES // 2)),  # torchrun says 1 of itself where it starts several
        ("1", "64", max(1, CORES // 64)),
    ],
)
def test_a_process_alone_has_the_threads_that_the_environment_says(monkeypatch, said, here, threads):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    if said is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert own_threads() == threads


@pytest.mark.parametrize(
    ("told", "threads"),
    [
        ({"SLURM_CPUS_PER_TASK": "1", "SLURM_CPUS_ON_NODE": str(4 * CORES)}, 1),
        ({"SLURM_CPUS_PER_TASK": str(4 * CORES)}, CORES),
        ({"SLURM_CPUS_ON_NODE": str(2 * CORES)}, CORES),  # bound to its part of the job's cores
        ({"SLURM_CPUS_ON_NODE": str(CORES)}, max(1, CORES // 2)),  # all tasks see all cores of the job
        ({}, max(1, CORES // 2)),
    ],
)
def test_a_task_of_slurm_has_the_cores_that_slurm_gave_it_and_no_share_of_them(monkeypatch, told, threads):
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4", "SLURM_STEP_NUM_TASKS": "4", **told}.items():
        monkeypatch.setenv(name, value)
    assert own_threads() == threads


def test_processes_that_a_launcher_starts_inside_of_one_task_share_its_cores(monkeypatch):
    told = {"SLURM_STEP_NUM_TASKS": "1", "SLURM_CPUS_PER_TASK": str(CORES), "SLURM_CPUS_ON_NODE": str(CORES)}
    for name, value in {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2", **told}.items():
        monkeypatch.setenv(name, value)
    assert own_threads() == max(1, CORES // 2)
