"""What a step of ours adds to a bare DeepSpeed step: no read of the device, and one multiplication a mask.

Counted in a real step under DeepSpeed on one rank, below autograd, so that C++ callers are seen too. On a CPU a read
costs nothing; on a GPU each makes the host wait for the device, which is why an ordinary step may not have one.
"""

import warnings
from collections import Counter

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.step_counts import Traffic, touching
from ofa import flops
from ofa.assemble import assemble
from ofa.config import ModelConfig, RunConfig
from ofa.engine.process import STOCK_LINEAR, start, stop
from ofa.models.build import build_model
from ofa.run_folder import RunFolder
from ofa.train import update
from tests.corpora import build_run_config, write_corpus
from tests.reads import OUR_CODE, Reads, seen

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ARCHITECTURE = {"model_type": "bert", "vocab_size": 200, "max_position_embeddings": 64, **SIZES}
PRUNED = {"sparsity": 0.5, "ramp_end": 4, "end": 4, "frequency": 4}


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

OURS = {"zero0": {"ours: engine.py advance": 1}}
"""DeepSpeed looks for gradients that are not finite at every stage but 0: there we do."""


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
    assert {place: count for place, count in found.items() if place.startswith("ours")} == OURS.get(case, {})
    assert expected == DEEPSPEEDS_OWN[case] and found == {**expected, **OURS.get(case, {})}


def set_where_positive(tensor):
    """Choose by a boolean, and write."""
    tensor[tensor > 0] = torch.ones(len(tensor))


@pytest.mark.parametrize(
    "read",
    [
        lambda tensor: tensor[0].item(),
        lambda tensor: bool(tensor.any()),
        lambda tensor: float(tensor[0]),
        lambda tensor: int(tensor[0]),
        lambda tensor: f"{tensor[0]:.2f}",
        lambda tensor: list(range(4))[tensor[0].long()],
        lambda tensor: tensor[: tensor[0].long()],
        lambda tensor: tensor.tolist(),
        lambda tensor: tensor.numpy(),
        lambda tensor: tensor.cpu(),
        torch.nonzero,
        lambda tensor: torch.where(tensor > 0),
        lambda tensor: tensor[tensor > 0],
        lambda tensor: tensor[:, None][tensor > 0, 0],
        set_where_positive,
        lambda tensor: torch.masked_select(tensor, tensor > 0),
        lambda tensor: torch.equal(tensor, tensor),
        lambda tensor: torch.allclose(tensor, tensor),
        lambda tensor: tensor.unique(),
        lambda tensor: tensor.unique_consecutive(),
        lambda tensor: torch.bincount(tensor.long()),
        lambda tensor: tensor.repeat_interleave(tensor.long()),
    ],
)
def test_the_counter_sees_every_way_of_reading(read):
    """PERF-27: the test above has something to find."""
    assert seen(Reads(), lambda: read(torch.ones(3))).by_place.total() >= 1


def test_the_counter_sees_nothing_where_nothing_is_read():
    """Indices that are numbers, choices that keep their shape."""
    numbers, tensor = torch.tensor([2, 0]), torch.ones(3)
    assert not seen(Reads(), lambda: (tensor[numbers], torch.where(tensor > 0, tensor, 0.0), tensor.sum())).by_place


def test_a_run_at_zero_3_changes_nothing_for_the_next_one_in_its_process(make_run):
    """DeepSpeed replaces torch's linear; a later run at another stage would end with other last bits."""
    make_run(zero_stage=3)
    assert functional.linear is not STOCK_LINEAR
    stop()
    assert functional.linear is STOCK_LINEAR


@pytest.mark.gpu
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_cuda_itself_finds_no_wait_of_ours_in_an_ordinary_step(make_run, stage):
    """PERF-27: it warns of every call in which the host waits for the device."""
    run = make_run(zero_stage=stage, pruning={**PRUNED, "regrow": stage > 0}, teacher=True)
    step(run, 0)()
    work = step(run, 1)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert found, "DeepSpeed's own would be seen"
    assert not [f"{one.filename}:{one.lineno}" for one in found if one.filename.startswith(OUR_CODE)]


def test_the_counter_says_whose_read_it_was(make_run):
    """PERF-27: what our own code reads is laid at our door."""
    run = make_run(pruning=PRUNED)
    reads = seen(Reads(), lambda: run.journal.masked.recount(run.pruner.keep))
    assert reads.by_place == {"ours: journal.py recount": 1}


def operations(run):
    """Operations of the second step."""
    step(run, 0)()
    return seen(Operations(), step(run, 1)).count


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_pruning_adds_one_multiplication_a_weight_and_micro_batch(make_run, stage):
    """PERF-7, PERF-8: in hard mode nothing else is added to a step, and nothing to its forward."""
    dense = operations(make_run(zero_stage=stage))
    run = make_run(zero_stage=stage, pruning={**PRUNED, "regrow": False})
    added = operations(run)
    added.subtract(dense)
    assert {name: count for name, count in added.items() if count} == {"aten.mul.Tensor": 2 * len(run.pruner.keep)}


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_weights_that_may_return_cost_one_more_multiplication_a_step(make_run, stage):
    """PERF-7: in retain mode live weights are masked once after the update; ZeRO 3 has two copies of small ones."""
    dense = operations(make_run(zero_stage=stage))
    run = make_run(zero_stage=stage, pruning=PRUNED)
    added = operations(run)
    added.subtract(dense)
    masks = len(run.pruner.keep)
    found = {name: count for name, count in added.items() if count}
    assert found == {"aten.mul.Tensor": 2 * masks, "aten.mul_.Tensor": masks * (2 if stage == 3 else 1)}


@pytest.mark.parametrize(
    ("precision", "regrow", "expected"),
    [("fp32", False, 9), ("bf16", False, 5), ("bf16", True, 10), ("fp32", True, 18)],
)
def test_masks_move_so_many_bytes_a_weight_and_micro_batch(make_run, precision, regrow, expected):
    """PERF-7, which asks for at most 10 a step: bytes read and written by the operations on masks in a step of one
    micro-batch, over prunable weights. bf16 holds it; fp32 weights that may return do not (18), and each further
    micro-batch adds 9 (fp32) or 5 (bf16): gradients are masked as they come, so that what is summed over ranks,
    measured and clipped is masked. The reference's w * mask in each forward and its backward moves 24."""
    run = make_run(precision=precision, accumulate=1, pruning={**PRUNED, "regrow": regrow})
    step(run, 0)()
    traffic = seen(Traffic(touching(run.pruner.keep.values())), step(run, 1))
    assert traffic.bytes == expected * sum(keep.numel() for keep in run.pruner.keep.values())
    assert len(traffic.operations) == (2 if regrow else 1) * len(run.pruner.keep)
