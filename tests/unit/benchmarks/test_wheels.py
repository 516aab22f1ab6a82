"""The wheels that a GPU machine gets: pinned, complete, and a folder of them that installs."""

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks import wheels

CHECKOUT = Path(__file__).resolve().parents[3]
THERE = {"torch", "transformers", "numpy", "triton"}
"""What the machine's Python has, with what these need."""


def imported_at_the_top(path):
    """Names of packages that a file imports when it is imported."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_every_wheel_has_the_version_that_tests_run_with():
    for name in [*wheels.BUILT, *wheels.fetched()]:
        assert "==" in wheels.requirement(name)
    with pytest.raises(ValueError, match="does not pin nosuchpackage: add the version"):
        wheels.requirement("nosuchpackage")


def test_whatever_pre_training_imports_is_carried_or_comes_with_torch_and_transformers():
    packages = metadata.packages_distributions()
    carried = {name.lower().replace("_", "-") for name in [*wheels.BUILT, *wheels.fetched()]}
    ours = {"ofa", "data_prep", "launch", "benchmarks", "tests", "common"}
    files = [
        path
        for folder in ("ofa", "launch", "data_prep", "benchmarks")
        for path in (CHECKOUT / folder).rglob("*.py")
        if not {"downstream", "runtimes"} & {*path.parts}  # what scores tasks needs scikit-learn or scipy, too large
    ]
    imported = set().union(*map(imported_at_the_top, files)) - set(sys.stdlib_module_names) - ours
    distributions = {packages[name][0].lower().replace("_", "-") for name in imported if name in packages}
    needed_by_them = {"tokenizers", "safetensors", "huggingface-hub", *THERE}
    assert {"pydantic", "deepspeed"} <= distributions <= carried | needed_by_them


def test_pip_is_asked_for_wheels_of_the_other_python():
    options = wheels.target("3.12")
    assert options[options.index("--python-version") + 1] == "3.12" and "manylinux_2_28_x86_64" in options


@pytest.mark.slow
def test_a_folder_is_made_and_small_enough(tmp_path, capsys):
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert wheels.make(tmp_path / "wheels", version) == 0
    found = list((tmp_path / "wheels").glob("*.whl"))
    assert len(found) == len(wheels.BUILT) + len(wheels.fetched())
    assert sum(path.stat().st_size for path in found) <= wheels.LIMIT
    assert "of at most 64 MiB" in capsys.readouterr().out
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", tmp_path / "site"]
    subprocess.run([*install, *found], check=True)
    assert (tmp_path / "site" / "deepspeed").is_dir()


@pytest.mark.slow
def test_a_folder_that_would_be_too_large_is_refused_and_the_old_one_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "LIMIT", 1000)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "old.whl").touch()
    assert wheels.make(tmp_path / "wheels", "3.12") == 1
    assert [path.name for path in (tmp_path / "wheels").iterdir()] == ["old.whl"]
