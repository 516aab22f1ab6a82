"""One rank of test_rewind: trains, saves, trains on, goes back, and reports which copies are not what they must be.

Run with one argument per case: "STAGE PRECISION hard [persist]".
"""

import json
import sys
from pathlib import Path

import torch

from ofa import dist
from ofa.engine.engine import Engine
from ofa.engine.process import start
from ofa.pruning.magnitude import MagnitudePruner
from ofa.recipe import Recipe
from tests.dist.mask_worker import Case, Net, share_of_loss
from tests.processes import end_rank

SAVED, LAST = 3, 12
"""Steps; masks are chosen at 0, 5 and 10."""


def rewind(case: Case, checkpoint: Path) -> dict:
    """What is wrong after going back, and how going back ends if one rank cannot read the checkpoint."""
    config = case.config()
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    torch.manual_seed(0)
    net = Net()
    scoped = {name: p for name, p in net.named_parameters() if p.dim() > 1}
    wrapped, recipe = Engine(config, net, scoped), Recipe(config)
    pruner = MagnitudePruner(config.pruning, scoped, wrapped.weights)
    generator = torch.Generator().manual_seed(dist.rank())
    saved = {}
    for step in range(LAST):
        if step == SAVED:
            saved = {name: wrapped.weights.gather(p).clone() for name, p in net.named_parameters()}
            wrapped.save(checkpoint.parent, checkpoint.name, {})
            dist.barrier()
        pruner.before_step(recipe.at(step))
        wrapped.set_lr(recipe.at(step).lr)
        for _ in range(wrapped.accumulation):
            wrapped.backward(share_of_loss(wrapped, torch.randn(2, 66, generator=generator).to(dtype)))
            wrapped.advance()
        pruner.after_step(recipe.at(step + 1))
    wrapped.rewind(checkpoint)
    pruner.enforce()
    expected = {name: value * pruner.keep.get(name, torch.ones(())) for name, value in saved.items()}
    wrong = wrong_copies(wrapped, net, expected, dtype)
    return {"wrong": wrong, "one_cannot_read": one_cannot_read(wrapped, checkpoint)}


def wrong_copies(wrapped: Engine, net: Net, expected: dict, dtype: torch.dtype) -> list[str]:
    """Masters, moments, and the weights that a forward sees."""
    masters = {name: wrapped.weights.gather(parameter) for name, parameter in net.named_parameters()}
    wrong = [f"master {name}" for name, master in masters.items() if not torch.equal(master, expected[name])]
    for name in wrapped.weights.shapes:
        moments = wrapped.weights.full_copies(name)[1:]
        wrong += [f"moment {name}"] * (len(moments) != 2 or any(map(torch.any, moments)))

    def look(number):
        def hook(module, inputs):
            for kind in ("weight", "bias"):
                value, name = getattr(module, kind).detach(), f"{number}.{kind}"
                wrong.extend([f"live {name}"] * (not torch.equal(value, expected[name].to(dtype))))
            seen.append(number)

        return hook

    state = getattr(wrapped._deepspeed.optimizer, "optimizer", wrapped._deepspeed.optimizer).state
    counted = [value for of_one in state.values() for key, value in of_one.items() if key == "step"]
    wrong += ["step count"] * (not counted or any(map(bool, counted)))

    seen = []
    for number in (0, 2):
        net[number].register_forward_pre_hook(look(number))
    wrapped(torch.zeros(2, 66, dtype=dtype))
    assert seen == [0, 2]
    return wrong


def one_cannot_read(wrapped: Engine, checkpoint: Path) -> str:
    """What ends this rank if the last one's checkpoint is not there."""
    mine = checkpoint if dist.rank() < dist.world_size() - 1 else checkpoint / "nowhere"
    try:
        wrapped.rewind(mine)
    except SystemExit:
        return "SystemExit"
    except ValueError as error:
        return f"ValueError: {' '.join(str(error).split()[:2])}"
    return "nothing"


if __name__ == "__main__":
    CASES = [
        Case(int(stage), precision, mode, rest == ["persist"])
        for stage, precision, mode, *rest in map(str.split, sys.argv[1:])
    ]
    start(CASES[0].config())
    reports = [rewind(case, Path(f"checkpoints-{number}", "step-3")) for number, case in enumerate(CASES)]
    Path(f"rank-{dist.rank()}.json").write_text(json.dumps(reports))
    end_rank()
