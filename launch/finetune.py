"""Fine-tune a task model from an encoder whose zeros stay, as the config says.

    python launch/finetune.py --config tiny/finetune.json --with-teacher
    python launch/finetune.py --config downstream/sst2.json --set task.path=glue/SST-2
    deepspeed launch/finetune.py --config downstream/squad.json --set model.init=runs/ofa_90/model
    python launch/finetune.py --config downstream/mrpc.json --set lock=false --set model.init=bert-base-uncased

Exit status 0: done; 75: stopped and saved, start it again.
"""

import common
import task_run

from ofa import config

if __name__ == "__main__":
    RUN = task_run.prepare(__doc__, config.FinetuneConfig)
    from ofa.downstream.finetune import finetune  # after the checks: it takes seconds to import
    from ofa.downstream.inputs import check_models

    common.main_wrapper(lambda: RUN.do(finetune, finetune, check_models))
