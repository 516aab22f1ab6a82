"""Encoder layers compiled one by one: whole graphs, shared by all layers, that compute what they computed before.

Most tests use the backend `aot_eager`, which traces forward and backward as the real one does and runs them without a
compiler; those marked slow generate code.
"""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from ofa.config import ObjectiveConfig, RunConfig
from ofa.models import compile as compiling
from ofa.models.adapters import ADAPTERS, AdapterError, encoder_layers, scope
from ofa.models.compile import CompileError, check_compiler, compile_layers
from ofa.models.pretraining import MaskedLanguageModeling, Teacher
from ofa.pruning.mask_set import MaskSet
from tests.corpora import build_run_config

EVERY_TYPE = [row.model_type for row in ADAPTERS]
PACKED = [[9, 14, 5], [30], [12, 12, 7]]
LENGTH = 36
DISTILLED = ObjectiveConfig(ce_weight=0.5, kd_weight=0.5, chunk_rows=16)
KINDS = {"modernbert": 2}
"""Kinds of layers, where there are several: its first one has no norm before the attention."""
REAL = pytest.param("inductor", marks=pytest.mark.slow)


pytestmark = pytest.mark.usefixtures("fresh_compiler")


def compiled(*models, backend="aot_eager"):
    compile_layers(models, device="cpu", backend=backend)
    counters.clear()  # of the probe


def graphs():
    """How many graphs were compiled so far."""
    return counters["stats"]["unique_graphs"]


def masks_of(model):
    """Masks at 70 %, in the weights and as hooks."""
    masks = MaskSet({name: weight.shape for name, weight in scope(model).items()})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in scope(model).items():
            masks.keep[name].copy_(torch.rand(weight.shape, generator=generator) > 0.7)
            weight.mul_(masks.keep[name])
    masks.mask_gradients(scope(model))
    return masks.keep


def trained(make, model_type, *, backend=None, steps=3):
    """Losses, weights and last gradients of some steps with masks, distillation, packing and accumulation."""
    student, other = (make.small_model(model_type, seed=seed) for seed in (1, 2))
    keep = masks_of(student)
    if backend:
        compiled(student, other, backend=backend)
    module, teacher = MaskedLanguageModeling(student, DISTILLED), Teacher(other, DISTILLED)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        batches = [make.packed_batch(PACKED, LENGTH, distilled="all", seed=2 * step + n)[0] for n in range(2)]
        totals = make.totals_of(batches)
        parts = [module(batch, totals, teacher.targets(batch))[0] for batch in batches]
        for part in parts:
            part.backward()
        optimizer.step()
        losses.append(sum(part.item() for part in parts))
    return losses, student, keep


@pytest.mark.parametrize("backend", ["aot_eager", REAL])
@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_training_with_masks_and_a_teacher_equals_eager_training(make, model_type, backend):
    """Losses of three steps within 1e-5, weights after them within 1e-4 of the largest update."""
    losses, eager, _ = trained(make, model_type)
    found, student, keep = trained(make, model_type, backend=backend)
    assert found == pytest.approx(losses, rel=1e-5) and graphs() == 2 * KINDS.get(model_type, 1)
    for (name, weight), expected in zip(student.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-5, msg=name)
    for name, weight in scope(student).items():
        assert (weight[~keep[name]] == 0).all() and (weight[keep[name]] != 0).any(), name


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_layers_of_a_kind_share_one_compilation_and_no_graph_breaks(make, model_type):
    """PERF-27: one graph for a student in training, one for its teacher, and after that none, however many layers,
    steps and masks follow."""
    layers = "n_layers" if model_type == "distilbert" else "num_hidden_layers"
    kinds = KINDS.get(model_type, 1)
    student, other = (make.small_model(model_type, seed=seed, dropout=0.1, **{layers: 4}) for seed in (1, 2))
    masks = masks_of(student)
    compiled(student, other)
    module, teacher = MaskedLanguageModeling(student, DISTILLED), Teacher(other, DISTILLED)
    found = []
    for seed in range(3):
        batch, totals = make.packed_batch(PACKED, LENGTH, distilled=0.5, seed=seed)
        found.append(graphs())
        targets = teacher.targets(batch)
        found.append(graphs())
        module(batch, totals, targets)[0].backward()
        for keep in masks.values():
            keep.logical_and_(torch.rand(keep.shape) > 0.1)
    assert found == [kinds * graph for graph in (0, 1, 2, 2, 2, 2)] and graphs() == 2 * kinds
    assert not counters["graph_break"]


def test_a_model_in_training_and_in_evaluation_has_a_graph_each(make):
    """Dropout and what a backward needs differ; a shorter last batch of a validation is one more."""
    student = make.small_model("bert", dropout=0.1)
    compiled(student)
    module = MaskedLanguageModeling(student, ObjectiveConfig(ce_weight=1.0, kd_weight=0.0))
    for rows, train, expected in ((3, True, 1), (3, False, 2), (1, False, 3), (3, True, 3), (1, False, 3)):
        batch, totals = make.packed_batch(PACKED[:rows], LENGTH)
        module.train(train)
        with torch.set_grad_enabled(train):
            module(batch, totals)
        assert graphs() == expected


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_names_classes_and_keys_stay(make, model_type):
    model = make.small_model(model_type)
    before = [(name, type(module)) for name, module in model.named_modules()], list(model.state_dict())
    parameters = dict(model.named_parameters())
    compiled(model)
    assert ([(name, type(module)) for name, module in model.named_modules()], list(model.state_dict())) == before
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_the_layer_list_of_every_row_is_found(make, model_type):
    model = make.small_model(model_type)
    weights = {id(p) for layer in encoder_layers(model) for p in layer.parameters()}
    assert len(encoder_layers(model)) == 2
    assert all(id(weight) in weights for name, weight in scope(model).items() if "pooler" not in name)


def test_a_wrong_path_to_the_layers_is_an_error(make):
    model = make.small_model("bert")
    model.bert.encoder.layer = nn.Identity()
    with pytest.raises(AdapterError, match="no list of layers at bert.encoder.layer; correct `layers` of the row"):
        encoder_layers(model)


@pytest.mark.parametrize("backend", ["aot_eager", REAL])
def test_dropout_follows_the_seed(make, backend):
    """A step can be repeated from its seed, which is what lets a resumed run repeat itself."""
    model = make.small_model("bert", dropout=0.3)
    compiled(model, backend=backend)
    module = MaskedLanguageModeling(model, ObjectiveConfig(ce_weight=1.0, kd_weight=0.0))
    batch, totals = make.packed_batch(PACKED, LENGTH)

    def loss(seed):
        torch.manual_seed(seed)
        return module(batch, totals)[0].item()

    first = loss(1)
    assert loss(1) == first != loss(2)


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_told_so():
    """In a process whose PATH has no compiler; the command is in tests/e2e/test_compiled_run.py."""
    program = "from ofa.models.compile import check_compiler; check_compiler('cpu')"
    clean = {key: value for key, value in os.environ.items() if key not in ("CXX", "CC")}
    cache = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    environment = {**clean, **cache, "PATH": "/nonexistent", "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "ofa.models.compile.CompileError: engine.compile is true but torch.compile" in last
    assert "C++ compiler" in last and "set engine.compile to false" in last


def test_an_unknown_backend_is_an_error_too():
    with pytest.raises(CompileError, match="does not work on this machine's cpu"):
        check_compiler("cpu", "no-such-backend")


@pytest.mark.parametrize(("before", "after"), [(8, compiling.VARIANTS), (1000, 1000)])
def test_the_limit_of_variants_is_raised_and_never_lowered(make, before, after):
    # Not with monkeypatch: taking back, it deletes what this module of torch computes, and the limit is gone for good.
    with torch._dynamo.config.patch(recompile_limit=before):
        compiled(make.small_model("bert"))
        assert torch._dynamo.config.recompile_limit == after


def test_zero_3_cannot_be_compiled():
    values = build_run_config().model_dump()
    for stage, fits in ((1, True), (2, True), (3, False)):
        values["engine"] |= {"zero_stage": stage, "compile": True}
        if fits:
            assert RunConfig.model_validate(values).engine.compile
        else:
            with pytest.raises(ValueError, match="zero_stage 3 gathers weights in hooks"):
                RunConfig.model_validate(values)
