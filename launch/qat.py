"""Train a task model in 8 bits, its zeros kept: fake-quantised Linears, scales beside the model.

    python launch/qat.py --config tiny/qat.json
    python launch/qat.py --config downstream/qat.json --set task.path=glue/SST-2
    deepspeed launch/qat.py --config downstream/qat_published.json --set model.init=runs/downstream/mnli/model

Exit status 0: done; 75: stopped and saved, start it again.
"""

import common
import task_run

from ofa import config

if __name__ == "__main__":
    RUN = task_run.prepare(__doc__, config.QatConfig)
    from ofa.downstream.finetune import finetune  # after the checks: it takes seconds to import
    from ofa.downstream.inputs import check_models
    from ofa.downstream.qat.run import qat

    common.main_wrapper(lambda: RUN.do(qat, finetune, check_models))
