"""The log of consumed samples: what is read back is what was trained on, also after a kill."""

import json

import pytest
import torch

from ofa.data.loader import Loader
from ofa.samples import SampleLog, consumed_rows, cut_back, read_lines
from tests.corpora import build_run_config, write_corpus


def write_line(folder, step, rank, world_size, rows, batch=None):
    """Append one whole line to a rank's file."""
    folder.mkdir(exist_ok=True)
    line = {"step": step, "batch": step if batch is None else batch, "rank": rank, "world_size": world_size}
    with (folder / f"rank-{rank:05d}.jsonl").open("a") as file:
        file.write(json.dumps({**line, "rows": rows}) + "\n")


def test_a_line_says_what_the_loader_gave(tmp_path):
    corpus = write_corpus(tmp_path / "data", rows=60)
    loader, log = Loader(corpus, build_run_config(micro=4, size=16)), SampleLog(tmp_path / "samples", active=True)
    for step in (3, 4):
        log.append(step, step, loader.global_batch(step)[1])
    log.sync()
    lines = read_lines(tmp_path / "samples" / "rank-00000.jsonl")
    assert [(line["step"], line["batch"], line["rank"], line["world_size"]) for line in lines] == [
        (3, 3, 0, 1),
        (4, 4, 0, 1),
    ]
    rows = [row for step in (3, 4) for batch in loader.global_batch(step)[1] for row in batch.row_ids.tolist()]
    assert consumed_rows(tmp_path / "samples") == rows and len(rows) == 32


def test_a_log_that_is_off_writes_nothing(tmp_path):
    corpus = write_corpus(tmp_path / "data", rows=60)
    log = SampleLog(tmp_path / "samples", active=False)
    log.append(0, 0, Loader(corpus, build_run_config()).global_batch(0)[1])
    log.sync()
    assert not (tmp_path / "samples").exists() and consumed_rows(tmp_path / "samples") == []


def test_micro_batches_of_ranks_take_turns(tmp_path):
    """Also where the number of ranks changed, and a skipped update has moved the batch and not the step."""
    for rank in range(2):
        write_line(tmp_path, 5, rank, 2, [[10 + rank], [20 + rank]])
    write_line(tmp_path, 6, 0, 1, [[1], [2], [3], [4]])
    write_line(tmp_path, 6, 0, 1, [[5], [6], [7], [8]], batch=7)
    assert consumed_rows(tmp_path) == [10, 11, 20, 21, 1, 2, 3, 4, 5, 6, 7, 8]


def test_files_of_all_ranks_are_cut_back_with_their_broken_lines(tmp_path):
    for step in range(4):
        for rank in range(3):
            write_line(tmp_path, step, rank, 3, [[step]])
    broken = tmp_path / "rank-00001.jsonl"
    broken.write_bytes(broken.read_bytes() + b'{"step": 4, "batch": 4, "ra')
    cut_back(tmp_path, 2)
    for rank in range(3):
        assert [line["step"] for line in read_lines(tmp_path / f"rank-{rank:05d}.jsonl")] == [0, 1]
        assert (tmp_path / f"rank-{rank:05d}.jsonl").read_bytes().endswith(b"\n")
    write_line(tmp_path, 2, 0, 1, [[7]])
    assert consumed_rows(tmp_path) == [0, 0, 0, 1, 1, 1, 7]


def test_an_unfinished_line_counts_as_not_written(tmp_path):
    write_line(tmp_path, 0, 0, 1, [[1]])
    path = tmp_path / "rank-00000.jsonl"
    path.write_bytes(path.read_bytes() + path.read_bytes().rstrip(b"\n"))
    assert [line["step"] for line in read_lines(path)] == [0]


@pytest.mark.parametrize("lost", [(1, 0), (1, 1), (1, None)])
def test_a_batch_that_is_not_whole_is_named(tmp_path, lost):
    for step in range(3):
        for rank in range(2):
            if lost not in ((step, rank), (step, None)):
                write_line(tmp_path, step, rank, 2, [[step]])
    with pytest.raises(ValueError, match="of batch 1 there are lines of ranks"):
        consumed_rows(tmp_path)


def test_another_line_is_refused(tmp_path):
    write_line(tmp_path, 0, 0, 1, [[1]])
    path = tmp_path / "rank-00000.jsonl"
    path.write_text('{"step": 0}\n' + path.read_text())
    with pytest.raises(ValueError, match="line 1: not a line of consumed samples"):
        read_lines(path)


def test_the_rows_are_those_of_the_tensors_that_the_model_gets(tmp_path):
    """Not of the plan: a batch that was changed on its way shows."""
    corpus = write_corpus(tmp_path / "data", rows=60)
    batches = Loader(corpus, build_run_config(micro=4, size=8)).global_batch(0)[1]
    batches[1].row_ids = torch.tensor([9, 9, 9, 9])
    SampleLog(tmp_path / "samples", active=True).append(0, 0, batches)
    assert consumed_rows(tmp_path / "samples")[4:] == [9, 9, 9, 9]
