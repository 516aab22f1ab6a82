"""The loader benchmark on a small corpus."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_common import write_data
from benchmarks.loader import masking_rates, report
from ofa.config import RunConfig, parse
from ofa.data.shards import Corpus

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


def test_masking_is_measured_on_the_rows_that_the_collator_gets(folder):
    """PERF-21, the row; its threshold is judged on an idle machine."""
    config = parse(RunConfig, settings(folder), origin="test")
    found = masking_rates(Corpus.open(folder), config, turns=3)
    assert found["masking_tokens_per_second"] > found["collator_tokens_per_second"] > 0
    ratio = found["masking_tokens_per_second"] / found["collator_tokens_per_second"]
    assert found["masking_over_collator"] == pytest.approx(ratio, rel=0.9)
    assert "masking over collator" in report(found, config)


@pytest.mark.slow
def test_the_whole_benchmark_runs_small(folder, tmp_path):
    """PERF-20, the rows."""
    (tmp_path / "run.json").write_text(json.dumps(settings(folder)))
    command = [sys.executable, str(CHECKOUT / "benchmarks" / "loader.py"), "--config", "run.json", "--turns", "2"]
    done = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True, cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["ratio"] > 1 and found["step_with_loader"] > 0 and found["loader_over_collator"] > 0
