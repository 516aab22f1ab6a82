"""The copies of weights in a loop of one's own."""

import pytest
import torch
from torch import nn

from ofa.config import RunConfig, load
from ofa.pruning.magnitude import MagnitudePruner
from ofa.pruning.plain import PlainWeights, PlainWeightsError
from ofa.recipe import Recipe
from ofa.sections.schedule import PruningConfig, ScheduleConfig

STEPS = 40


def fresh():
    """A net and its scope."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(14, 30), nn.GELU(), nn.Linear(30, 14))
    return net, {name: parameter for name, parameter in net.named_parameters() if parameter.dim() > 1}


def optimizers(parameters):
    """Optimizers that keep a zero at zero, by name."""
    parameters = list(parameters)
    return {
        "adamw": torch.optim.AdamW(parameters, lr=1e-2),
        "amsgrad": torch.optim.AdamW(parameters, lr=1e-2, amsgrad=True),
        "sgd": torch.optim.SGD(parameters, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=0.01),
    }


@pytest.mark.parametrize("kind", ["adamw", "amsgrad", "sgd"])
def test_gradual_pruning_reaches_its_target_and_leaves_zeros_in_every_copy(kind):
    """OFA-2, OFA-21: exact counts at the end; +0.0 in weight and optimizer state after every step."""
    net, scoped = fresh()
    optimizer = optimizers(net.parameters())[kind]
    config = PruningConfig(sparsity=0.8, ramp_end=20, end=30, frequency=5, regrow=False)
    recipe = Recipe.of(ScheduleConfig(total_steps=STEPS, warmup_steps=4), 1e-2, config)
    pruner = MagnitudePruner(config, scoped, PlainWeights(scoped, optimizer))
    refreshes = 0
    for step in range(STEPS):
        refreshes += pruner.before_step(recipe.at(step)) is not None
        for group in optimizer.param_groups:
            group["lr"] = recipe.at(step).lr
        inputs = torch.randn(8, 14)
        optimizer.zero_grad()
        (net(inputs) - inputs.sin()).square().mean().backward()
        optimizer.step()
        pruner.after_step(recipe.at(step + 1))
        for name, weight in scoped.items():
            copies = [weight.detach(), *(v for v in optimizer.state[weight].values() if v.shape == weight.shape)]
            assert all(not copy[~pruner.keep[name]].view(torch.int32).any() for copy in copies)
    assert refreshes == 7
    assert [int((weight == 0).sum()) for weight in scoped.values()] == [336, 336]  # floor(0.8 * 420)


def test_regrowth_is_refused_by_name_in_the_first_step():
    net, scoped = fresh()
    config = PruningConfig(sparsity=0.8, ramp_start=10, ramp_end=20, frequency=5)
    recipe = Recipe.of(ScheduleConfig(total_steps=STEPS), 1e-2, config)
    pruner = MagnitudePruner(config, scoped, PlainWeights(scoped, torch.optim.AdamW(net.parameters())))
    pruner.before_step(recipe.at(0))
    with pytest.raises(PlainWeightsError, match="pruning.regrow .* set regrow to false"):
        pruner.after_step(recipe.at(1))


def test_weights_that_cannot_be_served_are_refused():
    net, scoped = fresh()
    with pytest.raises(PlainWeightsError, match="2.weight is in no group of the optimizer"):
        PlainWeights(scoped, torch.optim.AdamW(net[0].parameters()))
    net.bfloat16()
    with pytest.raises(PlainWeightsError, match="0.weight is torch.bfloat16.*no fp32 master"):
        PlainWeights(scoped, torch.optim.AdamW(net.parameters()))


def test_a_recipe_of_sections_is_that_of_a_run():
    """The same clock, whoever holds the sections."""
    config = load(RunConfig, "ofa_90.json")
    ours, theirs = Recipe.of(config.schedule, config.optimizer.lr, config.pruning), Recipe(config)
    assert ours.total_steps == theirs.total_steps
    assert all(ours.at(step) == theirs.at(step) for step in range(0, ours.total_steps + 1, 500))
