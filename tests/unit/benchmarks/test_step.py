"""The step benchmark compares like with like: one text, equal losses, counted work as the formulas say."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from transformers import BertForMaskedLM

from benchmarks.common import architecture_of
from benchmarks.reference_step import full_head_loss, masked_in_forward
from benchmarks.step import loss_difference
from benchmarks.step_batches import IGNORED, make_batches, prepared_text, synthetic_text
from benchmarks.step_counts import count
from benchmarks.step_variants import Step, Variant, build_models, ladder
from data_prep.pipeline import prepare
from ofa.config import DataPrepConfig
from ofa.flops import train_flops
from ofa.models.adapters import shape
from tests.processes import CHECKOUT, environment

LENGTH, VOCAB = 32, 500
EAGER = {name: variant for name, variant in ladder("fp32").items() if not variant.compile}


@pytest.fixture(scope="module")
def batches():
    """Three batches of four packed rows."""
    return make_batches(synthetic_text(12, LENGTH, VOCAB), 3)


@pytest.fixture
def models():
    """A small student and teacher."""
    return build_models(architecture_of(2, 64, VOCAB, LENGTH), precision="fp32", device="cpu")


def segments(batch):
    """(tokens, labels) of each segment of a batch, sorted."""
    found = []
    for ids, documents, labels in zip(batch.micro.input_ids, batch.micro.document_ids, batch.labels, strict=True):
        for number in range(1, int(documents.max()) + 1):
            found.append((ids[documents == number].tolist(), labels[documents == number].tolist()))
    return sorted(found)


def test_the_check_batch_is_one_text_in_two_layouts(batches):
    assert segments(batches.check["padded"]) == segments(batches.check["packed"])


def test_all_padded_and_all_packed_batches_hold_the_same_text_up_to_what_does_not_divide(batches):
    padded = [one for batch in batches.by_layout["padded"] for one in segments(batch)]
    packed = [one for batch in batches.by_layout["packed"] for one in segments(batch)]
    assert all(one in packed for one in padded) and 0 <= len(packed) - len(padded) < 3


@pytest.mark.parametrize("layout", ["padded", "full", "packed"])
def test_batches_are_masked_and_counted_as_they_say(batches, layout):
    for batch in batches.by_layout[layout]:
        predicted = batch.labels != IGNORED
        assert batch.totals.predicted == int(predicted.sum()) == len(batch.micro.predicted) > 0
        assert batch.totals.tokens == int(batch.real.sum()) and not (predicted & ~batch.real).any()
        assert torch.equal(batch.labels.flatten()[batch.micro.predicted], batch.micro.labels)


def test_full_rows_are_packed_rows_seen_as_one_text(batches):
    for full, packed in zip(batches.by_layout["full"], batches.by_layout["packed"], strict=True):
        assert torch.equal(full.micro.input_ids, packed.micro.input_ids) and int(full.micro.document_ids.max()) == 1


def test_a_prepared_folder_gives_its_rows(tmp_path):
    words = [f"word{number % 50} and" for number in range(4000)]
    (tmp_path / "text.txt").write_text("\n\n".join(" ".join(words[a : a + 40]) for a in range(0, 4000, 40)))
    source = {"kind": "text", "paths": [str(tmp_path / "text.txt")]}
    config = {"source": source, "tokenizer": {"vocab_size": 100}, "sequence_length": LENGTH, "validation_share": 0.0}
    rows = prepare(DataPrepConfig.model_validate(config), tmp_path / "data", 1, lambda *_: None)["statistics"]
    text = prepared_text(tmp_path / "data", 12)
    assert len(text.rows) == 12 and all(0 < sum(map(len, row)) <= LENGTH for row in text.rows)
    assert make_batches(text, 3).by_layout["packed"][0].totals.predicted > 0
    with pytest.raises(ValueError, match=f"has {rows['train_rows']} training rows, the benchmark wants 9999"):
        prepared_text(tmp_path / "data", 9999)


def test_steps_of_one_objective_have_one_loss(models, batches):
    """Padded or packed, full logits or chunks, masks in the forward or in the weights: within 1e-6."""
    assert loss_difference(ladder("fp32"), models, batches.check) < 1e-6


def test_a_step_that_computes_another_loss_is_found(models, batches, monkeypatch):
    monkeypatch.setattr("benchmarks.step_variants.full_head_loss", lambda *a: 1.01 * full_head_loss(*a))
    with pytest.raises(ValueError, match="differ by 0.01 in their losses"):
        loss_difference(ladder("fp32"), models, batches.check)


def test_steps_of_one_objective_have_one_gradient(models, batches):
    """The reference's and ours with the same objective, masks included."""
    gradients = []
    for variant in (Variant(), EAGER["masks_in_backward"], EAGER["pack"], EAGER["fused_loss"]):
        step = Step(variant, models)
        step.student.model.eval()
        with step.installed():
            step.loss(batches.check[variant.layout]).backward()
        gradients.append({name: p.grad.clone() for name, p in step.student.model.named_parameters()})
        step.student.model.zero_grad()
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_zeros_stay_zero_under_every_step(models, batches):
    weights = dict(models.students[False].model.named_parameters())
    for variant in EAGER.values():
        if variant.prune:
            with Step(variant, models).installed() as step:
                step(batches.by_layout[variant.layout][0])
        for name, keep in models.keep.items():
            assert (weights[name][~keep] == 0).all()


def test_forward_masks_are_gone_when_the_block_ends(models):
    model = models.students[False].model
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    masks = {name: keep.float() for name, keep in models.keep.items()}
    with masked_in_forward(model, masks):
        assert not set(masks) & set(dict(model.named_parameters()))
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before
    assert isinstance(model, BertForMaskedLM) and model(torch.ones(1, 4, dtype=torch.long)).logits.shape[-1] == VOCAB


def test_counted_flops_are_the_formulas(models, batches):
    """PERF-1, PERF-2: a packed step with heads at predicted positions costs 3 forwards and a teacher's."""
    batch = batches.by_layout["packed"][0]
    sizes, share = shape(models.students[False].model.config), batch.totals.predicted / batch.totals.tokens
    padding = batch.labels.numel() / batch.totals.tokens
    attention = 4 * LENGTH * sizes.hidden * sizes.layers  # rows are computed whole, also where segments do not meet
    plain = count(EAGER["plain_reference"], models, batches.by_layout["full"][0]).flops
    full = train_flops(sizes, LENGTH, 1.0) * padding
    assert plain == pytest.approx(full, rel=0.02)
    expected = train_flops(sizes, 0.0, share, sizes, share)
    expected += (padding - 1) * train_flops(sizes, 0.0, 0.0, sizes, 0.0) + padding * 4 * attention
    everything = Variant().with_all("fp32")
    assert count(everything, models, batch).flops == pytest.approx(expected, rel=0.02)


def test_masks_move_as_many_bytes_as_the_cost_model_says(models, batches):
    """PERF-7: w * mask in the forward and its backward 24 B a weight; gradients and live weights of ours 18 in fp32."""
    batch = batches.by_layout["padded"][0]
    found = [count(EAGER[name], models, batch) for name in ("reference", "masks_in_backward", "plain_reference")]
    assert [counts.masking_bytes for counts in found] == [24.0, 18.0, 0.0]
    assert [counts.masking_operations for counts in found] == [2 * len(models.keep), 2 * len(models.keep), 0]


def test_each_improvement_is_switched_on_alone_and_all_together():
    for precision in ("fp32", "bf16"):
        steps = ladder(precision)
        names = [name for name in steps if hasattr(Variant(), name)]
        assert set(names) >= {"pack", "masked_head", "fused_loss", "masks_in_backward", "compile"}
        assert all(getattr(steps[name], name) and getattr(steps["all"], name) for name in names)
        assert ("bf16_weights" in names) == (precision == "bf16")


def test_every_step_runs_in_bf16_too(batches):
    """With its own masks and autocast; losses of one objective within the tolerance of bf16."""
    models = build_models(architecture_of(1, 64, VOCAB, LENGTH), precision="bf16", device="cpu")
    assert loss_difference(ladder("bf16"), models, batches.check) < 2e-2
    for variant in ladder("bf16").values():
        with Step(replace(variant, compile=False), models).installed() as step:
            assert torch.isfinite(step(batches.by_layout[variant.layout][0]))


def test_in_bf16_our_weights_train_beside_fp32_masters(batches):
    models = build_models(architecture_of(2, 64, VOCAB, LENGTH), precision="bf16", device="cpu")
    variant = Variant(pack=True, masked_head=True, fused_loss=True, masks_in_backward=True, bf16_weights=True)
    with Step(variant, models).installed() as step:
        losses = [float(step(batches.by_layout["packed"][0])) for _ in range(20)]
    assert losses[-1] < losses[0]
    assert {p.dtype for p in models.students[True].model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in models.students[False].model.parameters()} == {torch.float32}


@pytest.mark.slow
def test_the_command_prints_one_table_and_json():
    """With compiled layers, and under DeepSpeed, from any working directory."""
    command = [sys.executable, str(CHECKOUT / "benchmarks" / "step.py"), "--quick", "--engine", "deepspeed", "--json"]
    done = subprocess.run(command, env=environment(PYTHONPATH=""), cwd="/", capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert [row["name"] for row in found["rows"]] == [*ladder("fp32"), "all_deepspeed"]
    assert found["speedup_over_reference"] > 0 and found["largest_relative_loss_difference"] < 1e-4
