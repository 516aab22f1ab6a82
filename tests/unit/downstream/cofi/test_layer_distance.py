"""Distances between layers and their gradients against the definition in double precision, and what they keep."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.downstream.cofi import layer_distance
from ofa.downstream.cofi.layer_distance import distances, matched_distance
from tests.reads import Reads, seen

HUGE = 1e30
"""What may stand at padding."""


def problem(layers=5, pairs=3, rows=4, length=6, width=8, teacher_width=8, seed=0, dtype=torch.float64):
    """(student states, teacher, counted, weight, bias, alignment), the first row without padding."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    student = [draw(rows, length, width).requires_grad_() for _ in range(layers)]
    lengths = torch.randint(1, length + 1, (rows,), generator=generator)
    lengths[0] = length
    return (
        student,
        draw(pairs, rows, length, teacher_width),
        torch.arange(length) < lengths[:, None],
        draw(teacher_width, width).requires_grad_(),
        draw(teacher_width).requires_grad_(),
        torch.randint(0, layers, (pairs,), generator=generator),
    )


def definition(states, target, counted, weight, bias):
    """Sum over tokens of the mean over dimensions of (W h + b - t)^2, of one pair."""
    squares = (states @ weight.T + bias - target).square().mean(-1)
    return squares[counted].sum()


def double(tensors):
    """Copies in float64, leaves of a graph of their own."""
    return [tensor.detach().double().requires_grad_(tensor.is_floating_point()) for tensor in tensors]


SIZES = {
    "layers": st.integers(1, 6),
    "pairs": st.integers(1, 4),
    "rows": st.integers(1, 4),
    "length": st.integers(1, 9),
    "width": st.integers(1, 9),
    "teacher_width": st.integers(1, 9),
    "seed": st.integers(0, 1000),
}


@settings(max_examples=60, deadline=None)
@given(sizes=st.fixed_dictionaries(SIZES), chunk=st.integers(1, 40))
def test_all_distances_equal_the_definition(sizes, chunk):
    """COFI-33's costs: 48 pairs by Gram terms, whatever the sizes of student and teacher, in any chunks."""
    student, teacher, counted, weight, bias, _ = problem(**sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_distance, "CHUNK", chunk)
        found = distances(student, teacher, counted, weight, bias)
    pairs = [[definition(s.detach(), t, counted, weight.detach(), bias.detach()) for s in student] for t in teacher]
    torch.testing.assert_close(found, torch.tensor(pairs) / counted.sum(), rtol=1e-10, atol=1e-10)
    assert not found.requires_grad


def test_distances_are_not_drowned_by_what_all_layers_share():
    """BERT has dimensions of size 10 and more in all its layers: in fp32 a nearest layer at 0.01 is still found."""
    student, teacher, counted, weight, bias, _ = problem(layers=12, pairs=4, width=64, teacher_width=64)
    shared = torch.zeros(64, dtype=torch.float64)
    shared[7] = 300.0
    with torch.no_grad():
        weight.copy_(torch.eye(64)), bias.zero_()
        for states in student:
            states += shared
        for k in range(4):
            teacher[k] = student[3 * k] + 0.01
    found = distances([s.float() for s in student], teacher.float(), counted, weight.float(), bias.float())
    near = found.gather(1, torch.tensor([[0], [3], [6], [9]]))
    torch.testing.assert_close(near, torch.full((4, 1), 1e-4), rtol=0.05, atol=0)


def test_no_token_that_counts_gives_zeros():
    student, teacher, counted, weight, bias, _ = problem()
    assert torch.equal(distances(student, teacher, counted & False, weight, bias), torch.zeros(3, 5).double())


@settings(max_examples=60, deadline=None)
@given(sizes=st.fixed_dictionaries(SIZES), chunk=st.integers(1, 40))
def test_the_matched_distance_and_its_gradients_equal_autograds(sizes, chunk):
    """Layers that are chosen twice and layers that are not chosen, rectangular W."""
    student, teacher, counted, weight, bias, alignment = problem(**sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_distance, "CHUNK", chunk)
        found = matched_distance(student, teacher, counted, weight, bias, alignment)
        found_gradients = torch.autograd.grad(0.3 * found, [weight, bias, *student])
    pairs = zip(alignment.tolist(), teacher, strict=True)
    expected = sum(definition(student[j], target, counted, weight, bias) for j, target in pairs)
    leaves = [weight, bias, *student]
    gradients = torch.autograd.grad(0.3 * expected, leaves, allow_unused=True)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for one, other, leaf in zip(found_gradients, gradients, leaves, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(leaf) if other is None else other, rtol=1e-9, atol=1e-10)


def network(layers=5, width=8):
    """Layers in a row, each with a weight whose gradient says what came through."""
    return [torch.randn(width, width, dtype=torch.float64).mul(0.5).requires_grad_() for _ in range(layers)]


def run(net, inputs):
    """States after each layer."""
    states = [inputs]
    for weight in net:
        states.append(torch.tanh(states[-1] @ weight))
    return states[1:]


@pytest.mark.parametrize("task", [0.0, 1.0], ids=["no other loss", "with a task loss"])
@pytest.mark.parametrize("alignment", [[0, 2, 4], [1, 1, 3], [0, 0, 0], [4, 4, 4]])
def test_gradients_reach_every_layer_below_through_those_above(alignment, task):
    """In a network states have a gradient from the layers above them too, and the top may have none but the loss's."""
    net, inputs = network(), torch.randn(4, 6, 8, dtype=torch.float64)
    _, teacher, counted, weight, bias, _ = problem()
    leaves = [*net, weight, bias]
    student = run(net, inputs)
    found = matched_distance(student, teacher, counted, weight, bias, torch.tensor(alignment))
    found = found + task * student[-1].sum() if task else found
    found_gradients = torch.autograd.grad(found, leaves, allow_unused=True)
    student = run(net, inputs)
    expected = sum(definition(student[j], t, counted, weight, bias) for j, t in zip(alignment, teacher, strict=True))
    expected = expected + task * student[-1].sum() if task else expected
    for one, other, leaf in zip(
        found_gradients, torch.autograd.grad(expected, leaves, allow_unused=True), leaves, strict=True
    ):
        torch.testing.assert_close(one, torch.zeros_like(leaf) if other is None else other, rtol=1e-9, atol=1e-10)


def test_layers_that_pass_their_input_on_get_both_shares():
    """A skipped layer of a compact model returns the very tensor that it was given."""
    net, inputs = network(layers=1), torch.randn(4, 6, 8, dtype=torch.float64)
    _, teacher, counted, weight, bias, _ = problem()
    states = run(net, inputs) * 2
    found = matched_distance(states, teacher[:2], counted, weight, bias, torch.tensor([0, 1]))
    expected = sum(definition(states[0], target, counted, weight, bias) for target in teacher[:2])
    gradients = [torch.autograd.grad(loss, net, retain_graph=True)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-10)


def test_another_loss_of_the_same_graph_gets_no_share():
    """A graph that is kept serves several backwards: each has the gradients of what it was asked."""
    net, inputs = network(), torch.randn(4, 6, 8, dtype=torch.float64)
    _, teacher, counted, weight, bias, alignment = problem()
    student = run(net, inputs)
    other = student[-1].square().sum()
    alone = torch.autograd.grad(other, net, retain_graph=True)
    loss = matched_distance(student, teacher, counted, weight, bias, alignment)
    first = torch.autograd.grad(loss, net, retain_graph=True)
    after = torch.autograd.grad(other, net, retain_graph=True)
    second = torch.autograd.grad(loss, net)
    assert all(torch.equal(a, b) for a, b in zip(alone, after, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_states_without_a_gradient_are_left_alone():
    """Lower layers may be frozen; W learns all the same."""
    student, teacher, counted, weight, bias, alignment = problem()
    student = [states.detach() for states in student[:2]] + student[2:]
    loss = matched_distance(student, teacher, counted, weight, bias, torch.tensor([0, 1, 3]))
    loss.backward()
    assert student[0].grad is None and student[3].grad.abs().sum() > 0 and weight.grad.abs().sum() > 0
    with torch.no_grad():
        assert not matched_distance(student, teacher, counted, weight, bias, alignment).requires_grad


@pytest.mark.parametrize("junk", [HUGE, float("nan"), float("inf")])
def test_what_stands_at_padding_changes_no_bit(junk):
    """COFI-34: distances, loss and all gradients; the published loss is a mean over padding too."""
    student, teacher, counted, weight, bias, alignment = problem(dtype=torch.float32)
    leaves = [weight, bias, *student]

    def results():
        loss = matched_distance(student, teacher, counted, weight, bias, alignment)
        return [distances(student, teacher, counted, weight, bias), loss, *torch.autograd.grad(loss, leaves)]

    before = results()
    with torch.no_grad():
        for states in (*student, *teacher):
            states[~counted] = junk
    assert (~counted).any()
    assert all(torch.equal(one, other) for one, other in zip(before, results(), strict=True))


def test_wider_padding_changes_nothing():
    """COFI-34: the same rows in a wider batch; close, since tokens are added up in other chunks."""
    student, teacher, counted, weight, bias, alignment = problem()
    wide = [torch.nn.functional.pad(tensor.detach(), (0, 0, 0, 3), value=HUGE) for tensor in (*student, teacher)]
    wide_counted = torch.nn.functional.pad(counted, (0, 3))
    for work in (distances, lambda *args: matched_distance(*args, alignment)):
        narrow = work(student, teacher, counted, weight, bias)
        torch.testing.assert_close(work(wide[:-1], wide[-1], wide_counted, weight, bias), narrow, rtol=1e-12, atol=0)


def test_in_bf16_the_loss_adds_up_in_fp32_and_stays_within_one_percent():
    """States and W as DeepSpeed's bf16 has them; the gradients come back in their dtype."""
    student, teacher, counted, weight, bias, alignment = problem(width=32, teacher_width=48, dtype=torch.bfloat16)
    loss = matched_distance(student, teacher, counted, weight, bias, alignment)
    gradients = torch.autograd.grad(loss, [weight, bias, *student])
    states, (w, b) = double(student), double([weight, bias])
    pairs = zip(alignment.tolist(), teacher.double(), strict=True)
    expected = sum(definition(states[j], target, counted, w, b) for j, target in pairs)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    expected_gradients = torch.autograd.grad(expected, [w, b, *states], allow_unused=True)
    for one, other in zip(gradients, expected_gradients, strict=True):
        assert one.dtype == torch.bfloat16
        other = torch.zeros_like(one).double() if other is None else other
        assert (one.double() - other).abs().max() <= 1e-2 * other.abs().max()
    costs = distances(student, teacher, counted, weight, bias)
    assert costs.dtype == torch.float32
    exact = distances(states, teacher.double(), counted, w, b)
    torch.testing.assert_close(costs.double(), exact, rtol=2e-2, atol=0)


def test_neither_direction_waits_for_the_device():
    """No read: the pairs stay on the device, and so do their gradients."""
    student, teacher, counted, weight, bias, alignment = problem()

    def work():
        distances(student, teacher, counted, weight, bias)
        matched_distance(student, teacher, counted, weight, bias, alignment).backward()

    assert not seen(Reads(), work).by_place
