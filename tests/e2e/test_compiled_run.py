"""A run with compiled encoder layers: killed and continued, with its zeros, and close to the run without."""

import pytest
from safetensors.torch import load_file

from tests import processes
from tests.e2e.test_resume import at_step, kill_when
from tests.run_files import metrics, model_bytes

COMPILED = ("--set", "engine.compile=true")


@pytest.fixture(scope="module")
def compiled(project):
    """The sparse config, compiled, left alone."""
    processes.script("pretrain.py", "--config", "sparse.json", "--run-dir", "compiled", *COMPILED, cwd=project)
    return project / "compiled"


@pytest.mark.slow
def test_a_compiled_run_that_is_killed_ends_with_the_same_bytes(project, compiled):
    """OFA-29 with engine.compile: dropout, masks and distillation repeat themselves after a restart."""
    folder = project / "compiled-and-killed"
    arguments = ("--config", "sparse.json", "--run-dir", str(folder), *COMPILED)
    kill_when(
        processes.start_script("pretrain.py", *arguments, cwd=project, output=project / "compiled.out"),
        at_step(folder, 12),
    )
    processes.script("pretrain.py", *arguments, cwd=project)
    assert "continuing from" in (folder / "log.txt").read_text()
    assert (compiled / "log.txt").read_text().count("encoder layers are compiled") == 2, "student and teacher"
    assert model_bytes(folder) == model_bytes(compiled)
    assert metrics(folder) == metrics(compiled)


@pytest.mark.slow
def test_a_compiled_run_prunes_as_one_that_is_not(project, compiled, undisturbed):
    """Dropout draws other numbers in compiled code, so the losses are close and not equal; the zeros are counted."""
    ours, eager = metrics(compiled), metrics(undisturbed["sparse"])
    assert [line["step"] for line in ours] == [line["step"] for line in eager]
    assert [line.get("sparsity") for line in ours] == [line.get("sparsity") for line in eager]
    for key in ("loss", "masked_lm_kd", "validation_loss"):
        theirs = [line[key] for line in eager if key in line]
        assert [line[key] for line in ours if key in line] == pytest.approx(theirs, rel=0.05) and theirs
    model = load_file(compiled / "model" / "model.safetensors")
    scope = [weight for name, weight in model.items() if "encoder.layer" in name and weight.dim() == 2]
    assert sum(int((weight == 0).sum()) for weight in scope) == sum(int(0.9 * weight.numel()) for weight in scope)


def test_a_machine_without_a_compiler_is_told_before_anything_is_written(project):
    """In one line, status 1, and no run folder with a config, a checkpoint or metrics."""
    arguments = ("--config", "sparse.json", "--run-dir", "uncompiled", *COMPILED)
    nothing = {"PATH": "/nonexistent", "CXX": "", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    done = processes.script("pretrain.py", *arguments, cwd=project, check=False, cold=True, **nothing)
    assert done.returncode == 1 and "engine.compile is true but torch.compile does not work" in done.stderr
    assert "C++ compiler" in done.stderr and "set engine.compile to false" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((project / "uncompiled").glob("*.json*")) and not (project / "uncompiled" / "checkpoints").exists()
