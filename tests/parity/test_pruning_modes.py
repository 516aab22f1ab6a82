"""Both pruning modes under DeepSpeed against plain torch, where the mask is in the forward and the copy is dense."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ofa.config import RunConfig, parse
from ofa.engine.engine import Engine
from ofa.engine.process import start, stop
from ofa.pruning.magnitude import MagnitudePruner
from ofa.recipe import Recipe
from tests.selection import keep_largest

STEPS = 400
LR = 1e-2
DECAY = 0.01


class Net(nn.Module):
    """Two Linears, sizes that do not divide evenly; computes its own loss."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(13, 29), nn.Linear(29, 13)

    def forward(self, inputs):
        """Mean squared error against a fixed function of the inputs."""
        return F.mse_loss(self.second(F.gelu(self.first(inputs))), inputs.sin())


class MaskedForward(Net):
    """The oracle: dense weights, `F.linear(x, w * keep)` in every forward."""

    def __init__(self):
        super().__init__()
        self.keep = {"first.weight": torch.ones(29, 13).bool(), "second.weight": torch.ones(13, 29).bool()}

    def forward(self, inputs):
        """As Net, with masks."""
        hidden = F.linear(inputs, self.first.weight * self.keep["first.weight"], self.first.bias)
        outputs = F.linear(F.gelu(hidden), self.second.weight * self.keep["second.weight"], self.second.bias)
        return F.mse_loss(outputs, inputs.sin())


def make_config(regrow, ties="index", shift=0, clip=1.0):
    """A gradual recipe over STEPS steps; `shift` moves its grid."""
    pruning = {"sparsity": 0.9, "ramp_start": shift, "ramp_end": 200 + shift, "end": 320 + shift, "frequency": 10}
    return parse(
        RunConfig,
        {
            "model": {"architecture": {"model_type": "bert"}},
            "data": {"path": "none", "sequence_length": 8},
            "batch": {"global_size": 8, "micro_size": 8},
            "optimizer": {"lr": LR, "weight_decay": DECAY, "max_grad_norm": clip},
            "schedule": {"total_steps": STEPS, "warmup_steps": 20},
            "pruning": {**pruning, "regrow": regrow, "ties": ties},
            "engine": {"threads": 1},
        },
        origin="test",
    )


@pytest.fixture(scope="module")
def started():
    """One process group for the module."""
    start(make_config(True))
    yield
    stop()


def inputs_at(step):
    """The batch of a step."""
    return torch.randn(8, 13, generator=torch.Generator().manual_seed(step))


def fresh(kind):
    """A model with the same weights every time."""
    torch.manual_seed(0)
    return kind()


def run_ours(config):
    """Train under the engine; per step the live weights and masks as its forward finds them, and what came back."""
    net = fresh(Net)
    scoped = {"first.weight": net.first.weight, "second.weight": net.second.weight}
    wrapped = Engine(config, net, scoped)
    pruner, recipe, trace, revived = MagnitudePruner(config.pruning, scoped, wrapped.weights), Recipe(config), [], 0
    for step in range(STEPS):
        churn = pruner.before_step(recipe.at(step))
        revived += churn.revived if churn else 0
        trace.append({name: (w.detach().clone(), pruner.keep[name].clone()) for name, w in scoped.items()})
        wrapped.set_lr(recipe.at(step).lr)
        wrapped.backward(wrapped(inputs_at(step)))
        wrapped.advance()
        pruner.after_step(recipe.at(step + 1))
    return trace, revived, wrapped, pruner


def plain_optimizer(net):
    """AdamW with the engine's groups."""
    matrices, others = [p for p in net.parameters() if p.dim() > 1], [p for p in net.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LR)


def oracle_update(net, optimizer, step, clip=1.0):
    """One step of plain torch, at the warmed-up and decayed rate of that step."""
    for group in optimizer.param_groups:
        group["lr"] = LR * (step / 20 if step < 20 else (STEPS - step) / (STEPS - 20))
    optimizer.zero_grad()
    net(inputs_at(step)).backward()
    # The engine's clipping: norm over all gradients, divided by (norm + 1e-6) / limit where that exceeds 1.
    norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in net.parameters()]).double())
    if clip and (ratio := (float(norm) + 1e-6) / clip) > 1:
        for parameter in net.parameters():
            parameter.grad.mul_(1.0 / ratio)
    optimizer.step()


def test_retain_equals_a_forward_mask_on_a_dense_copy(started):
    """OFA-5: stale values, revival, masked gradients; bit for bit while the norm is not clipped."""
    config = make_config(regrow=True, clip=0.0)
    trace, revived, _, _ = run_ours(config)
    net, recipe = fresh(MaskedForward), Recipe(config)
    optimizer = plain_optimizer(net)
    hardened = False
    for step in range(STEPS):
        knobs = recipe.at(step)
        if knobs.update_mask:
            for name, keep in net.keep.items():
                keep.copy_(keep_largest(net.get_parameter(name).detach().abs(), knobs.sparsity))
        hardened = hardened or knobs.last_update
        for name, keep in net.keep.items():
            live, ours = trace[step][name]
            assert torch.equal(ours, keep), (step, name)
            assert torch.equal(live, net.get_parameter(name).detach() * keep), (step, name)
        oracle_update(net, optimizer, step, clip=0.0)
    assert hardened
    assert revived > 50, "nothing came back: this test would pass without stale values"


def test_retain_with_clipping_stays_with_the_oracle(started):
    """OFA-5: the clipped norm is that of masked gradients."""
    config = make_config(regrow=True, clip=0.05)
    trace, _, _, _ = run_ours(config)
    net, recipe = fresh(MaskedForward), Recipe(config)
    optimizer = plain_optimizer(net)
    for step in range(60):
        knobs = recipe.at(step)
        if knobs.update_mask:
            for name, keep in net.keep.items():
                keep.copy_(keep_largest(net.get_parameter(name).detach().abs(), knobs.sparsity))
        for name, keep in net.keep.items():
            assert torch.allclose(trace[step][name][0], net.get_parameter(name).detach() * keep, atol=1e-5)
        oracle_update(net, optimizer, step, clip=0.05)


def test_hard_equals_a_forward_mask_on_a_zeroed_copy(started):
    """OFA-5: dropped weights and their moments are zero at a refresh and never come back."""
    config = make_config(regrow=False, clip=0.0)
    trace, revived, _, _ = run_ours(config)
    net, recipe = fresh(MaskedForward), Recipe(config)
    optimizer = plain_optimizer(net)
    for step in range(STEPS):
        knobs = recipe.at(step)
        if knobs.update_mask:
            zero_and_freeze(net, optimizer, knobs.sparsity)
        for name, keep in net.keep.items():
            live, ours = trace[step][name]
            assert torch.equal(ours, keep) and torch.equal(live, net.get_parameter(name).detach()), (step, name)
            assert not live[~keep].any()
        oracle_update(net, optimizer, step, clip=0.0)
    assert revived == 0


def zero_and_freeze(net, optimizer, sparsity):
    """A refresh of the hard mode in plain torch."""
    for name, keep in net.keep.items():
        weight = net.get_parameter(name)
        scores = torch.where(keep, weight.detach().abs(), -1.0)
        keep.copy_(keep_largest(scores, sparsity))
        with torch.no_grad():
            weight[~keep] = 0.0
        for value in optimizer.state[weight].values():
            if value.shape == weight.shape:
                value[~keep] = 0.0


def test_the_published_code_is_reproduced_with_its_grid_moved_by_one(started):
    """OFA-5: its callback counts from the end of an update, so a mask of its step t takes effect one update later than
    ours; it drops every tie. Adding 1 to the grid's four numbers gives its run bit for bit."""
    config = make_config(regrow=True, ties="drop_all", shift=1, clip=0.0)
    trace, _, _, _ = run_ours(config)
    net, published = fresh(MaskedForward), Recipe(make_config(regrow=True, clip=0.0))
    optimizer = plain_optimizer(net)
    for step in range(STEPS):
        for name, keep in net.keep.items():
            live, ours = trace[step][name]
            assert torch.equal(ours, keep) and torch.equal(live, net.get_parameter(name).detach() * keep), (step, name)
        oracle_update(net, optimizer, step, clip=0.0)
        on_step_end = published.at(step)
        if on_step_end.update_mask:
            for name, keep in net.keep.items():
                magnitude = net.get_parameter(name).detach().abs()
                count = int(on_step_end.sparsity * magnitude.numel())
                keep.copy_(magnitude > magnitude.flatten().kthvalue(count).values if count else magnitude >= 0)


def test_the_last_refresh_hardens_masters_and_moments(started):
    """OFA-21: after it nothing dense is left behind the zeros."""
    config = make_config(regrow=True)
    _, _, wrapped, pruner = run_ours(config)
    for name, keep in pruner.keep.items():
        for copy in wrapped.weights.full_copies(name):
            assert not copy[~keep].any()
            assert copy[keep].any()
