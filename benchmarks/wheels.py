"""What a GPU machine without network lacks: python benchmarks/wheels.py [--output build/wheels] [--python 3.11 3.12]

Makes one folder a Python version with the wheels that the project needs beside torch, transformers and what these
bring, in the versions of constraints.txt: to import and run training, export and report, the benchmarks and the tests.
DeepSpeed has no wheel of its own; it is built here, without its compiled operations, which need a compiler and are not
used. Left out are pyarrow, pandas, datasets, scikit-learn and scipy, which only preparing text from such sources and
scoring tasks need, and which are larger than everything else together.

Exit status 1 if a folder would be larger than 64 MiB: then there is none.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))  # before this folder, whose data_prep.py would hide the package of that name

from ofa.files import empty_folder_beside, replace_folder  # noqa: E402
from ofa.tables import table  # noqa: E402

LIMIT = 64 * 2**20
"""Bytes of one folder."""

BUILT = ["deepspeed"]
"""Packages without a wheel."""

FETCHED = {
    "deepspeed": ["einops", "hjson", "msgpack", "ninja", "psutil", "py-cpuinfo"],
    "configs": ["pydantic", "pydantic_core", "annotated-types", "typing-inspection", "typing_extensions"],
    "metrics": ["tensorboard", "protobuf", "absl-py"],
    "terminal": ["rich", "Pygments", "markdown-it-py", "mdurl"],
    "report": [
        "matplotlib",
        "contourpy",
        "cycler",
        "kiwisolver",
        "fonttools",
        "pillow",
        "pyparsing",
        "python-dateutil",
    ],
    "shards": ["webdataset", "braceexpand", "zstandard"],
    "cluster": ["submitit", "cloudpickle"],
    "tests": ["pytest", "pluggy", "iniconfig", "hypothesis", "sortedcontainers"],
}
"""What needs them, and distributions that have wheels."""

PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(34, 4, -1)] + ["manylinux2014_x86_64", "any"]
"""What pip may take: it compares these names, not versions of the C library."""


def main() -> int:
    """Make every folder and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=CHECKOUT / "build" / "wheels")
    parser.add_argument("--python", nargs="+", default=["3.11", "3.12"], metavar="VERSION")
    options = parser.parse_args()
    return max(make(options.output / version, version) for version in options.python)


def make(folder: Path, version: str) -> int:
    """One Python version's wheels in `folder`; returns the exit status."""
    building = empty_folder_beside(folder)
    built = [requirement(name) for name in BUILT]
    pip("wheel", "--no-deps", "--wheel-dir", str(building), *built)
    pip("download", "--no-deps", "--dest", str(building), *target(version), *map(requirement, fetched()))
    sizes = {path.name: path.stat().st_size for path in sorted(building.iterdir())}
    total = sum(sizes.values())
    print(table([f"Python {version}", "kB"], [[name, f"{size / 1e3:,.0f}"] for name, size in sizes.items()]))
    print(f"{folder}: {len(sizes)} wheels, {total / 2**20:.1f} of at most {LIMIT / 2**20:.0f} MiB\n")
    if total > LIMIT:
        print(f"error: {folder} would be too large; it is left as it was", file=sys.stderr)
        return 1
    replace_folder(building, folder)
    return 0


def fetched() -> list[str]:
    """Names of everything that has a wheel."""
    return [name for names in FETCHED.values() for name in names]


def requirement(name: str) -> str:
    """`name==version` as constraints.txt has it.

    Raises:
        ValueError: it does not.
    """
    for line in (CHECKOUT / "constraints.txt").read_text().splitlines():
        found = line.partition("==")[0].lower().replace("_", "-")
        if found == name.lower().replace("_", "-"):
            return line
    raise ValueError(f"constraints.txt does not pin {name}: add the version that tests run with")


def target(version: str) -> list[str]:
    """pip's options for wheels of another Python on Linux with an x86-64 processor."""
    platforms = [option for platform in PLATFORMS for option in ("--platform", platform)]
    return ["--only-binary", ":all:", "--implementation", "cp", "--python-version", version, *platforms]


def pip(*arguments: str) -> None:
    """Run pip quietly; its errors are shown. Ends the process if it fails."""
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, env={**os.environ, "DS_BUILD_OPS": "0"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stderr.strip()}\nerror: {' '.join(command)} failed")


if __name__ == "__main__":
    sys.exit(main())
