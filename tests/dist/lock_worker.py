"""One rank of test_lock: trains a sparse net under the lock, meets a bad batch, saves, goes on from there in another
engine, and reports what is not +0.0 where zeros were, as JSON.

Run with one argument per case: "STAGE PRECISION [persist]".
"""

import json
import sys
from pathlib import Path

import torch

from ofa import dist
from ofa.checkpoint import Checkpoints, Start, load
from ofa.config import CheckpointConfig
from ofa.engine.checkpoint_files import read_checkpoint
from ofa.engine.process import start
from tests.dist.elastic_worker import Training, folder
from tests.dist.mask_worker import Case, Watch, one_more_update
from tests.dist.skip_worker import bad_batch, differs, one_is_not_a_number
from tests.processes import end_rank

BAD, SAVED, LAST = 5, 11, 14
"""Steps: before which a batch is spoilt, before which is saved, and the end."""


def parse(case: str) -> Case:
    """`3 bf16 persist`"""
    stage, precision, *rest = case.split()
    return Case(int(stage), precision, "lock", rest == ["persist"])


def watched(training: Training) -> Watch:
    """Counts what is alive or -0.0 in every forward from now on."""
    watch = Watch({"0.weight": training.net[0], "2.weight": training.net[2]})
    watch.keep, watch.counts_signs = training.pruner.keep, True
    return watch


def behind(training: Training, state: dict[str, torch.Tensor]) -> dict[str, int]:
    """By copy of a weight: how many of its locked places hold other bits than +0.0."""
    keep = training.pruner.keep
    copies = {name: name.split()[-1] for name in state if name.split()[-1] in keep and not name.startswith("keep")}
    return {
        name: int(state[name][~keep[weight]].float().view(torch.int32).count_nonzero())
        for name, weight in copies.items()
    }


def in_the_file(training: Training, path: Path) -> int:
    """How many locked places of the saved masters hold other bits than +0.0."""
    values, _ = read_checkpoint(path, prefix="")
    return sum(int(values[n][~k].view(torch.int32).count_nonzero()) for n, k in training.pruner.keep.items())


def locked(case: str) -> dict:
    """Before and after a checkpoint."""
    training = Training(parse(case))
    watch = watched(training)
    first = {name: training.engine.weights.full_master(name).clone() for name in training.pruner.keep}
    training.run(0, BAD)
    before = training.state()
    applied = bad_batch(training, one_is_not_a_number)
    report = {"applied": applied, "moved_by_a_skip": differs(before, training.state())}
    training.run(BAD, SAVED)
    state, checkpoints = training.state(), Checkpoints(folder(case), CheckpointConfig())
    report |= {"behind": behind(training, state), "kept_has_moved": True}
    for name, keep in training.pruner.keep.items():
        report["kept_has_moved"] &= bool((state[f"master {name}"] != first[name])[keep].all())
    checkpoints.save(training.engine, SAVED, {"step": SAVED, "pruner": training.pruner.state_dict()})
    path = checkpoints.at(SAVED)
    report["in_the_file"] = in_the_file(training, path)
    report["grad_norms"] = one_more_update(training.engine, training.net, training.pruner.keep, training.dtype)

    again = Training(parse(case), seed=1)  # other weights with the same zeros: what is not loaded shows
    watch_again = watched(again)
    _, client = load(again.engine, Start(path, universal=False))
    again.pruner.load_state_dict(client["pruner"], again.recipe.at(SAVED))
    report["loaded_differs"] = differs(state, again.state())
    again.run(SAVED, LAST)
    report["behind_later"] = behind(again, again.state())
    report["alive_in_a_forward"] = watch.alive + watch_again.alive
    report["negative_zeros"] = watch.negative_zeros + watch_again.negative_zeros
    report["zeros"] = {name: int((~keep).sum()) for name, keep in again.pruner.keep.items()}
    return report | {"mask_hash": again.pruner.state_dict()["mask_hash"]}


if __name__ == "__main__":
    start(parse(sys.argv[1]).config())
    reports = [locked(case) for case in sys.argv[1:]]
    Path(f"rank-{dist.rank()}.json").write_text(json.dumps(reports))
    end_rank()
