"""What a step of ours adds to a bare DeepSpeed step: no read of the device, and one multiplication a mask.

Counted in a real step under DeepSpeed on one rank, below autograd, so that C++ callers are seen too. On a CPU a read
costs nothing; on a GPU each makes the host wait for the device, which is why an ordinary step may not have one.
"""

import traceback
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.step_counts import Traffic, touching
from ofa import flops
from ofa.assemble import assemble
from ofa.config import ModelConfig, RunConfig
from ofa.engine.process import start, stop
from ofa.models.build import build_model
from ofa.run_folder import RunFolder
from ofa.train import update
from tests.corpora import build_run_config, write_corpus

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ARCHITECTURE = {"model_type": "bert", "vocab_size": 200, "max_position_embeddings": 64, **SIZES}
READING_OPERATIONS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "bincount")
"""Operations whose result the host must know: a number, or a shape that depends on values."""

READING_METHODS = ("tolist", "numpy", "cpu")
"""Methods that reach the values without an operation."""

PRUNED = {"sparsity": 0.5, "ramp_end": 4, "end": 4, "frequency": 4}
OUR_CODE = str(Path(__file__).resolve().parents[2] / "ofa")
WATCHED = (OUR_CODE, "/deepspeed/")


class Reads(TorchDispatchMode):
    """Reads of the device while it is open, by whose code made them: the innermost frame of ours or of DeepSpeed."""

    def __init__(self):
        super().__init__()
        self.by_place = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func).split(".")[1] in READING_OPERATIONS:
            self.note()
        return func(*args, **(kwargs or {}))

    def note(self):
        """Count the caller."""
        frames = [f for f in traceback.extract_stack() if any(part in f.filename for part in WATCHED)]
        place = f"{Path(frames[-1].filename).name} {frames[-1].name}" if frames else "elsewhere"
        ours = bool(frames) and frames[-1].filename.startswith(OUR_CODE)
        self.by_place["ours: " + place if ours else place] += 1

    def __enter__(self):
        self._methods = {name: getattr(torch.Tensor, name) for name in READING_METHODS}
        for name, method in self._methods.items():
            setattr(torch.Tensor, name, self._noted(method))
        return super().__enter__()

    def _noted(self, method):
        def noting(tensor, *args, **kwargs):
            self.note()
            return method(tensor, *args, **kwargs)

        return noting

    def __exit__(self, *error):
        for name, method in self._methods.items():
            setattr(torch.Tensor, name, method)
        return super().__exit__(*error)


class Operations(TorchDispatchMode):
    """How often each operation ran; views, which compute nothing, aside."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[str(func)] += not func.is_view
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with data and a teacher."""
    folder = tmp_path_factory.mktemp("project")
    write_corpus(folder / "data", rows=60)
    build_model(ModelConfig(architecture=ARCHITECTURE), seed=1).save_pretrained(folder / "teacher")
    return folder


@pytest.fixture
def make_run(project, tmp_path, monkeypatch):
    """Factory of assembled runs: `make_run(pruning=..., teacher=..., **engine)`."""
    runs = []
    monkeypatch.setattr(flops, "measure_peak_flops", lambda *_: 1.0)  # half a second a run, for a number not asked here

    def make(*, pruning=None, teacher=False, accumulate=2, **engine):
        values = build_run_config(micro=4, size=4 * accumulate, kd="all", path=str(project / "data")).model_dump()
        values["model"]["architecture"] = ARCHITECTURE
        values["engine"] |= {"threads": 1, **engine}
        values["pruning"] = pruning
        values["log"]["tensorboard"] = False
        if teacher:
            values["teacher"] = {"init": str(project / "teacher")}
            values["objective"] |= {"ce_weight": 0.5, "kd_weight": 0.5}
        config = RunConfig.model_validate(values)
        start(config)
        folder = tmp_path / str(len(runs))
        folder.mkdir()
        runs.append(assemble(config, RunFolder(folder), None, name="test"))
        return runs[-1]

    yield make
    stop()


def step(run, number):
    """One step as the training loop makes it; between its metrics lines nothing else is done."""
    totals, batches = run.loader.global_batch(number)
    return lambda: (
        run.pruner.before_step(run.recipe.at(number)),
        update(run, run.recipe.at(number), totals, batches),
        run.pruner.after_step(run.recipe.at(number + 1)),
    )


def bare_step(run, number):
    """The same module and batches under DeepSpeed's own three calls."""
    engine = run.engine._deepspeed
    totals, batches = run.loader.global_batch(number)

    def work():
        for batch in batches:
            loss, _ = engine(batch, totals, None, run.engine.loss_scale)
            engine.backward(loss)
            engine.step()

    return work


def seen(mode, work):
    """The mode after the work was done in it."""
    with mode:
        work()
    return mode


PARTITIONED = {"utils.py is_invalid_grad_norm": 4, "stage_1_and_2.py _optimizer_step": 3}
"""The norm is looked at in four ways; torch's AdamW reads a step count of each parameter group."""

DEEPSPEEDS_OWN = {
    "zero0": {"engine.py _take_model_step": 42},
    "zero1": PARTITIONED,
    "zero1-bf16": {
        "bf16_optimizer.py step": 3,
        "utils.py clip_tensors_by_global_norm": 1,
        "utils.py is_invalid_grad_norm": 1,
    },
    "zero2": PARTITIONED,
    "zero3": {"stage3.py step_with_gradscaler": 3, "utils.py is_invalid_grad_norm": 1},
}
"""Reads of one step by DeepSpeed 0.19.8 on a CPU. Those inside torch's AdamW (all 42 of stage 0, one a parameter; the 3
of the others, one a group) are a CPU's: its fused kernel on a GPU does not look at the step count."""


@pytest.mark.parametrize("case", DEEPSPEEDS_OWN)
def test_an_ordinary_step_reads_the_device_no_oftener_than_bare_deepspeed(make_run, case):
    """PERF-27: with distillation, masks and accumulation; what DeepSpeed reads itself stands in the table above."""
    stage, precision = int(case[4]), "bf16" if case.endswith("bf16") else "fp32"
    bare = make_run(zero_stage=stage, precision=precision)
    bare_step(bare, 0)()  # the first step makes the optimizer's state
    expected = seen(Reads(), bare_step(bare, 1)).by_place
    run = make_run(zero_stage=stage, precision=precision, pruning={**PRUNED, "regrow": stage > 0}, teacher=True)
    step(run, 0)()
    found = seen(Reads(), step(run, 1)).by_place
    assert not [place for place in found if place.startswith("ours")], found
    assert found == expected == DEEPSPEEDS_OWN[case]


@pytest.mark.parametrize(
    "read",
    [
        torch.Tensor.item,
        bool,
        float,
        int,
        lambda tensor: tensor.tolist(),
        lambda tensor: tensor.numpy(),
        torch.nonzero,
        lambda tensor: tensor[tensor > 0],
        lambda tensor: torch.masked_select(tensor, tensor > 0),
        lambda tensor: torch.equal(tensor, tensor),
    ],
)
def test_the_counter_sees_every_way_of_reading(read):
    """PERF-27: the test above has something to find."""
    assert seen(Reads(), lambda: read(torch.ones(()))).by_place.total() >= 1


def test_the_counter_says_whose_read_it_was(make_run):
    """PERF-27: what our own code reads is laid at our door."""
    run = make_run(pruning=PRUNED)
    reads = seen(Reads(), lambda: run.journal.masked.recount(run.pruner.keep))
    assert reads.by_place == {"ours: journal.py recount": 1}


def operations(run):
    """Operations of the second step."""
    step(run, 0)()
    return seen(Operations(), step(run, 1)).count


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_pruning_adds_one_multiplication_a_weight_and_micro_batch(make_run, stage):
    """PERF-7, PERF-8: in hard mode nothing else is added to a step, and nothing to its forward."""
    dense = operations(make_run(zero_stage=stage))
    run = make_run(zero_stage=stage, pruning={**PRUNED, "regrow": False})
    added = operations(run)
    added.subtract(dense)
    assert {name: count for name, count in added.items() if count} == {"aten.mul.Tensor": 2 * len(run.pruner.keep)}


@pytest.mark.parametrize("stage", [1, 2])
def test_weights_that_may_return_cost_one_more_multiplication_a_step(make_run, stage):
    """PERF-7: in retain mode live weights are masked once after the update."""
    dense = operations(make_run(zero_stage=stage))
    run = make_run(zero_stage=stage, pruning=PRUNED)
    added = operations(run)
    added.subtract(dense)
    masks = len(run.pruner.keep)
    found = {name: count for name, count in added.items() if count}
    assert found == {"aten.mul.Tensor": 2 * masks, "aten.mul_.Tensor": masks}


@pytest.mark.parametrize(
    ("precision", "regrow", "expected"),
    [("fp32", False, 9), ("bf16", False, 5), ("bf16", True, 10), ("fp32", True, 18)],
)
def test_masks_move_at_most_ten_bytes_a_weight_in_the_default_precision_of_each_device(
    make_run, precision, regrow, expected
):
    """PERF-7: bytes read and written by the operations on masks in a step of one micro-batch, over prunable weights;
    only fp32 weights that may return need more (18), which is 6 bytes below the reference's w * mask in the forward
    and its backward."""
    run = make_run(precision=precision, accumulate=1, pruning={**PRUNED, "regrow": regrow})
    step(run, 0)()
    traffic = seen(Traffic(touching(run.pruner.keep.values())), step(run, 1))
    assert traffic.bytes == expected * sum(keep.numel() for keep in run.pruner.keep.values())
    assert len(traffic.operations) == (2 if regrow else 1) * len(run.pruner.keep)
