"""The plan for one GPU machine without network, in runs of at most nine minutes.

    python benchmarks/gpu.py RUN [--wheels build/wheels/3.12] [--out FOLDER] [--device cpu] [--quick]

RUN is one of
    check         is what the GPU computes right: masks, losses, packing, resuming, zeros under every ZeRO stage
    kernels       ceilings of the device, and the step's parts one by one beside them
    ladder        the step benchmark at BERT-base, 512 tokens a row, 16 and 32 thousand tokens a step
    ladder_large  the same at BERT-large
    product       the training command itself, by ZeRO stage: tokens per second, stalls of loader, refresh, checkpoint

The machine's Python needs torch, transformers, triton and numpy. The rest comes as wheels (`make wheels`), which
--wheels installs into a folder that is removed at the end. Each run prints one table last and writes what it found to
FOLDER/RUN.json; the exit status is 1 if something is not as it must be. --quick takes small sizes, so that everything
can be tried on a CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))  # before this folder, whose data_prep.py would hide the package of that name

RUNS = {
    "check": ("benchmarks.gpu_check", {}),
    "kernels": ("benchmarks.gpu_kernels", {}),
    "ladder": ("benchmarks.gpu_ladder", {"size": "base"}),
    "ladder_large": ("benchmarks.gpu_ladder", {"size": "large"}),
    "product": ("benchmarks.gpu_product", {}),
}
"""Run: the module whose `measure` does it, and further arguments."""


def main() -> int:
    """Do one run; returns the exit status."""
    options = arguments()
    began = time.monotonic()
    with installed(options.wheels), tempfile.TemporaryDirectory() as place:
        common = importlib.import_module("benchmarks.gpu_common")  # imports torch, which wheels may have to complete
        settings = common.Settings(common.chosen_device(options.device), options.quick, Path(place))
        module, extra = RUNS[options.run]
        found = importlib.import_module(module).measure(settings, **extra)
        surroundings = common.surroundings(settings)
        said = importlib.import_module("benchmarks.made_by").in_words(surroundings)
    seconds = time.monotonic() - began
    result = {"run": options.run, "right": found.right, "seconds": seconds, **surroundings, **found.data}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.run}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(found.text())
    print(f"{said}; {seconds:.0f} s; {options.out / options.run}.json")
    return 0 if found.right else 1


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=RUNS, metavar="RUN")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="wheels of what this Python lacks")
    parser.add_argument("--out", type=Path, default=CHECKOUT / "build" / "gpu", metavar="FOLDER")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--quick", action="store_true", help="small sizes: does everything run?")
    options = parser.parse_args()
    if options.wheels and not list(options.wheels.glob("*.whl")):
        parser.error(f"--wheels {options.wheels}: no wheel there; make them with: make wheels")
    return options


@contextlib.contextmanager
def installed(wheels: Path | None) -> Iterator[None]:
    """The wheels can be imported here and in processes that are started, while this is open."""
    with tempfile.TemporaryDirectory() as target:
        paths = list(filter(None, [os.environ.get("PYTHONPATH")]))
        if wheels is not None:
            pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-compile", "--quiet"]
            files = [str(path) for path in sorted(wheels.glob("*.whl"))]
            subprocess.run([*pip, "--disable-pip-version-check", "--target", target, *files], check=True)
            sys.path.insert(0, target)
            paths.insert(0, target)
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        yield


if __name__ == "__main__":
    sys.exit(main())
