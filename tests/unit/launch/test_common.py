"""What all entry scripts share: they start from anywhere, answer at once, and fail in one line."""

import os
import subprocess
import sys

import pytest

from ofa.config import CHECKOUT

SCRIPT = """
import sys
sys.path.insert(0, {launch!r})
import common

def main():
    {body}

common.main_wrapper(main)
"""


def run(body, tmp_path, **environment):
    """Run a script with this main in another directory."""
    code = SCRIPT.format(launch=str(CHECKOUT / "launch"), body=body)
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=env)


def test_what_a_user_can_fix_is_one_line_and_status_1(tmp_path):
    done = run("import ofa.config; ofa.config.find('no_such.json')", tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: config no_such.json not found")


def test_the_traceback_is_shown_on_request(tmp_path):
    done = run("open('nowhere')", tmp_path, OFA_TRACEBACK="1")
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_our_own_mistakes_keep_their_traceback(tmp_path):
    done = run("assert False, 'ours'", tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr and "AssertionError: ours" in done.stderr


@pytest.mark.parametrize(("body", "status"), [("return None", 0), ("return 75", 75)])
def test_the_status_of_main_is_the_exit_status(tmp_path, body, status):
    assert run(body, tmp_path).returncode == status


def test_common_arguments_are_understood(tmp_path):
    parse = "common.run_arguments().parse_args(['--config', 'a.json', '--set', 'a.b=1', '--set', 'c.d=2', {more}])"
    shown = "print(a.config, a.overrides, a.run_dir, a.resume)"
    done = run(f"a = {parse.format(more=repr('--local_rank=3'))}; {shown}", tmp_path)
    assert done.stdout.strip() == "a.json ['a.b=1', 'c.d=2'] None auto", done.stderr


@pytest.mark.parametrize("script", ["verify.py", "report.py"])
def test_help_is_answered_without_loading_torch(tmp_path, script):
    command = [sys.executable, "-X", "importtime", str(CHECKOUT / "launch" / script), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "DIR" in done.stdout
    assert "torch" not in done.stderr and "transformers" not in done.stderr


TIMES = {"90": 90, "90s": 90, "90m": 5400, "1h30m": 5400, "1d2h": 93600}
CLOCKS = {"02:30": 150, "01:00:00": 3600, "1-00:00:00": 86400}


@pytest.mark.parametrize(("text", "seconds"), [*TIMES.items(), *CLOCKS.items()])
def test_a_duration_is_read_as_people_and_slurm_write_it(tmp_path, text, seconds):
    assert run(f"print(common.duration({text!r}))", tmp_path).stdout == f"{float(seconds)}\n"


@pytest.mark.parametrize("text", ["", "0", "h", "soon", "1.5h", "-3", "1:2:3:4"])
def test_what_is_no_duration_is_refused(tmp_path, text):
    done = run(f"common.duration({text!r})", tmp_path)
    assert "expected a time above 0 such as" in done.stderr


def test_options_of_a_task_are_declared_once_and_named_as_they_are_typed(tmp_path):
    body = """import argparse
    parser = argparse.ArgumentParser()
    common.task_arguments(parser.add_argument_group("task"))
    for given in ([], ["--set", "task.stride=2"]):
        print(common.foreign_option(parser.parse_args(given), ("task", "path", "overrides")))"""
    assert run(body, tmp_path).stdout.split() == ["None", "--set"]
