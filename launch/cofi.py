"""Prune the structure of a model with CoFi: whole heads, dimensions and layers go, a small dense model comes out. A
config with `task` prunes a task model; one with `data` a masked-LM model, before any task.

    python launch/cofi.py --config tiny/cofi.json --with-teacher
    python launch/cofi.py --config downstream/cofi_large.json --set task.path=glue/SST-2
    python launch/cofi.py --config tiny/cofi_mlm.json
    deepspeed launch/cofi.py --config downstream/cofi_large.json --set structure.sparsity=0.6

Exit status 0: done; 75: stopped and saved, start it again.
"""

import common
import task_run

from ofa import config

if __name__ == "__main__":
    RUN = task_run.prepare(__doc__, config.CofiConfig, config.CofiMlmConfig)
    from ofa.downstream.cofi.run import check_beforehand, cofi  # after the checks: it takes seconds to import
    from ofa.downstream.finetune import finetune

    common.main_wrapper(lambda: RUN.do(cofi, finetune, check_beforehand))
