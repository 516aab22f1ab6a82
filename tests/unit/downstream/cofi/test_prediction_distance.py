"""Distillation of predictions for all kinds of tasks, as CoFi uses it."""

import pytest
import torch

from ofa.models.task_training import distance_sum

SHAPES = {"classification": (9, 3), "regression": (9,), "tokens": (9, 5), "questions": (18, 11)}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", SHAPES)
def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn(kind, temperature):
    """COFI-32: no loss and no gradient; with any other prediction there is one."""
    teacher = torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(0))
    student = teacher.clone().requires_grad_()
    loss = distance_sum(kind, student, teacher, temperature)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(0.0, abs=1e-5) and gradient.abs().max() < 1e-6
    # the first of a row: what is added to all of its logits would change no softmax
    student = torch.cat([teacher[:1] + 1.0, teacher[1:]]) if kind == "regression" else teacher.clone()
    if kind != "regression":
        student[:, 0] += 1.0
    assert distance_sum(kind, student, teacher, temperature).item() > 1e-2


def test_regression_is_taught_by_squares_and_not_by_a_softmax_of_one():
    """COFI-32, B10: the published code's softmax over a single output is 1 for all, and its loss 0."""
    student = torch.tensor([1.0, 2.5, -1.0], requires_grad=True)
    loss = distance_sum("regression", student, torch.tensor([1.0, 2.0, 1.0]), 2.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == 0.25 + 4.0
    assert gradient.tolist() == [0.0, 1.0, -4.0]
