"""What is said of a preparation whose output goes to a file."""

import re
import time

from data_prep.progress import progress_lines, visible_progress


def lines(capsys):
    """What was said, without the seconds."""
    said = capsys.readouterr().err.splitlines()
    assert all(re.fullmatch(r".*, \d+ s", line) for line in said)
    return [line.rpartition(",")[0] for line in said]


def test_a_step_says_where_it_begins_and_ends(capsys):
    with visible_progress() as progress:
        for done in range(101):
            progress("extract", done, 100)
        progress("duplicates, near", 0, 17)
        progress("tokenizer", 0, 1)
    extracted = ["1 of 4, extract: 0 of 100", "1 of 4, extract: 100 of 100"]
    assert lines(capsys) == [*extracted, "2 of 4, duplicates, near: 0 of 17", "3 of 4, tokenizer: 0 of 1"]


def test_a_part_that_takes_long_says_so_now_and_then(capsys):
    with progress_lines(seconds=0.01) as progress:
        progress("extract", 0, 5)
        progress("extract", 3, 5)
        time.sleep(0.2)
    first, *others = lines(capsys)
    assert first == "1 of 4, extract: 0 of 5" and len(others) > 2 and set(others) == {"1 of 4, extract: 3 of 5"}
    time.sleep(0.05)
    assert lines(capsys) == []
