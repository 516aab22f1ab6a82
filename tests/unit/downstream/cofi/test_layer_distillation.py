"""The module that distils layers: its start, what it returns, and one real gradient step."""

import itertools

import pytest
import torch

from ofa.downstream.cofi.layer_distillation import LayerDistillation
from ofa.downstream.cofi.matching import chosen_layers

HOW = ("fixed", "free", "monotone")


def states(layers=12, rows=3, length=7, width=16, seed=0):
    """After each layer, all different."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, length, width, generator=generator) for _ in range(layers)]


def padded(rows=3, length=7):
    """int64 [B, S]"""
    mask = torch.ones(rows, length, dtype=torch.int64)
    mask[1, 4:] = mask[2, 1:] = 0
    return mask


EVERYTHING = torch.ones(12, dtype=torch.bool)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("layers", ["even", "random"])
def test_a_student_that_equals_its_teacher_starts_with_a_loss_of_zero(how, layers):
    """COFI-34: W is the identity, and free and monotone matching find each layer's own; exactly 0, to the bit."""
    student = states()
    chosen = chosen_layers(12, "even" if how == "fixed" else layers, seed=3, step=11)
    teacher = torch.stack([student[layer] for layer in chosen])
    loss, alignment = LayerDistillation(16, 16)(student, teacher, padded(), EVERYTHING, how)
    assert loss.item() == 0.0
    assert alignment.dtype == torch.int64 and alignment.tolist() == list(chosen)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("layers", "width", "teacher_width"), [(12, 16, 24), (6, 24, 16), (3, 16, 16)])
def test_the_loss_is_the_sum_over_pairs_and_tokens_of_the_mean_over_dimensions(how, layers, width, teacher_width):
    """Other hidden sizes and fewer layers than the teacher, also fewer than are distilled."""
    student, teacher = states(layers, width=width), torch.stack(states(4, width=teacher_width, seed=1))
    module, real = LayerDistillation(width, teacher_width), padded().bool()
    alive = torch.arange(layers) != 1
    loss, alignment = module(student, teacher, padded(), alive, how)
    with torch.no_grad():
        all_pairs = torch.stack([module.weight @ s[real].T + module.bias[:, None] for s in student])
        errors = (all_pairs[None] - teacher[:, real].mT[:, None]).square().mean(2).sum(2)  # [K, L]
    assert alive[alignment].all()
    assert loss.item() == pytest.approx(errors[torch.arange(4), alignment].sum().item(), rel=1e-5)
    errors[:, ~alive] = float("inf")
    if how == "free":
        assert torch.equal(alignment, errors.argmin(1))
    if how == "monotone" and layers > 4:
        sequences = itertools.combinations(alive.nonzero().flatten().tolist(), 4)
        best = min(sum(errors[k, j] for k, j in enumerate(layers)).item() for layers in sequences)
        assert loss.item() == pytest.approx(best, rel=1e-5)


def test_w_between_other_sizes_keeps_lengths_where_it_widens():
    wide, narrow = LayerDistillation(16, 24), LayerDistillation(24, 16)
    torch.testing.assert_close(wide.weight.T @ wide.weight, torch.eye(16), rtol=0, atol=1e-5)
    torch.testing.assert_close(narrow.weight @ narrow.weight.T, torch.eye(16), rtol=0, atol=1e-5)
    assert not wide.bias.any() and not narrow.bias.any()


def test_micro_batches_of_other_widths_add_up_to_the_batch():
    """The divisor is the caller's: sums and gradients do not depend on how rows are grouped or padded."""
    student = [layer.requires_grad_() for layer in states()]
    teacher, mask = torch.stack(states(4, seed=1)), padded()
    module = LayerDistillation(16, 16).double()
    student, teacher = [layer.double() for layer in student], teacher.double()
    alive = EVERYTHING

    def result(*parts):
        losses = [
            module([s[rows, :width] for s in student], teacher[:, rows, :width], mask[rows, :width], alive, "fixed")[0]
            for rows, width in parts
        ]
        return sum(losses), torch.autograd.grad(sum(losses), [module.weight, module.bias, *student])

    whole, gradients = result((slice(0, 3), 7))
    pieces, of_pieces = result((slice(0, 1), 7), (slice(1, 3), 4))
    torch.testing.assert_close(pieces, whole, rtol=1e-12, atol=0)
    for one, other in zip(of_pieces, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_w_learns_a_rotation_of_the_teacher():
    """A step along the gradients of W and b lowers the loss; after some hundreds nothing is left."""
    student = states(4, rows=8)
    rotation = torch.linalg.qr(torch.randn(16, 16))[0]
    teacher = torch.stack([layer @ rotation + 1.0 for layer in student])
    module = LayerDistillation(16, 16)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.03)
    mask = torch.ones(8, 7)
    losses = []
    for _ in range(300):
        loss, _ = module(student, teacher, mask, EVERYTHING[:4], "fixed")
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 1e-3 * losses[0]


def test_wrong_shapes_are_said_before_a_sum_comes_out():
    module, student, teacher = LayerDistillation(16, 24), states(), torch.stack(states(4, width=24))
    with pytest.raises(AssertionError, match=r"hidden sizes of student and teacher are \(16, 16\).*\(16, 24\)"):
        module(student, torch.stack(states(4)), padded(), EVERYTHING, "fixed")
    with pytest.raises(AssertionError, match="states of 12 layers, of which 6 may live"):
        module(student, teacher, padded(), EVERYTHING[:6], "fixed")
    with pytest.raises(AssertionError, match=r"student \[3, 7, 16\], teacher \[4, 3, 5, 24\]"):
        module(student, teacher[:, :, :5], padded(), EVERYTHING, "fixed")
