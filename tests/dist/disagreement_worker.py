"""One rank of test_agreement: a run of the product in which one bit of one mask is wrong on the last rank, from the
third refresh on; writes with what words the run ended here.

Run with the config's path.
"""

import sys
from pathlib import Path

from ofa import dist
from ofa.config import RunConfig, load
from ofa.pretrain import pretrain
from ofa.pruning.mask_set import MasksDiffer
from ofa.pruning.ranking import Ranking


class FaultyMemory:
    """Flips one bit of what a ranking has selected, as a broken machine would."""

    def __init__(self, select):
        self._select, self._refreshes = select, 0

    def __call__(self, ranking, *args, **kwargs):
        """The masks, from the third time on with one bit flipped."""
        keep = dict(self._select(ranking, *args, **kwargs))
        self._refreshes += 1
        if self._refreshes >= 3:
            name = list(keep)[4]
            keep[name] = keep[name].clone()
            keep[name][-1, -1] ^= True
        return keep


if __name__ == "__main__":
    if dist.rank() == dist.world_size() - 1:
        faulty = FaultyMemory(Ranking.select)
        Ranking.select = lambda self, *args, **kwargs: faulty(self, *args, **kwargs)
    try:
        pretrain(load(RunConfig, sys.argv[1]), Path("run"), name="faulty")
    except MasksDiffer as error:
        Path(f"words-{dist.rank()}.txt").write_text(str(error))
        raise
