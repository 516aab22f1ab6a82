"""The order in which cells are started, and what becomes of those that fail, stop or are not started; each cell is a
small process that does what its name says."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from ofa.slurm.commands import SlurmError
from ofa.slurm.errors import SubmitError
from ofa.sweep import run
from ofa.sweep.output import open_output, output_path, why_it_failed
from ofa.sweep.run import Sweep

CODE = """
import pathlib, signal, sys, time
folder, stop = pathlib.Path(sys.argv[1]), []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
    signal.signal(number, lambda number, _: stop.append(number))
(folder / "ready").touch()
if "bad" in folder.name:
    print("Traceback"); sys.exit("error: nothing there")
if "killed" in folder.name:
    signal.raise_signal(signal.SIGKILL)
while "long" in folder.name and not stop:
    time.sleep(0.01)
if stop:
    (folder / "saved").write_text(str(stop[0])); sys.exit(75)
if "empty" not in folder.name:
    (folder / "result.json").write_text("{}")
"""


class Process:
    """One of the small processes."""

    def __init__(self, cell):
        with open_output(cell) as out:
            command = [sys.executable, "-c", CODE, str(cell.folder.path)]
            self.process = subprocess.Popen(command, stdout=out, stderr=out)
        self.output = output_path(cell)
        self.poll, self.stop = self.process.poll, self.process.send_signal
        self.why = partial(why_it_failed, self.output)


class Starter:
    """Starts them, and takes notes."""

    def __init__(self, workers):
        self.workers = workers
        self.order, self.together = [], 0

    def start(self, cell, config, more, running):
        """Start one."""
        self.order.append(cell.name)
        self.together = max(self.together, len(running) + 1)
        assert all(other.is_file() for other in self.needed(cell))
        return Process(cell)

    @staticmethod
    def look_after(cell):
        """Nothing that others run."""

    @staticmethod
    def needed(cell):
        """Results that must be there."""
        return [cell.folder.path.parent / name / "result.json" for name in cell.needs]


def do(cells, workers=1, seen=None, starter=None):
    """Run cells; the starter and the outcome."""
    starter = starter or Starter(workers)
    after = (lambda outcome: seen.append((len(outcome.done), len(outcome.failed)))) if seen is not None else print
    return starter, Sweep(list(cells.values()), dict.fromkeys(cells), starter, after=after).run()


def of(planned, *names, **needs):
    """Cells of these names."""
    return planned(cells=[{"name": name, "needs": needs.get(name, [])} for name in names])


def test_one_after_the_other_in_order(planned):
    seen = []
    starter, outcome = do(of(planned, "a", "b", "c"), seen=seen)
    assert (starter.order, starter.together, outcome.status()) == (["a", "b", "c"], 1, 0)
    assert seen == [(1, 0), (2, 0), (3, 0)]


@pytest.mark.parametrize("workers", [2, 3])
def test_side_by_side_but_not_more_than_there_are_workers(planned, workers):
    starter, outcome = do(of(planned, "a", "b", "c", "d", "e"), workers)
    assert starter.together == workers and sorted(outcome.done) == list("abcde")


def test_what_is_needed_is_done_first_however_many_workers_there_are(planned):
    starter, outcome = do(of(planned, "c", "b", "a", c=["b"], b=["a"]), workers=3)
    assert starter.order == ["a", "b", "c"] and starter.together == 1


def test_a_failed_cell_says_why_and_the_others_go_on_but_those_that_need_it(planned, capsys):
    starter, outcome = do(of(planned, "bad", "next", "killed", "empty", "fine", next=["bad"]))
    assert starter.order == ["bad", "killed", "empty", "fine"] and outcome.done == ["fine"]
    assert outcome.failed == {
        "bad": "status 1: nothing there",
        "next": "not started: it needs bad, which failed",
        "killed": "ended by SIGKILL",
        "empty": "it ended well without a result.json",
    }
    assert outcome.status() == 1
    said = capsys.readouterr().out
    assert "[1/5] bad: failed: status 1: nothing there" in said
    (started,) = [line for line in said.splitlines() if line.startswith("[0/5] bad: started")]
    output = Path(started.rpartition(" ")[2])
    assert output.read_text().endswith("error: nothing there\n"), "where a cell can be followed"


def test_what_is_done_is_not_started_and_what_failed_is_started_again(planned):
    cells = of(planned, "a", "bad")
    do(cells)
    starter, outcome = do(cells)
    assert starter.order == ["bad"] and outcome.done == ["a"] and outcome.status() == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_reaches_the_running_cells_and_the_sweep_waits_for_them(planned, number):
    cells = of(planned, "a", "long1", "long2", "z", "after", after=["long1"])
    ready = [cells[name].folder.path / "ready" for name in ("long1", "long2")]

    def ask():
        while not all(path.exists() for path in ready):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    threading.Thread(target=ask).start()
    starter, outcome = do(cells, workers=2)
    assert starter.order == ["a", "long1", "long2"]
    assert outcome.done == ["a"] and sorted(outcome.stopped) == ["after", "long1", "long2", "z"]
    assert outcome.status() == 75 and not outcome.failed
    assert [(path.parent / "saved").read_text() for path in ready] == [str(int(number))] * 2
    assert signal.getsignal(number) is before


def test_a_stop_file_in_its_folder_stops_the_sweep_as_a_signal_does_and_is_taken_away(planned, capsys):
    cells = of(planned, "a", "long", "z")
    stop, ready = cells["a"].folder.path.parent / "stop", cells["long"].folder.path / "ready"

    def ask():
        while not ready.exists():
            time.sleep(0.01)
        stop.touch()

    thread = threading.Thread(target=ask)
    thread.start()
    outcome = Sweep(list(cells.values()), dict.fromkeys(cells), Starter(1), after=print, stop=stop).run()
    thread.join()
    assert (outcome.done, sorted(outcome.stopped), outcome.status()) == (["a"], ["long", "z"], 75)
    assert not stop.exists() and f"the file {stop}: waiting for 1 cells to save" in capsys.readouterr().out
    assert (ready.parent / "saved").read_text() == str(int(signal.SIGTERM))


class Refusing(Starter):
    """Takes one at a time, as a queue that is full."""

    most = 1

    def start(self, cell, config, more, running):
        """Start one, or refuse."""
        if len(running) >= self.most:
            raise SubmitError("sbatch says: QOSMaxSubmitJobPerUserLimit")
        return super().start(cell, config, more, running)


def test_what_a_full_queue_does_not_take_is_offered_again_while_others_run(planned, monkeypatch, capsys):
    monkeypatch.setattr(run, "BETWEEN_TRIES", 0.1)
    cells, starter = of(planned, "a", "b"), Refusing(2)
    outcome = Sweep(list(cells.values()), dict.fromkeys(cells), starter, after=print).run()
    assert (starter.order, outcome.done, outcome.status()) == (["a", "b"], ["a", "b"], 0)
    assert "b: not submitted yet: sbatch says: QOSMax" in capsys.readouterr().out


class Silent(Starter):
    """Does not answer a number of times, whether something runs or not."""

    times = 3

    def start(self, cell, config, more, running):
        """Start one, or say that nobody answers."""
        self.times -= 1
        if self.times >= 0:
            raise SlurmError("squeue says: Unable to contact slurm controller")
        return super().start(cell, config, more, running)


def test_a_controller_that_does_not_answer_is_asked_again_and_named_once(planned, monkeypatch, capsys):
    monkeypatch.setattr(run, "BETWEEN_TRIES", 0.1)
    starter, outcome = do(of(planned, "a", "b"), starter=Silent(1))
    assert (starter.order, outcome.status()) == (["a", "b"], 0)
    assert capsys.readouterr().out.count("Unable to contact") == 1


def test_where_nothing_runs_and_each_offer_is_refused_the_sweep_ends_at_last(planned, monkeypatch):
    monkeypatch.setattr(run, "BETWEEN_TRIES", 0.05)
    monkeypatch.setattr(run, "LONGEST_REFUSAL", 0.3)
    starter = Refusing(1)
    starter.most = 0
    with pytest.raises(SubmitError, match="QOSMax"):
        do(of(planned, "a"), starter=starter)


class Deaf(Process):
    """Cannot be asked to stop: nobody answers."""

    def __init__(self, cell):
        super().__init__(cell)
        self.stop = self.refuse

    def refuse(self, number):
        """End it all the same, so that the test ends."""
        self.process.send_signal(number)
        raise SlurmError("scancel did not answer")


class StartsDeaf(Starter):
    """Starts those, where a name says so."""

    def start(self, cell, config, more, running):
        """Start one."""
        return Deaf(cell) if "deaf" in cell.name else super().start(cell, config, more, running)


@pytest.mark.parametrize("by", ["signal", "error"])
def test_one_that_cannot_be_asked_to_stop_keeps_no_other_from_it(planned, by, capsys):
    cells = of(planned, "long_deaf", "long_b", "a")
    ready = [cells[name].folder.path for name in ("long_deaf", "long_b")]

    def after(outcome):
        while not all((path / "ready").exists() for path in ready):
            time.sleep(0.01)
        if by == "error":
            raise OSError("no space left")
        if not outcome.stopped:
            os.kill(os.getpid(), signal.SIGTERM)

    sweep = Sweep(list(cells.values()), dict.fromkeys(cells), StartsDeaf(3), after=after)
    with contextlib.suppress(OSError):
        assert sorted(sweep.run().stopped) == ["long_b", "long_deaf"]
    until = time.monotonic() + 10
    while not all((path / "saved").exists() for path in ready):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert "long_deaf: not asked to stop: scancel did not answer" in capsys.readouterr().out


HOLD = """
import pathlib, sys, time
from ofa.run_folder import RunFolder
folder = RunFolder(pathlib.Path(sys.argv[1]))
folder.acquire()
folder.config.write_text("{}")
print("held", flush=True)
sys.stdin.read()
folder.result.write_text("{}")
"""


def test_a_cell_that_another_process_runs_is_waited_for(planned, capsys):
    """A sweep was killed and its cell lives on: a second process in the folder would be refused."""
    cells = of(planned, "a", "b")
    command = [sys.executable, "-c", HOLD, str(cells["a"].folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        threading.Timer(1.0, other.stdin.close).start()
        starter, outcome = do(cells)
    assert starter.order == ["b"] and sorted(outcome.done) == ["a", "b"]
    assert capsys.readouterr().out.count("another process is running it") == 1


def test_an_error_of_the_sweep_itself_leaves_no_run_behind(planned):
    """Such as a full disk where the table is written."""
    cells = of(planned, "long", "a")

    def fail(outcome):
        raise OSError("no space left")

    starter = Starter(2)
    with pytest.raises(OSError, match="no space left"):
        Sweep(list(cells.values()), dict.fromkeys(cells), starter, after=fail).run()
    saved, began = cells["long"].folder.path / "saved", time.monotonic()
    while not saved.exists():
        assert time.monotonic() - began < 10, "it runs on"
        time.sleep(0.01)
