"""The loader benchmark on a small corpus."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_common import write_data
from benchmarks.loader import is_right, masking_rates, report, same_rows
from ofa.config import RunConfig, parse
from ofa.data.shards import Corpus
from tests.processes import environment

CHECKOUT = Path(__file__).resolve().parents[3]


def settings(folder):
    """A run of 8 rows a step on the data in `folder`."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    return {
        "data": {"path": str(folder), "sequence_length": 64, "shuffle_window": 2},
        "model": {"architecture": {"model_type": "bert", "vocab_size": 300, "max_position_embeddings": 64, **sizes}},
        "batch": {"global_size": 8, "micro_size": 8},
        "optimizer": {"lr": 1e-3},
        "schedule": {"total_steps": 1000},
        "engine": {"threads": 1},
        "evaluate": {"rows": 8},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared folder with a real tokenizer."""
    path = tmp_path_factory.mktemp("corpus") / "data"
    write_data(path, rows=200, length=64, vocab=300)
    return path


def instructions(work):
    """Python instructions that a work takes, in every function that it calls."""
    counted = 0

    def trace(frame, event, _):
        nonlocal counted
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counted += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return counted


def test_masking_64_rows_takes_as_many_python_instructions_as_8_and_the_collator_8_times_as_many(folder):
    """PERF-21: why masking single tokens is faster, whatever the machine; how much is for the benchmark to say."""
    config = parse(RunConfig, settings(folder), origin="test")
    few, many = (same_rows(Corpus.open(folder), config, number) for number in (8, 64))
    assert instructions(lambda: few.mask(1)) == instructions(lambda: many.mask(1)) > 100
    few_rows, many_rows = instructions(few.collate), instructions(many.collate)
    assert many_rows > 6 * few_rows
    assert many_rows > 100 * instructions(lambda: many.mask(1))


def test_masking_is_measured_on_the_rows_that_the_collator_gets(folder):
    """PERF-21, the row."""
    config = parse(RunConfig, settings(folder), origin="test")
    corpus = Corpus.open(folder)
    found = masking_rates(corpus, config, turns=1)
    assert set(found) >= {"masking_tokens_per_second", "collator_tokens_per_second", "masking_over_collator"}
    assert found["masking_over_collator"] == pytest.approx(
        found["masking_tokens_per_second"] / found["collator_tokens_per_second"]
    )
    rows = same_rows(corpus, config, 8)
    assert rows.tokens == sum(int(one.sum()) for one in rows.collate()["attention_mask"])
    assert rows.mask(0).input_ids.shape == (8, 64)


@pytest.mark.parametrize(
    ("changed", "device", "right"),
    [
        ({}, "cpu", True),
        ({"masking_over_collator": 19.9}, "cpu", False),
        ({"ratio": 4.9}, "cpu", False),
        ({"step_with_loader": 1.3}, "cpu", True),
        ({"step_with_loader": 1.02}, "cuda", False),
        ({}, "cuda", True),
    ],
)
def test_a_figure_beyond_its_limit_is_wrong(folder, changed, device, right):
    """PERF-20, PERF-21: the limits."""
    found = {"ratio": 5.0, "masking_over_collator": 20.0, "step_with_loader": 1.01, **changed}
    assert is_right(found, device) is right
    shown = report(found, device, parse(RunConfig, settings(folder), origin="test"))
    assert (" NO" not in shown) is right and "at least 20" in shown


@pytest.mark.slow
def test_the_whole_benchmark_runs_small_and_its_status_follows_the_figures(folder, tmp_path):
    """PERF-20, PERF-21: the command. At this size its figures may be anything."""
    (tmp_path / "run.json").write_text(json.dumps(settings(folder)))
    command = [sys.executable, str(CHECKOUT / "benchmarks" / "loader.py"), "--config", "run.json", "--turns", "2"]
    done = subprocess.run([*command, "--json"], env=environment(), capture_output=True, text=True, cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["step_with_loader"] > 0 and found["loader_over_collator"] > 0 and found["hardware"]
    assert done.returncode == (0 if is_right(found, found["trained_on"]) else 1)
