"""The plan for a GPU machine, as far as a CPU can tell: every part runs small, and full sizes are accepted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_check, gpu_kernels, gpu_ladder, gpu_product
from benchmarks.gpu_common import MOST_ROWS, Found, Settings, chosen_device, eager_loss, timing, write_data
from ofa.config import RunConfig, parse
from ofa.data.shards import Corpus
from ofa.models.build import build_model
from tests.processes import environment

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture
def quick(tmp_path):
    """Small sizes on the CPU."""
    return Settings("cpu", True, tmp_path)


def command(*arguments):
    """Run the script."""
    line = [sys.executable, str(CHECKOUT / "benchmarks" / "gpu.py"), *map(str, arguments)]
    return subprocess.run(line, env=environment(), capture_output=True, text=True)


@pytest.mark.parametrize("part", [gpu_check.masks, gpu_check.losses, gpu_check.packing])
def test_what_the_cpu_computes_passes_its_own_checks(quick, part):
    torch.manual_seed(0)
    checks = list(part(quick))
    assert checks and all(check.right for check in checks), checks


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("part", [gpu_check.masks, gpu_check.losses, gpu_check.packing])
def test_what_a_gpu_computes_is_what_the_cpu_computes(tmp_path, part):
    """PERF-6, PERF-12 and PERF-15 on a device, at small sizes."""
    torch.manual_seed(0)
    checks = list(part(Settings("cuda", True, tmp_path)))
    assert checks and all(check.right for check in checks), checks


def test_masks_that_differ_between_devices_fail_their_check(quick, monkeypatch):
    select = gpu_check.Ranking.select
    calls = []

    def differing(self, masters, *arguments, **settings):
        calls.append(0)
        swapped = [part.flip(0) for part in masters] if len(calls) % 4 == 0 else masters
        return select(self, swapped, *arguments, **settings)

    monkeypatch.setattr(gpu_check.Ranking, "select", differing)
    assert not any(check.right for check in gpu_check.masks(quick))


def test_a_check_that_breaks_is_a_check_that_failed_and_the_others_go_on(quick, monkeypatch):
    def broken(settings):
        raise RuntimeError("no such kernel")

    for name in ("masks", "losses", "packing", "gpu_tests", "resuming", "stages"):
        monkeypatch.setattr(gpu_check, name, broken if name == "losses" else lambda settings: iter(()))
    found = gpu_check.measure(quick)
    assert not found.right and found.rows == [["broken", "no such kernel", "NO"]]


def test_every_kernel_is_timed_and_the_table_fits_a_logs_end(quick):
    found = gpu_kernels.measure(quick)
    assert len(found.rows) >= 20 and found.right
    assert all(one["milliseconds"] > 0 for one in found.data["kernels"].values())
    assert found.data["ceiling"]["flops"] > 0 and found.data["ceiling"]["bytes"] > 0


def test_the_full_tables_fit_too():
    sizes, half = gpu_kernels.Sizes(), len(gpu_kernels.Sizes().layers) // 2
    products = len(sizes.layers) + half * (len(sizes.tokens) - 1) + 2
    assert 2 + products + 4 + 3 + 2 + 3 * len(sizes.weights) + 4 <= MOST_ROWS
    with pytest.raises(AssertionError, match="do not fit"):
        Found(["a"], [["b"]] * (MOST_ROWS + 1), {}).text()


def test_packed_lengths_fill_their_rows():
    lengths = gpu_kernels.packed_lengths(4096, gpu_kernels.Sizes())
    assert sum(lengths) == 4096 and min(lengths) > 0 and len(lengths) > 8


@pytest.mark.parametrize("name", gpu_product.VARIANTS)
def test_every_variant_of_the_product_is_a_config_that_a_gpu_run_accepts(tmp_path, name):
    config = gpu_product.recipe(Settings("cuda", False, tmp_path), gpu_product.STEPS)
    checked = parse(RunConfig, gpu_product.changed(config, gpu_product.VARIANTS[name]), origin="test")
    assert checked.model.architecture["num_hidden_layers"] == 12 and checked.pruning is not None
    with torch.device("meta"):
        assert sum(p.numel() for p in build_model(checked.model, seed=0).parameters()) > 100e6


def test_written_data_is_a_corpus(tmp_path):
    write_data(tmp_path / "data", rows=60, length=64, vocab=300)
    corpus = Corpus.open(tmp_path / "data")
    assert corpus.verify() == [] and corpus.split("train").total_rows == 54 and corpus.vocab_size == 300


def test_the_loss_with_all_logits_is_cross_entropy_where_the_teacher_agrees():
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(7, 5, generator=generator), torch.randn(11, 5, generator=generator)
    labels = torch.arange(7)
    logits = hidden @ weight.T
    expected = 0.5 * torch.nn.functional.cross_entropy(logits, labels)
    assert eager_loss(hidden, weight, torch.zeros(11), labels, logits) == pytest.approx(expected.item(), rel=1e-5)


def test_a_timing_is_of_one_call():
    calls = []
    took = timing(lambda: calls.append(0), "cpu", seconds=0.001)
    assert len(calls) > 10 and 0 < took.milliseconds < 1


def test_a_device_that_is_not_there_and_wheels_that_are_not_there_are_said(tmp_path):
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="torch sees no CUDA device"):
            chosen_device("cuda")
    done = command("kernels", "--wheels", tmp_path)
    assert done.returncode == 2 and f"{tmp_path}: no wheel there; make them with: make wheels" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("run", gpu.RUNS)
def test_a_run_prints_a_table_and_writes_what_it_found(tmp_path, run):
    done = command(run, "--device", "cpu", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert json.loads((tmp_path / f"{run}.json").read_text())["right"] is True
    assert len(done.stdout.splitlines()) <= 40


def test_a_ladder_that_cannot_run_is_reported_and_not_passed(quick, monkeypatch):
    def failing(*arguments, **settings):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu_ladder, "python", failing)
    found = gpu_ladder.measure(quick, size="base")
    assert not found.right and "out of memory" in found.text()
