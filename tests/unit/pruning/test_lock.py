"""The lock: what it keeps, what it refuses, and that nothing comes back."""

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ofa.pruning.lock import LockError, PatternLock, locked_masks, zeros_of
from ofa.pruning.magnitude import MagnitudePruner
from ofa.pruning.plain import PlainWeights
from ofa.pruning.pruner import NoPruner
from ofa.recipe import Knobs
from ofa.sections.schedule import PruningConfig

KNOBS = Knobs(0, 1e-3, sparsity=0.0, update_mask=False, last_update=False)


def sparse_net(seed=0):
    """Two layers, 90 % zeros of either sign."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 12))
    with torch.no_grad():
        for weight in scope_of(net).values():
            weight.mul_(torch.rand_like(weight) > 0.9)  # w * 0 is -0.0 where w is below 0
    return net


def scope_of(net):
    """Its matrices by name."""
    return {name: parameter for name, parameter in net.named_parameters() if parameter.dim() > 1}


def adamw(net):
    """With weight decay."""
    return torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.01)


def lock(net, optimizer, keep=None):
    """A lock of its zeros."""
    scoped = scope_of(net)
    return PatternLock(zeros_of(scoped) if keep is None else keep, scoped, PlainWeights(scoped, optimizer))


def train(net, optimizer, steps=30, seed=0):
    """Steps on noise, with accumulation of 2 and clipping."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(2):
            inputs = torch.randn(8, 12, generator=generator)
            (net(inputs) - inputs.sin()).square().mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()


def copies(net, optimizer):
    """Every copy of every scoped weight, by name: weight and moments."""
    return {
        name: [weight.detach(), *(v for v in optimizer.state[weight].values() if v.shape == weight.shape)]
        for name, weight in scope_of(net).items()
    }


def bits(tensor):
    """Its bit patterns, which tell -0.0 from 0.0."""
    return tensor.contiguous().view(torch.int32)


def test_locked_zeros_are_plus_zero_in_every_copy_and_the_rest_moves():
    """OFA-21, OFA-25: AdamW with weight decay, accumulation and clipping; -0.0 among the zeros."""
    net = sparse_net()
    optimizer = adamw(net)
    before = {name: weight.detach().clone() for name, weight in scope_of(net).items()}
    assert any(bool(torch.signbit(weight[weight == 0]).any()) for weight in before.values())
    pruner = lock(net, optimizer)
    train(net, optimizer)
    for name, (weight, *moments) in copies(net, optimizer).items():
        dropped = before[name] == 0
        assert torch.equal(~pruner.keep[name], dropped)
        assert len(moments) == 2 and all(not bits(copy[dropped]).any() for copy in (weight, *moments))
        assert (weight[~dropped] != before[name][~dropped]).all()


def test_without_a_lock_the_same_zeros_come_back():
    net = sparse_net()
    before = zeros_of(scope_of(net))
    train(net, adamw(net))
    assert all(weight[~before[name]].all() for name, weight in scope_of(net).items())


def test_the_gradient_norm_is_that_of_masked_gradients():
    """OFA-24"""
    net, dense = sparse_net(), sparse_net()
    pruner = lock(net, adamw(net))
    inputs = torch.randn(8, 12)
    for one in (net, dense):
        one(inputs).square().sum().backward()
    masked = [p.grad * pruner.keep[name] if name in pruner.keep else p.grad for name, p in dense.named_parameters()]
    norms = [torch.nn.utils.get_total_norm(some) for some in ([p.grad for p in net.parameters()], masked)]
    assert norms[0] == norms[1] < torch.nn.utils.get_total_norm([p.grad for p in dense.parameters()])


def test_masks_never_change():
    """OFA-4: whatever the schedule says."""
    net = sparse_net()
    pruner = lock(net, adamw(net))
    first = pruner.state_dict()["mask_hash"]
    knobs = Knobs(3, 1e-3, sparsity=0.99, update_mask=True, last_update=True)
    assert pruner.before_step(knobs) is None
    pruner.after_step(knobs)
    assert pruner.state_dict()["mask_hash"] == first


def test_weights_that_were_written_from_outside_are_zeroed():
    net = sparse_net()
    optimizer = adamw(net)
    pruner = lock(net, optimizer)
    train(net, optimizer, steps=1)
    with torch.no_grad():
        for some in copies(net, optimizer).values():
            for copy in some:
                copy.fill_(-1.0)
    pruner.enforce()
    for name, some in copies(net, optimizer).items():
        assert all(not bits(copy[~pruner.keep[name]]).any() and (copy[pruner.keep[name]] == -1).all() for copy in some)


def test_a_checkpoint_of_the_same_lock_continues():
    """OFA-23, resume: masks are compared, zeros written again."""
    net = sparse_net()
    optimizer = adamw(net)
    state = lock(net, optimizer).state_dict()
    other = sparse_net()
    continued = lock(other, adamw(other))
    with torch.no_grad():
        other[0].weight.fill_(1.0)
    continued.load_state_dict(state, KNOBS)
    assert torch.equal(other[0].weight != 0, continued.keep["0.weight"])
    assert state["masks"]["0.weight"].nbytes == 12 * 20 // 8


def test_states_of_other_runs_are_refused_by_name():
    net = sparse_net()
    pruner = lock(net, adamw(net))
    state = pruner.state_dict()
    other_net = sparse_net(seed=1)
    other = lock(other_net, adamw(other_net)).state_dict()
    fresh = sparse_net()
    config = PruningConfig(sparsity=0.5, ramp_end=2, frequency=1, regrow=False)
    pruning = MagnitudePruner(config, scope_of(fresh), PlainWeights(scope_of(fresh), adamw(fresh)))
    flipped = {**state, "masks": {name: packed ^ 1 for name, packed in state["masks"].items()}}
    with pytest.raises(LockError, match=r"other zeros than model.init has now: \d+ places of 2 tensors.*0.weight"):
        pruner.load_state_dict(other, KNOBS)
    with pytest.raises(LockError, match="do not match their hash"):
        pruner.load_state_dict(flipped, KNOBS)
    with pytest.raises(LockError, match="holds no masks"):
        pruner.load_state_dict({}, KNOBS)
    with pytest.raises(LockError, match="of a run that prunes"):
        pruner.load_state_dict(pruning.state_dict(), KNOBS)
    with pytest.raises(ValueError, match="keeps the zeros it began with"):
        pruning.load_state_dict(state, KNOBS)
    with pytest.raises(ValueError, match="neither prunes nor keeps zeros"):
        NoPruner().load_state_dict(state, KNOBS)


# ---- what is locked ------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 2.0, float("nan")]), min_size=1, max_size=30))
def test_zeros_of_either_sign_are_dropped_and_nothing_else(values):
    """prune-ofa 1.5: M = (W != 0); the smallest subnormal lives."""
    keep = zeros_of({"w": torch.tensor(values)})["w"]
    assert keep.tolist() == [value != 0 for value in values]


def test_saved_masks_win_over_zeros_and_what_is_out_of_scope_is_said(caplog):
    """A chance zero is trained where masks say so; a pooler that the model lacks is left out."""
    scoped = scope_of(sparse_net())
    saved = zeros_of(scoped)
    first = torch.nonzero(~saved["0.weight"])[0]
    saved["0.weight"][tuple(first)] = True  # zero in the file, alive by its mask
    with caplog.at_level(logging.INFO):
        keep = locked_masks(scoped, {**saved, "pooler.weight": torch.zeros(2, 2, dtype=torch.bool)})
    assert keep.keys() == scoped.keys() and bool(keep["0.weight"][tuple(first)])
    assert "pooler.weight" in caplog.text and "what its masks.safetensors drops" in caplog.text
    assert not bool(locked_masks(scoped, None)["0.weight"][tuple(first)])


@pytest.mark.parametrize("with_masks", [True, False])
def test_what_was_drawn_is_never_locked(with_masks):
    scoped = scope_of(sparse_net())
    keep = locked_masks(scoped, zeros_of(scoped) if with_masks else None, drawn={"2.weight", "2.bias"})
    assert keep.keys() == {"0.weight"}


def test_a_part_of_the_scope_can_be_locked():
    """Weights without a mask are trained as they are."""
    net = sparse_net()
    optimizer = adamw(net)
    lock(net, optimizer, {"0.weight": zeros_of(scope_of(net))["0.weight"]})
    train(net, optimizer)
    assert (net[0].weight == 0).any() and net[2].weight.all()


def test_a_checkpoint_without_zeros_is_refused_and_one_with_a_few_is_doubted(caplog):
    dense = nn.Sequential(nn.Linear(40, 30))
    with pytest.raises(LockError, match="no zero to keep among 1200 .*lock to false.*model.init"):
        locked_masks(scope_of(dense), None)
    with pytest.raises(LockError, match="no zero to keep"):
        lock(dense, adamw(dense))
    with pytest.raises(LockError, match="no zero to keep"):
        locked_masks(scope_of(dense), {"other": torch.zeros(2, 2, dtype=torch.bool)})
    with torch.no_grad():
        dense[0].weight[0, 0] = 0.0
    locked_masks(scope_of(dense), None)
    assert "only 1 of 1200 weights are zero" in caplog.text


def test_masks_of_other_weights_are_refused():
    net = sparse_net()
    scoped, keep = scope_of(net), zeros_of(scope_of(net))
    with pytest.raises(LockError, match=r"0.weight is \[2, 2\], its weight \[20, 12\].*another model"):
        locked_masks(scoped, {**keep, "0.weight": torch.zeros(2, 2, dtype=torch.bool)})
    with pytest.raises(LockError, match="torch.uint8; expected torch.bool"):
        locked_masks(scoped, {name: mask.to(torch.uint8) for name, mask in keep.items()})
    with pytest.raises(LockError, match="3.weight, which is no prunable weight"):
        lock(net, adamw(net), {"3.weight": keep["0.weight"]})


def test_saved_masks_that_drop_living_weights_are_refused():
    scoped = scope_of(sparse_net())
    keep = zeros_of(scoped)
    alive = torch.nonzero(keep["2.weight"])[:3]
    for place in alive:
        keep["2.weight"][tuple(place)] = False
    with pytest.raises(LockError, match="2.weight: 3 weights are not zero although their saved mask drops them"):
        locked_masks(scoped, keep)


def test_a_sparse_tensor_without_a_saved_mask_is_locked_by_its_zeros_and_a_dense_one_is_not(caplog):
    """A mask file of part of the scope must not let the rest grow back."""
    caplog.set_level("INFO", logger="ofa")
    weights = {name: nn.Parameter(torch.randn(40, 40)) for name in ("masked", "sparse", "dense")}
    masked, sparse = (torch.rand(40, 40) < 0.3 for _ in range(2))
    with torch.no_grad():
        weights["masked"].mul_(masked)
        weights["sparse"].mul_(sparse)
    keep = locked_masks(weights, {"masked": masked})
    assert keep.keys() == {"masked", "sparse"} and torch.equal(keep["sparse"], sparse)
    assert "no mask of sparse, which has zeros: these are locked too" in caplog.text


def test_zeros_that_a_saved_mask_keeps_are_named(caplog):
    weight = nn.Parameter(torch.randn(40, 40))
    keep = torch.rand(40, 40) < 0.3
    with torch.no_grad():
        weight.mul_(keep)
        weight[keep.nonzero()[:100].unbind(1)] = 0.0
    assert torch.equal(locked_masks({"a": weight}, {"a": keep})["a"], keep)
    assert "a: 100 weights are zero and its saved mask keeps them" in caplog.text
