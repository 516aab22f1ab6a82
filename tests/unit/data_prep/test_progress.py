"""What is said of a preparation whose output goes to a file."""

import re
import time

from data_prep.done import Count, leaves
from data_prep.progress import Pace, progress_lines, visible_progress


def lines(capsys):
    """What was said, without the seconds."""
    said = [re.fullmatch(r"(.*), \d+ s(, \d+:\d\d:\d\d left)?", line) for line in capsys.readouterr().err.splitlines()]
    return [line[1] if line else "another form" for line in said]


def test_a_step_says_where_it_begins_and_ends(capsys):
    with visible_progress() as progress:
        for done in range(101):
            progress("extract", done, 100)
        progress("duplicates, near", 0, 17)
        progress("tokenizer", 0, 1)
    extracted = ["1 of 4, extract: 0 of 100 parts", "1 of 4, extract: 100 of 100 parts"]
    others = ["2 of 4, duplicates, near: 0 of 17 parts", "3 of 4, tokenizer: 0 of 1 part"]
    assert lines(capsys) == [*extracted, *others]


def test_a_part_that_takes_long_says_so_now_and_then(capsys):
    with progress_lines(seconds=0.01) as progress:
        progress("extract", 0, 5)
        progress("extract", 3, 5)
        time.sleep(0.2)
    first, *others = lines(capsys)
    assert first == "1 of 4, extract: 0 of 5 parts"
    assert len(others) > 2 and set(others) == {"1 of 4, extract: 3 of 5 parts"}
    time.sleep(0.05)
    assert lines(capsys) == []


def test_what_is_left_goes_by_the_parts_that_are_done(monkeypatch):
    pace, clock = Pace("extract"), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    pace.note(20, 60)  # by an earlier run
    assert pace.left() is None
    clock[0] = 130.0
    pace.note(30, 60)
    assert pace.left() == 3.0 * 30
    clock[0] = 200.0
    assert pace.left() == 90.0 - 70
    clock[0] = 400.0
    assert pace.left() is None
    pace.note(60, 60)
    assert pace.left() is None


def test_what_an_earlier_run_has_done_counts_from_the_beginning(tmp_path):
    """And is not taken for work of this one; the rest is reported as it comes."""

    @leaves(lambda folder, number: folder / str(number))
    def work(folder, number):
        (folder / str(number)).touch()

    calls = [(tmp_path, number) for number in range(4)]
    for call in calls[:2]:
        work(*call)
    reports = []
    count = Count([(work, call) for call in calls], lambda *report: reports.append(report))
    for call in calls:
        work(*call)
        count.one_more()
    assert reports == [(2, 4), (3, 4), (4, 4)]
