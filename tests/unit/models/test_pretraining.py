"""The training module against the stock models it wraps, and the teacher beside it."""

import copy
import hashlib

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ofa.config import ObjectiveConfig, PruningConfig
from ofa.data.batches import MicroBatch
from ofa.models.adapters import ADAPTERS, adapter_for, scope
from ofa.models.pretraining import (
    MaskedLanguageModeling,
    Teacher,
    document_attention_mask,
    encode,
    head_positions,
    pair_logits,
)
from ofa.pruning.magnitude import MagnitudePruner
from ofa.pruning.pruner import Span

EVERY_TYPE = [row.model_type for row in ADAPTERS]
PACKED = [[9, 14, 5], [30], [12, 12, 7]]
LENGTH = 36
PLAIN = ObjectiveConfig(ce_weight=1.0, kd_weight=0.0)
DISTILLED = ObjectiveConfig(ce_weight=0.5, kd_weight=0.5, chunk_rows=16)


def segments_of(batch):
    """(row, slice) of each segment, in order."""
    for row, documents in enumerate(batch.document_ids):
        for number in range(1, int(documents.max()) + 1):
            places = (documents == number).nonzero()[:, 0]
            yield row, slice(int(places[0]), int(places[-1]) + 1)


def gradients(module):
    return {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}


def loss_and_gradients(module, pieces, totals, teacher=None):
    """The loss of a global batch given in pieces, and the gradients it leaves."""
    module.zero_grad(set_to_none=True)
    total = 0.0
    for piece in pieces:
        loss, _ = module(piece, totals, teacher.targets(piece) if teacher else None)
        loss.backward()
        total += loss.item()
    return total, gradients(module)


def assert_same_gradients(found, expected, tolerance):
    assert found.keys() == expected.keys()
    scale = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in found.items():
        assert (gradient - expected[name]).abs().max() <= tolerance * scale, name


# ---- packing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_packed_segments_have_the_hidden_states_of_segments_run_alone(make, model_type, attention):
    """PERF-15: within 1e-5, against the stock model's own forward."""
    model = make.small_model(model_type, attention=attention).eval()
    batch, _ = make.packed_batch(PACKED, LENGTH)
    packed = encode(model, adapter_for(model_type), batch)
    for row, place in segments_of(batch):
        alone = model(batch.input_ids[row, place][None], output_hidden_states=True).hidden_states[-1]
        assert (packed[row, place] - alone[0]).abs().max() <= 1e-5
    assert torch.isfinite(packed).all()


def test_without_the_document_mask_packed_segments_would_differ(make):
    """PERF-15: the test above has something to find."""
    model = make.small_model("bert").eval()
    batch, _ = make.packed_batch(PACKED, LENGTH)
    packed = encode(model, adapter_for("bert"), batch)
    blind = MicroBatch(**{**vars(batch), "document_ids": (batch.document_ids > 0).long()})
    assert (encode(model, adapter_for("bert"), blind) - packed)[0, :28].abs().max() > 1e-3


def test_pair_logits_of_packed_segments_equal_those_of_segments_run_alone(make):
    """PERF-15 for rows with several [CLS]."""
    model = make.small_model("bert", task="mlm_nsp").eval()
    batch, _ = make.packed_batch(PACKED, LENGTH, pairs=True)
    adapter = adapter_for("bert")
    packed = pair_logits(model, adapter, encode(model, adapter, batch), batch)
    for found, (row, place) in zip(packed, segments_of(batch), strict=True):
        tokens, types = batch.input_ids[row, place][None], batch.token_type_ids[row, place][None]
        alone = model(tokens, token_type_ids=types).seq_relationship_logits[0]
        assert (found - alone).abs().max() <= 1e-5


def test_the_document_mask_is_block_diagonal_and_leaves_no_row_empty(make):
    model = make.small_model()
    visible = document_attention_mask(model, torch.tensor([[1, 1, 2, 0]]))[0, 0]
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert visible.tolist() == torch.tensor(expected).bool().tolist()


# ---- the loss ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_the_masked_lm_loss_and_its_gradients_are_the_stock_models(make, model_type):
    model = make.small_model(model_type)
    batch, totals = make.packed_batch([[20], [20]], 20)
    module = MaskedLanguageModeling(model, PLAIN)
    loss, found = loss_and_gradients(module, [batch], totals)
    module.zero_grad(set_to_none=True)
    labels = torch.full_like(batch.input_ids, -100).flatten()
    labels[batch.predicted] = batch.labels
    stock = model(batch.input_ids, labels=labels.view_as(batch.input_ids)).loss
    stock.backward()
    assert loss == pytest.approx(stock.item(), rel=1e-5)
    assert_same_gradients(found, gradients(module), 1e-5)


def test_with_sentence_pairs_the_loss_is_the_stock_sum(make):
    """OFA-17: masked-LM and next-sentence losses are summed."""
    model = make.small_model("bert", task="mlm_nsp")
    batch, totals = make.packed_batch([[20], [20], [20]], 20, pairs=True)
    module = MaskedLanguageModeling(model, PLAIN)
    loss, found = loss_and_gradients(module, [batch], totals)
    module.zero_grad(set_to_none=True)
    labels = torch.full_like(batch.input_ids, -100).flatten()
    labels[batch.predicted] = batch.labels
    stock = model(
        batch.input_ids,
        token_type_ids=batch.token_type_ids,
        labels=labels.view_as(batch.input_ids),
        next_sentence_label=batch.pair_labels,
    ).loss
    stock.backward()
    assert loss == pytest.approx(stock.item(), rel=1e-5)
    assert_same_gradients(found, gradients(module), 1e-5)


def test_terms_are_the_parts_of_the_loss(make):
    """OFA-17: 0.5 * (CE + CE) + 0.5 * (KD + KD) + weight * cosine, times the scale."""
    student, other = (make.small_model("bert", task="mlm_nsp", seed=seed) for seed in (1, 2))
    objective = DISTILLED.model_copy(update={"hidden_weight": 0.25})
    batch, totals = make.packed_batch(PACKED, LENGTH, pairs=True, distilled=0.3)
    targets = Teacher(other, objective).targets(batch)
    loss, terms = MaskedLanguageModeling(student, objective)(batch, totals, targets, scale=8.0)
    value = {name: term.item() for name, term in terms.items()}
    assert value.keys() == {"masked_lm", "masked_lm_kd", "nsp", "nsp_kd", "hidden", "correct"}
    parts = 0.5 * (value["masked_lm"] + value["nsp"]) + 0.5 * (value["masked_lm_kd"] + value["nsp_kd"])
    assert loss.item() == pytest.approx(8.0 * (parts + 0.25 * value["hidden"]), rel=1e-6)
    assert not any(term.requires_grad for term in terms.values())


@pytest.mark.parametrize("distilled", [None, 0.4, "all"])
def test_distillation_compares_the_stock_logits_at_the_chosen_positions(make, distilled):
    """OFA-15, OFA-16: over predicted, sampled or all real tokens, divided by their number."""
    student, other = (make.small_model("bert", seed=seed).eval() for seed in (1, 2))
    batch, totals = make.packed_batch([[20], [20]], 20, distilled=distilled)
    targets = Teacher(other, DISTILLED).targets(batch)
    _, terms = MaskedLanguageModeling(student, DISTILLED)(batch, totals, targets)
    positions = batch.predicted if distilled is None else batch.distilled
    with torch.no_grad():
        ours, theirs = (model(batch.input_ids).logits.double().flatten(0, 1)[positions] for model in (student, other))
    p, q = (theirs / 2).softmax(-1), (ours / 2).softmax(-1)
    expected = 4 * (p * (p.log() - q.log())).sum() / len(positions)
    assert terms["masked_lm_kd"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_student_that_equals_its_teacher_has_no_distillation_loss(make):
    """OFA-17: in evaluation mode, below 1e-6 in every part."""
    student = make.small_model("bert", task="mlm_nsp").eval()
    objective = DISTILLED.model_copy(update={"hidden_weight": 1.0})
    batch, totals = make.packed_batch(PACKED, LENGTH, pairs=True, distilled="all")
    targets = Teacher(copy.deepcopy(student), objective).targets(batch)
    _, terms = MaskedLanguageModeling(student, objective)(batch, totals, targets)
    assert all(abs(terms[name].item()) < 1e-6 for name in ("masked_lm_kd", "nsp_kd", "hidden"))


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_what_stands_at_padding_changes_nothing(make, model_type):
    """OFA-16: bitwise, in loss and gradients."""
    module = MaskedLanguageModeling(make.small_model(model_type), DISTILLED)
    teacher = Teacher(make.small_model(model_type, seed=2), DISTILLED)
    results = []
    for content in (0, 11):
        batch, totals = make.packed_batch(PACKED, LENGTH, distilled="all", pad_content=content)
        results.append(loss_and_gradients(module, [batch], totals, teacher))
    (loss, found), (other_loss, others) = results
    assert loss == other_loss
    assert all(torch.equal(found[name], others[name]) for name in found)


@pytest.mark.parametrize("distilled", [None, 0.4, "all"])
def test_micro_batches_add_up_to_the_whole_batch(make, distilled):
    """OFA-16: means are over the global batch, whatever rows are grouped together."""
    objective = DISTILLED.model_copy(update={"hidden_weight": 0.5})
    module = MaskedLanguageModeling(make.small_model("bert", task="mlm_nsp"), objective)
    teacher = Teacher(make.small_model("bert", task="mlm_nsp", seed=2), objective)
    batch, totals = make.packed_batch(PACKED, LENGTH, pairs=True, distilled=distilled)
    pieces = [make.rows_of(batch, [2]), make.rows_of(batch, [0, 1])]
    whole, expected = loss_and_gradients(module, [batch], totals, teacher)
    parts, found = loss_and_gradients(module, pieces, totals, teacher)
    assert parts == pytest.approx(whole, rel=1e-6)
    assert_same_gradients(found, expected, 1e-6)


def test_token_types_reach_the_encoder(make):
    model = make.small_model("bert").eval()
    batch, _ = make.packed_batch(PACKED, LENGTH, pairs=True)
    without = MicroBatch(**{**vars(batch), "token_type_ids": None})
    adapter = adapter_for("bert")
    assert not torch.allclose(encode(model, adapter, batch), encode(model, adapter, without))


def test_pair_data_serve_a_model_without_a_pair_head(make):
    batch, totals = make.packed_batch(PACKED, LENGTH, pairs=True)
    for model in (make.small_model("distilbert"), make.small_model("roberta", type_vocab_size=1)):
        _, terms = MaskedLanguageModeling(model, PLAIN)(batch, totals)
        assert terms.keys() == {"masked_lm", "correct"}


def test_head_positions_are_the_predicted_ones_then_the_others_that_are_distilled(make):
    batch, _ = make.packed_batch(PACKED, LENGTH, distilled=0.5)
    positions = head_positions(batch, distil=True)
    assert torch.equal(positions[: len(batch.predicted)], batch.predicted)
    assert torch.equal(positions.sort().values, batch.distilled)
    assert torch.equal(head_positions(batch, distil=False), batch.predicted)


def test_evaluation_keeps_no_graph(make):
    module = MaskedLanguageModeling(make.small_model(), PLAIN).eval()
    batch, totals = make.packed_batch(PACKED, LENGTH)
    with torch.no_grad():
        loss, terms = module(batch, totals)
    assert not loss.requires_grad and 0 <= terms["correct"].item() <= totals.predicted


# ---- what runs --------------------------------------------------------------------------------------------------


class DecoderRows(TorchDispatchMode):
    """Counts rows of the products that make logits."""

    def __init__(self, vocab):
        super().__init__()
        self.vocab, self.rows = vocab, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.addmm and result.shape[-1] == self.vocab:
            self.rows += result.shape[0]
        return result


@pytest.mark.parametrize("who", ["student", "teacher"])
@pytest.mark.parametrize("distilled", [None, 0.5])
def test_the_head_runs_on_the_positions_that_count_only(make, distilled, who):
    """PERF-4: transform rows / needed positions <= 1.02, in student and teacher."""
    student, other = make.small_model(seed=1), make.small_model(seed=2)
    seen = []
    model = student if who == "student" else other
    model.cls.predictions.transform.register_forward_hook(lambda module, args, out: seen.append(out.shape[:-1].numel()))
    batch, totals = make.packed_batch(PACKED, LENGTH, distilled=distilled)
    MaskedLanguageModeling(student, DISTILLED)(batch, totals, Teacher(other, DISTILLED).targets(batch))
    needed = len(batch.predicted if distilled is None else batch.distilled)
    assert sum(seen) <= 1.02 * needed


def test_logits_are_made_for_the_predicted_positions_only(make):
    """PERF-4: decoder rows of student and teacher, and of the student alone in evaluation."""
    student, other = make.small_model(seed=1), make.small_model(seed=2)
    batch, totals = make.packed_batch(PACKED, LENGTH)
    with DecoderRows(make.VOCAB) as both:
        MaskedLanguageModeling(student, DISTILLED)(batch, totals, Teacher(other, DISTILLED).targets(batch))
    assert both.rows == 2 * len(batch.predicted)
    everywhere, totals = make.packed_batch(PACKED, LENGTH, distilled="all")
    with DecoderRows(make.VOCAB) as alone, torch.no_grad():
        MaskedLanguageModeling(student, DISTILLED)(everywhere, totals)
    assert alone.rows == len(everywhere.predicted)


def operations(function):
    """How often each operator ran."""
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        function()
    return {event.key: event.count for event in trace.key_averages() if event.key.startswith("aten::")}


class NoCopies:
    """Weights without an engine; this test never refreshes."""

    device = torch.device("cpu")
    mask_live = zero_dropped = staticmethod(lambda *_: None)

    def __init__(self, scoped):
        self.shapes = {name: weight.shape for name, weight in scoped.items()}
        self._scoped = scoped

    def spans(self):
        """One rank that holds everything."""
        return [[Span(name, 0, weight.numel()) for name, weight in self._scoped.items()]]

    def masters(self):
        """The weights."""
        return [weight.detach().flatten() for weight in self._scoped.values()]


def test_pruning_hooks_add_no_operation_to_the_forward(make):
    """PERF-8: masks act on gradients and weights between the steps, never in the forward."""
    module = MaskedLanguageModeling(make.small_model(), PLAIN)
    batch, totals = make.packed_batch(PACKED, LENGTH)
    dense = operations(lambda: module(batch, totals))
    scoped = scope(module.model)
    MagnitudePruner(PruningConfig(sparsity=0.9, ramp_end=0, frequency=1), scoped, NoCopies(scoped))
    assert operations(lambda: module(batch, totals)) == dense

    def masked_forward():
        weights = {f"model.{name}": weight * (weight > 0) for name, weight in scope(module.model).items()}
        torch.func.functional_call(module, weights, (batch, totals))

    assert operations(masked_forward)["aten::mul"] > dense["aten::mul"]


def test_without_a_teacher_a_distilling_objective_costs_nothing(make):
    """PERF-35: as many operations as with the plain objective, and the FLOPs of a hand-written masked-LM step."""
    model = make.small_model()
    plain, _ = make.packed_batch(PACKED, LENGTH)
    everywhere, totals = make.packed_batch(PACKED, LENGTH, distilled="all")

    def step(objective, batch):
        model.zero_grad(set_to_none=True)
        MaskedLanguageModeling(model, objective.model_copy(update={"chunk_rows": 16}))(batch, totals)[0].backward()

    assert operations(lambda: step(PLAIN, plain)) == operations(lambda: step(DISTILLED, everywhere))

    def by_hand():
        hidden = encode(model, adapter_for("bert"), plain).flatten(0, 1)[plain.predicted]
        torch.nn.functional.cross_entropy(model.cls(hidden), plain.labels).backward()

    flops = []
    for run in (by_hand, lambda: step(PLAIN, plain)):
        with FlopCounterMode(display=False) as counter:
            run()
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1]


# ---- the teacher ------------------------------------------------------------------------------------------------


def fingerprint(model):
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def test_a_teacher_stays_outside_the_student_and_unchanged(make):
    """OFA-19: no gradient, evaluation mode, in no state dict, same bytes after training."""
    objective = DISTILLED.model_copy(update={"hidden_weight": 0.5})
    module = MaskedLanguageModeling(make.small_model("bert", task="mlm_nsp", seed=1, dropout=0.1), objective)
    teacher = Teacher(make.small_model("bert", task="mlm_nsp", seed=2, dropout=0.1), objective)
    before, names = fingerprint(teacher.model), set(module.state_dict())
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        batch, totals = make.packed_batch(PACKED, LENGTH, pairs=True, distilled="all")
        loss, _ = module(batch, totals, teacher.targets(batch))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert fingerprint(teacher.model) == before and set(module.state_dict()) == names
    assert all(name.startswith("model.") for name in names)
    assert all(weight.grad is None and not weight.requires_grad for weight in teacher.model.parameters())
    ours = {weight.data_ptr() for weight in module.parameters()}
    assert ours.isdisjoint(weight.data_ptr() for weight in teacher.model.parameters())
    assert not any(child.training for child in teacher.model.modules())


def test_targets_are_the_same_every_time_and_carry_no_graph(make):
    """OFA-19: the teacher's dropout is off."""
    objective = DISTILLED.model_copy(update={"hidden_weight": 0.5})
    teacher = Teacher(make.small_model("bert", task="mlm_nsp", dropout=0.3), objective)
    batch, _ = make.packed_batch(PACKED, LENGTH, pairs=True)
    first, second = teacher.targets(batch), teacher.targets(batch)
    assert torch.equal(first.rows.hidden, second.rows.hidden)
    assert torch.equal(first.pair_logits, second.pair_logits)
    assert not any(t.requires_grad for t in (first.rows.hidden, first.pair_logits, first.hidden))


def test_a_teacher_that_is_asked_for_hidden_states_only_runs_no_head(make):
    objective = ObjectiveConfig(ce_weight=1.0, kd_weight=0.0, hidden_weight=1.0)
    student, other = make.small_model(seed=1), make.small_model(seed=2)
    other.cls.register_forward_pre_hook(lambda *_: pytest.fail("the teacher's head ran"))
    other.cls.predictions.transform.register_forward_pre_hook(lambda *_: pytest.fail("the teacher's head ran"))
    batch, totals = make.packed_batch(PACKED, LENGTH)
    loss, terms = MaskedLanguageModeling(student, objective)(batch, totals, Teacher(other, objective).targets(batch))
    loss.backward()
    assert terms.keys() == {"masked_lm", "hidden", "correct"}


def test_a_teacher_of_another_architecture_can_teach(make):
    student, other = make.small_model("distilbert"), make.small_model("bert", hidden_size=48)
    batch, totals = make.packed_batch(PACKED, LENGTH, distilled="all")
    loss, terms = MaskedLanguageModeling(student, DISTILLED)(batch, totals, Teacher(other, DISTILLED).targets(batch))
    loss.backward()
    assert torch.isfinite(loss) and terms["masked_lm_kd"] > 0


def test_in_bf16_the_loss_is_that_of_fp32_within_two_percent(make):
    model, other = make.small_model(seed=1, initializer_range=0.05), make.small_model(seed=2, initializer_range=0.05)
    batch, totals = make.packed_batch(PACKED, LENGTH, distilled="all")
    teacher = Teacher(other, DISTILLED)
    exact, _ = MaskedLanguageModeling(model, DISTILLED)(batch, totals, teacher.targets(batch))
    low = MaskedLanguageModeling(copy.deepcopy(model).bfloat16(), DISTILLED)
    loss, _ = low(batch, totals, teacher.to("cpu", torch.bfloat16).targets(batch))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact.item(), rel=0.02)


def test_moving_a_teacher_casts_its_weights_only_if_asked(make):
    teacher = Teacher(make.small_model(), DISTILLED)
    assert {weight.dtype for weight in teacher.to("cpu").model.parameters()} == {torch.float32}
    assert {weight.dtype for weight in teacher.to("cpu", torch.bfloat16).model.parameters()} == {torch.bfloat16}
