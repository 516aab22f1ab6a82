"""Which `ofa` the Python of a job imports."""

from __future__ import annotations

import os
from pathlib import Path

from ofa.config import CHECKOUT


def python_path(code: Path = CHECKOUT) -> str:
    """PYTHONPATH of this process with a folder of code before all else; the same again where it is already."""
    paths = [str(code), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.pathsep.join(dict.fromkeys(paths))
