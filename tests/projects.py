"""Folders in which runs that prune begin: data, configs, and a dense model trained by the real command."""

import json

from tests import processes
from tests.corpora import write_corpus


def with_teacher(folder, *, cold=False, **configs):
    """Fill a folder; its path.

    Args:
        folder: empty.
        cold: train in a process that begins with nothing imported.
        configs: by name; `teacher` is trained.
    """
    write_corpus(folder / "data", rows=120)
    for name, values in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    processes.script("pretrain.py", "--config", "teacher.json", cwd=folder, cold=cold)
    return folder
