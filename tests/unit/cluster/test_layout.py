"""The table of runs in terminals of several widths."""

import os
import pty
import re
import struct
import sys
from fcntl import ioctl
from subprocess import Popen
from termios import TIOCSWINSZ

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from ofa.cluster.layout import ELLIPSIS, ERROR_LINES, fitted, shortened
from ofa.cluster.show import HEADINGS
from tests.processes import CHECKOUT, environment

LONG = "runs/finetune/mnli-model.init=runs_ofa_90_model-optimizer.lr=3e-05-seed=17"
ERROR = "rank 1 of 8 on node17 is gone: its last word was CUDA out of memory, and then the log ends"
NUMBERS = ["3", "50/12,000", "24.5%", "2.510", "1,000", "3d 05h"]

texts = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z", "M")), min_size=1, max_size=90)
word = st.from_regex(r"[!-~]{1,90}|[\u4e00-\u4eff\uac00-\uacff!-~]{1,60}", fullmatch=True)
words = st.lists(word, max_size=12).map(" ".join)


@given(st.lists(st.tuples(texts, st.sampled_from(["running", "requeued: BeginTime"]), words)), st.integers(72, 250))
def test_no_line_is_wider_than_the_terminal_and_no_number_is_lost(rows, width):
    cells = [[name, state, *NUMBERS, error] for name, state, error in rows]
    lines, is_whole = fitted(HEADINGS, cells, ["red"] * len(rows), width)
    narrow = [line.plain for line in lines]
    assert max(map(cell_len, narrow)) <= width
    assert sum(all(number in line for number in NUMBERS) for line in narrow) == len(rows)
    said = "".join(narrow).replace(" ", "")
    lost = [cell for row in cells for cell in row if cell.replace(" ", "") not in said]
    assert not (lost and is_whole), lost


@given(texts, st.integers(8, 60))
def test_a_text_that_is_too_long_keeps_both_ends(text, width):
    short = shortened(text, width)
    assert cell_len(short) <= max(width, min(cell_len(text), width))
    if cell_len(text) > width:
        start, end = short.split(ELLIPSIS, 1)
        assert text.startswith(start.rstrip()) and text.endswith(end.lstrip())
    else:
        assert short == text


def test_what_is_no_terminal_gets_a_row_a_line():
    cells = [[LONG, "failed", *NUMBERS, ERROR * 20], ["runs/a", "running", *NUMBERS, ""]]
    lines, is_whole = fitted(HEADINGS, cells, ["", ""], None)
    assert is_whole and len(lines) == 3 and lines[1].plain.endswith(ERROR)
    assert lines[1].plain.index("24.5%") == lines[2].plain.index("24.5%")


def on_a_terminal(width, *arguments, cwd):
    """What launch/status.py writes to one."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    command = [sys.executable, str(CHECKOUT / "launch" / "status.py"), *arguments]
    own = {name: value for name, value in environment(TERM="xterm").items() if name not in ("COLUMNS", "LINES")}
    with Popen(command, stdin=theirs, stdout=theirs, cwd=cwd, env=own):
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # how Linux says that the other end is closed
                break
            written += part
    os.close(ours)
    return [line for line in re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written.decode()).splitlines() if "\x1b" not in line]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_table_fits_the_terminal(make, tmp_path, width):
    make(LONG.removeprefix("runs/")).begun(12000).trained(50).write("output.txt", f"error: {ERROR * 9}\n")
    make("a").begun().trained(100).finished().given_back()
    lines = on_a_terminal(width, cwd=tmp_path)
    assert max(map(len, lines)) <= width and min(map(len, filter(None, lines))) > 2
    row = next(number for number, line in enumerate(lines) if "50/12,000" in line)
    begin = row - 1 if width == 80 else row
    assert lines[begin].startswith("runs/finetune/mnli") and "seed=17" in lines[begin]
    below = lines[row + 1 : row + 1 + ERROR_LINES]
    assert all(line.startswith("    ") for line in below) and below[-1].endswith(ELLIPSIS)
    assert any("--json" in line for line in lines)
    assert not any("--json" in line for line in on_a_terminal(width, "runs/a", cwd=tmp_path))
