"""Entry scripts run in this process, as quickly as hundreds of wrong commands need, and what they leave on disk.

The file is executed as `__main__` with the arguments of a command line; what differs from a process of its own is that
modules stay imported. `tests.processes` starts real ones.
"""

import contextlib
import hashlib
import io
import json
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

from tests.processes import CHECKOUT


class Answer(NamedTuple):
    """What a command said."""

    status: object
    out: str
    err: str

    def lines_of_error(self):
        """The lines that begin with `error:`."""
        return [line for line in self.err.splitlines() if line.startswith("error:")]


def command(script, *arguments, cwd):
    """Run `launch/<script>` from `cwd`; an error that escapes it is a traceback in `err` and no status."""
    path = CHECKOUT / "launch" / script
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv, Path.cwd(), list(sys.path)
    try:
        os.chdir(cwd)
        sys.argv = [str(path), *map(str, arguments)]
        sys.path.insert(0, str(path.parent))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = _run(path)
    finally:
        sys.argv, sys.path = before[0], before[2]
        os.chdir(before[1])
    return Answer(status, out.getvalue(), err.getvalue())


def _run(path):
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as exit_:
        return exit_.code
    except BaseException:
        traceback.print_exc()
        return None
    return 0


def tree(folder, without=("log.txt",)):
    """Every name below a folder with the sum of its bytes; `log.txt` may tell of an attempt."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(Path(folder).rglob("*"))
        if path.name not in without
    }


def refused(project, *arguments, words, script_name="pretrain.py", status=1):
    """Run a command that must be refused: its status, one clear line with `words`, no traceback, no trace."""
    before = tree(project)
    answer = command(script_name, *arguments, cwd=project)
    assert answer.status == status, answer
    assert "Traceback" not in answer.err, answer.err
    errors = answer.lines_of_error()
    assert len(errors) == 1, answer.err
    missing = [word for word in words if word not in errors[0]]
    assert not missing, f"{missing} not in: {errors[0]}"
    assert tree(project) == before
    return errors[0]


def overrides(*pairs):
    """`--set` for each."""
    return [part for pair in pairs for part in ("--set", pair)]


def edit(path, change):
    """Change a JSON file in place."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def flip(path, place=-3000):
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
