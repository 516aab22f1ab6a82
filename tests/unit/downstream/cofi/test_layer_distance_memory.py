"""What the distance of layers keeps for its backward, and its peak, against MSEs of four known pairs."""

import torch
from torch.profiler import ProfilerActivity, profile

from ofa.downstream.cofi.layer_distance import distances, matched_distance

LAYERS, PAIRS, ROWS, LENGTH, WIDTH = 12, 4, 32, 128, 32


def plain(student, teacher, counted, weight, bias, alignment):
    """MSEs of 4 pairs as they are usually written, by someone who knows the pairs."""
    pairs = zip(alignment.tolist(), teacher, strict=True)
    errors = ((student[j] @ weight.T + bias - target).square().mean(-1) for j, target in pairs)
    return sum((error * counted).sum() for error in errors)


def ours(student, teacher, counted, weight, bias, alignment):
    """Choosing among all pairs included."""
    distances(student, teacher, counted, weight, bias)
    return matched_distance(student, teacher, counted, weight, bias, alignment)


def deep_problem():
    """States of 12 layers of a network, 32 rows of up to 128 tokens, and the published pairs."""
    states = [torch.randn(ROWS, LENGTH, WIDTH)]
    for _ in range(LAYERS):
        states.append(torch.tanh(states[-1] @ torch.randn(WIDTH, WIDTH).mul(0.2).requires_grad_()))
    teacher, counted = torch.randn(PAIRS, ROWS, LENGTH, WIDTH), torch.rand(ROWS, LENGTH) < 0.7
    weight, bias = torch.randn(WIDTH, WIDTH).requires_grad_(), torch.randn(WIDTH).requires_grad_()
    return states[1:], teacher, counted, weight, bias, torch.tensor([2, 5, 8, 11])


def bytes_kept(loss, problem):
    """For the backward, beyond what exists anyway: (bytes, largest tensor)."""
    there = {tensor.untyped_storage().data_ptr() for tensor in (*problem[0], *problem[1:])}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in there:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(*problem)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_nothing_of_the_size_of_a_pair_is_kept_for_the_backward():
    """COFI-35: 4 MSEs keep 4 differences, the published 48 would keep 48."""
    problem = deep_problem()
    pair = ROWS * LENGTH * WIDTH * 4
    assert bytes_kept(plain, problem) >= PAIRS * pair
    assert bytes_kept(ours, problem) == 0


def peak_bytes(loss):
    """Most bytes that forward and backward of a loss hold at one time beyond the network's own."""
    problem = deep_problem()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        loss(*problem).backward()
    events = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


def test_the_peak_of_layer_distillation_is_that_of_four_mses():
    """COFI-35: forward and backward through a network of 12 layers, of which the device alone knows the 4."""
    assert peak_bytes(ours) <= 1.2 * peak_bytes(plain)
