"""Losses against a double-precision oracle, and what they cost in memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from ofa.config import ObjectiveConfig
from ofa.objectives import (
    TeacherRows,
    chunked_loss,
    cosine_distance_sum,
    cross_entropy_sum,
    distillation_sum,
)


def problem(rows, labelled, vocab, hidden=12, teacher_hidden=20, seed=0, dtype=torch.float32):
    """Random inputs of the chunked loss; logits have a spread of about 4."""
    draw = torch.Generator().manual_seed(seed)
    student, teacher = (
        [torch.randn(*size, generator=draw) for size in ((rows, width), (vocab, width), (vocab,))]
        for width in (hidden, teacher_hidden)
    )
    labels = torch.randint(0, vocab, (labelled,), generator=draw)
    leaves = [tensor.to(dtype).requires_grad_() for tensor in student]
    return leaves, labels, TeacherRows(*(tensor.to(dtype) for tensor in teacher))


def oracle(leaves, labels, teacher, *, ce_scale=1.0, kd_scale=0.0, temperature=2.0):
    """The definition, in double precision and with full logits: (loss, cross entropy, distillation), gradients."""
    hidden, weight, bias = (leaf.detach().double().requires_grad_() for leaf in leaves)
    logits = hidden @ weight.T + bias
    cross_entropy = -logits.log_softmax(-1)[torch.arange(len(labels)), labels].sum()
    distillation = torch.zeros((), dtype=torch.float64)
    if teacher is not None:
        targets = (teacher.hidden.double() @ teacher.weight.double().T + teacher.bias.double()) / temperature
        p, q = targets.softmax(-1), (logits / temperature).softmax(-1)
        distillation = temperature**2 * (p * (p.log() - q.log())).sum()
    loss = ce_scale * cross_entropy + kd_scale * distillation
    loss.backward()
    return (loss, cross_entropy, distillation), [hidden.grad, weight.grad, bias.grad]


def assert_close(found, expected, tolerance, floor=1e-12):
    """Relative to the largest entry, or to `floor`: what a softmax of fp32 cannot resolve beside 1 is no error."""
    scale = expected.abs().max().clamp(min=floor)
    assert ((found.double() - expected).abs().max() / scale).item() <= tolerance


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    unlabelled=st.integers(0, 20),
    vocab=st.integers(2, 70),
    chunk_rows=st.integers(1, 64),
    temperature=st.sampled_from([0.5, 1.0, 2.0, 5.5]),
    with_teacher=st.booleans(),
)
def test_chunked_loss_and_gradients_equal_the_double_precision_definition(
    rows, unlabelled, vocab, chunk_rows, temperature, with_teacher
):
    """OFA-15, OFA-18, PERF-6: values and gradients within 1e-5 in fp32, whatever the chunks."""
    unlabelled = unlabelled if with_teacher else 0
    leaves, labels, teacher = problem(rows + unlabelled, rows, vocab)
    scales = {"ce_scale": 0.5 / rows, "kd_scale": 0.5 / (rows + unlabelled), "temperature": temperature}
    teacher = teacher if with_teacher else None
    found = chunked_loss(*leaves, labels, teacher, chunk_rows=chunk_rows, **scales)
    found.loss.backward()
    values, gradients = oracle(leaves, labels, teacher, **scales)
    for one, expected in zip(found, values, strict=False):
        assert_close(one.detach(), expected.detach(), 1e-5, floor=1.0)
    for leaf, expected in zip(leaves, gradients, strict=True):
        assert_close(leaf.grad, expected, 1e-5, floor=1.0 / rows)


def test_in_bf16_values_and_gradients_stay_within_one_percent():
    """PERF-6"""
    leaves, labels, teacher = problem(200, 120, 300, dtype=torch.bfloat16)
    scales = {"ce_scale": 0.5 / 120, "kd_scale": 0.5 / 200}
    found = chunked_loss(*leaves, labels, teacher, chunk_rows=64, **scales)
    found.loss.backward()
    values, gradients = oracle(leaves, labels, teacher, **scales)
    assert found.loss.dtype == torch.float32
    assert_close(found.loss.detach(), values[0].detach(), 1e-2)
    for leaf, expected in zip(leaves, gradients, strict=True):
        assert leaf.grad.dtype == torch.bfloat16
        assert_close(leaf.grad, expected, 1e-2)


def test_in_bf16_without_a_teacher_gradients_stay_within_one_percent():
    """PERF-6: the product with the weights reads another buffer than with a teacher."""
    leaves, labels, _ = problem(100, 100, 300, dtype=torch.bfloat16)
    chunked_loss(*leaves, labels, ce_scale=0.01, chunk_rows=32).loss.backward()
    _, gradients = oracle(leaves, labels, None, ce_scale=0.01)
    for leaf, expected in zip(leaves, gradients, strict=True):
        assert_close(leaf.grad, expected, 1e-2)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_the_gradient_of_distillation_is_t_times_the_difference_of_softmaxes(temperature):
    """OFA-15: with an identity decoder the gradient of the hidden states is that of the logits."""
    vocab, rows = 50, 30
    logits = (3 * torch.randn(rows, vocab)).requires_grad_()
    targets = 3 * torch.randn(rows, vocab)
    identity, zero = torch.eye(vocab), torch.zeros(vocab)
    nothing = torch.empty(0, dtype=torch.int64)
    teacher = TeacherRows(targets, identity, zero)
    chunked_loss(logits, identity, zero, nothing, teacher, kd_scale=1 / rows, temperature=temperature).loss.backward()
    p_student = (logits.detach().double() / temperature).softmax(-1)
    p_teacher = (targets.double() / temperature).softmax(-1)
    assert_close(logits.grad, temperature * (p_student - p_teacher) / rows, 1e-5)


def test_a_student_that_equals_its_teacher_has_no_distillation_loss():
    """OFA-17"""
    leaves, labels, _ = problem(64, 64, 200)
    same = TeacherRows(*(leaf.detach().clone() for leaf in leaves))
    found = chunked_loss(*leaves, labels, same, ce_scale=0.0, kd_scale=1.0 / 64)
    found.loss.backward()
    assert abs(found.distillation.item() / 64) < 1e-6
    assert leaves[0].grad.abs().max() < 1e-6


def test_rows_without_a_label_do_not_move_the_cross_entropy():
    """OFA-18: the cross entropy reads the labelled rows only."""
    leaves, labels, teacher = problem(30, 20, 60)
    with_others = chunked_loss(*leaves, labels, teacher, ce_scale=1.0, kd_scale=0.0, chunk_rows=7)
    with_others.loss.backward()
    assert torch.all(leaves[0].grad[20:] == 0)
    hidden, weight, bias = leaves
    alone = chunked_loss(hidden[:20], weight, bias, labels, chunk_rows=7)
    assert with_others.cross_entropy.item() == pytest.approx(alone.cross_entropy.item(), rel=1e-6)


def test_correct_counts_the_rows_whose_label_has_the_largest_logit():
    leaves, labels, _ = problem(90, 90, 5)
    best = (leaves[0] @ leaves[1].T + leaves[2]).argmax(-1)
    assert chunked_loss(*leaves, labels, chunk_rows=16).correct.item() == (best == labels).sum()
    assert chunked_loss(*leaves, best, chunk_rows=16).correct.item() == 90


def test_a_tied_weight_gets_both_of_its_gradients():
    """The decoder's weight is the embedding's: autograd must add the lookup's gradient to the loss's."""
    weight = torch.randn(40, 8, requires_grad=True)
    bias = torch.zeros(40, requires_grad=True)
    ids, labels = torch.randint(0, 40, (25,)), torch.randint(0, 40, (25,))
    chunked_loss(functional.embedding(ids, weight).tanh(), weight, bias, labels, chunk_rows=8).loss.backward()
    reference = weight.detach().clone().requires_grad_()
    logits = functional.embedding(ids, reference).tanh() @ reference.T
    functional.cross_entropy(logits, labels, reduction="sum").backward()
    assert_close(weight.grad, reference.grad.double(), 1e-5)


def test_the_backward_scales_with_the_gradient_that_arrives():
    """Engines divide the loss by the accumulation before the backward."""
    leaves, labels, teacher = problem(20, 20, 30)
    plain = torch.autograd.grad(chunked_loss(*leaves, labels, teacher, kd_scale=1.0).loss, leaves)
    scaled = torch.autograd.grad(chunked_loss(*leaves, labels, teacher, kd_scale=1.0).loss * 0.25, leaves)
    for one, other in zip(plain, scaled, strict=True):
        assert torch.equal(one * 0.25, other)


def test_without_gradients_nothing_is_kept_and_the_values_are_the_same():
    leaves, labels, teacher = problem(33, 20, 50)
    trained = chunked_loss(*leaves, labels, teacher, kd_scale=1.0, chunk_rows=8)
    with torch.no_grad():
        evaluated = chunked_loss(*leaves, labels, teacher, kd_scale=1.0, chunk_rows=8)
    assert not evaluated.loss.requires_grad
    assert all(torch.equal(one, other) for one, other in zip(trained, evaluated, strict=True))


def test_no_rows_give_a_loss_of_zero_with_zero_gradients():
    leaves, labels, _ = problem(0, 0, 10)
    loss = chunked_loss(*leaves, labels).loss
    loss.backward()
    assert loss.item() == 0.0 and torch.all(leaves[1].grad == 0)


def test_without_a_teacher_only_the_students_logits_are_made():
    """PERF-35: three products a chunk, one forward and two for the gradients; with a teacher one more."""
    leaves, labels, teacher = problem(64, 64, 50)

    def products(teacher):
        with profile(activities=[ProfilerActivity.CPU]) as trace:
            chunked_loss(*leaves, labels, teacher, kd_scale=1.0, chunk_rows=32)
        return sum(event.count for event in trace.key_averages() if event.key in ("aten::mm", "aten::addmm"))

    assert products(None) == 2 * 3
    assert products(teacher) == 2 * 4


def test_pair_losses_equal_the_definition():
    """OFA-15 for next-sentence logits."""
    logits, targets = torch.randn(12, 2, requires_grad=True), torch.randn(12, 2)
    labels = torch.randint(0, 2, (12,))
    loss = 0.5 * cross_entropy_sum(logits, labels) + 0.5 * distillation_sum(logits, targets, 2.0)
    loss.backward()
    identity = torch.eye(2)
    values, gradients = oracle(
        [logits, identity, torch.zeros(2)],
        labels,
        TeacherRows(targets, identity, torch.zeros(2)),
        ce_scale=0.5,
        kd_scale=0.5,
    )
    assert_close(loss.detach(), values[0].detach(), 1e-5)
    assert_close(logits.grad, gradients[0], 1e-5)


def test_the_cosine_distance_ignores_padding_whatever_stands_there():
    student, teacher = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    real = torch.tensor([[True] * 5, [True, True, False, False, False]])
    expected = sum(
        1 - functional.cosine_similarity(student[b, s], teacher[b, s], dim=0) for b, s in real.nonzero().tolist()
    )
    student[1, 2:] = float("nan")
    assert cosine_distance_sum(student, teacher, real).item() == pytest.approx(expected.item(), rel=1e-5)
    assert cosine_distance_sum(teacher, teacher, real).item() == pytest.approx(0.0, abs=1e-5)


def test_default_weights_are_halves_with_a_temperature_of_two():
    """OFA-17: the config fills the weights by whether there is a teacher (tests of the config); the rest is here."""
    objective = ObjectiveConfig()
    assert (objective.temperature, objective.kd_positions, objective.hidden_weight) == (2.0, "masked", 0.0)


# ---- memory -----------------------------------------------------------------------------------------------------


def peak_bytes(function):
    """Most bytes that `function` holds at one time beyond what it found, from the allocator's own events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        kept = function()
    events = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    del kept
    return highest


def loss_and_backward(leaves, labels, teacher, chunk_rows):
    for leaf in leaves:
        leaf.grad = None
    chunked_loss(*leaves, labels, teacher, kd_scale=1.0, chunk_rows=chunk_rows).loss.backward()


def gradient_bytes(leaves):
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves)


@pytest.mark.parametrize(("with_teacher", "arrays"), [(False, 2), (True, 3)])
def test_the_loss_holds_two_chunks_of_logits_and_three_with_a_teacher(with_teacher, arrays):
    """PERF-5: beside the gradients that any loss must return, at most 3 x chunk x V x 4 bytes."""
    chunk, vocab = 128, 8192
    leaves, labels, teacher = problem(4 * chunk, 4 * chunk, vocab, hidden=16, teacher_hidden=16)
    peak = peak_bytes(lambda: loss_and_backward(leaves, labels, teacher if with_teacher else None, chunk))
    assert peak - gradient_bytes(leaves) <= 1.02 * arrays * chunk * vocab * 4


def test_in_bf16_the_loss_holds_no_more():
    """PERF-5: low-precision products live in the buffer that is free; the weight's gradient adds up in fp32."""
    chunk, vocab = 128, 8192
    leaves, labels, teacher = problem(4 * chunk, 4 * chunk, vocab, hidden=16, teacher_hidden=16, dtype=torch.bfloat16)
    peak = peak_bytes(lambda: loss_and_backward(leaves, labels, teacher, chunk))
    weight_in_fp32_and_one_product = 2 * leaves[1].numel() * 4
    assert peak - gradient_bytes(leaves) <= 1.02 * 3 * chunk * vocab * 4 + weight_in_fp32_and_one_product


def test_four_times_the_rows_take_at_most_a_tenth_more_memory():
    """PERF-5: proportions of BERT-base at 4,915 predicted positions, chunks of 1,024, all divided by eight."""
    peaks = []
    for rows in (4915 // 8, 4 * 4915 // 8):
        leaves, labels, teacher = problem(rows, rows, 30522 // 8, hidden=768 // 8, teacher_hidden=768 // 8)
        peaks.append(peak_bytes(lambda: loss_and_backward(leaves, labels, teacher, 1024 // 8)))  # noqa: B023
    assert peaks[1] <= 1.1 * peaks[0]


def naive(leaves, labels, teacher):
    """Cross entropy and distillation as they are usually written, with full logits."""
    hidden, weight, bias = leaves
    logits = functional.linear(hidden, weight, bias)
    with torch.no_grad():
        targets = (functional.linear(teacher.hidden, teacher.weight, teacher.bias) / 2).softmax(-1)
    loss = functional.cross_entropy(logits[: len(labels)], labels, reduction="sum")
    student = functional.log_softmax(logits / 2, -1)
    (loss + 4 * functional.kl_div(student, targets, reduction="sum")).backward()


def test_the_loss_needs_less_than_a_quarter_of_the_naive_memory():
    """OFA-18: batch 32 of 512 tokens, all distilled, with rows, chunk and vocabulary divided by eight or less."""
    rows, vocab, chunk = 32 * 512 // 8, 30522 // 8, 1024 // 8
    leaves, labels, teacher = problem(rows, round(0.15 * rows), vocab, hidden=96, teacher_hidden=96)
    ours = peak_bytes(lambda: loss_and_backward(leaves, labels, teacher, chunk))
    usual = peak_bytes(lambda: naive(leaves, labels, teacher))
    assert ours < usual / 4


def test_at_full_size_the_formula_gives_less_than_a_quarter_of_the_naive_memory():
    """OFA-18: batch 32 of 512 tokens, vocabulary 30,522, hidden size 768: what the tests above found, in numbers."""
    rows, vocab, hidden, chunk = 32 * 512, 30522, 768, ObjectiveConfig().chunk_rows
    ours = 4 * (3 * chunk * vocab + vocab * hidden + rows * hidden)
    usual = 4 * 4 * rows * vocab  # at least: logits and softmax of both
    assert ours < usual / 4
