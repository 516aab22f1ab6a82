"""A stock model under its quantisers: what it computes, and what stays as it was."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from ofa.config import QuantizationConfig, TaskObjectiveConfig
from ofa.downstream.qat.assemble import quantised
from ofa.downstream.qat.load import load_quantized
from ofa.downstream.qat.observers import CalibrationError
from ofa.downstream.qat.training import QatTraining
from ofa.export.quantization_file import QUANTIZATION_FILE, QuantizationFileError, encode_scales, read_scales
from ofa.models.task_training import TaskTraining, task_logits
from tests.integer_linear import integer_linear
from tests.reads import Reads, seen
from tests.runtime_cases import calibrated
from tests.structures import uneven_model
from tests.task_parts import ARCHITECTURES, batch_of, random_rows, save_model, small_model

KIND = "classification"
BATCH, TOTALS = batch_of(random_rows(KIND), KIND)
EVERYTHING = {"embeddings": True, "outputs": True, "attention_matmuls": True}
WAYS = [{}, {"preset": "published"}, EVERYTHING]


def training_of(model, quantisers):
    return QatTraining(model, KIND, TaskObjectiveConfig(ce_weight=1.0, kd_weight=0.0), quantisers)


@pytest.mark.parametrize("settings", WAYS, ids=str)
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_names_classes_and_state_stay_and_the_stock_model_comes_back(model_type, settings):
    model = small_model(model_type)
    names = [(name, type(module)) for name, module in model.named_modules()]
    state, stock = {name: value.clone() for name, value in model.state_dict().items()}, task_logits(model, KIND, BATCH)
    quantisers = calibrated(model, BATCH, **settings)
    found = task_logits(model, KIND, BATCH)
    assert [(name, type(module)) for name, module in model.named_modules()] == names
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    distance = float((found - stock).norm().detach() / stock.norm().detach())
    assert 0 < distance < 0.25, distance
    quantisers.quantising = False
    assert torch.equal(task_logits(model, KIND, BATCH), stock)
    quantisers.remove()
    assert torch.equal(task_logits(model, KIND, BATCH), stock)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_a_model_computes_with_8_bit_numbers_throughout(settings):
    """OFA-33, 35: each Linear's output is that of its integer simulation."""
    model = small_model("bert")
    quantisers = calibrated(model, BATCH, **settings)
    scales, seen_by = quantisers.scales().modules, {}
    handles = [
        site.module.register_forward_hook(lambda m, i, o, name=site.name: seen_by.__setitem__(name, (i[0], o)))
        for site in quantisers.sites.linears
    ]
    with torch.no_grad():
        task_logits(model, KIND, BATCH)
    assert seen_by.keys() == {site.name for site in quantisers.sites.linears}
    for site in quantisers.sites.linears:
        values, output = seen_by[site.name]
        expected = integer_linear(values, site.module.weight, site.module.bias, scales[site.name]).output
        if site.output:
            assert output.unique().numel() <= 256
            steps = (output - expected).abs() / scales[site.name].output.scale
            inside = (expected >= output.min()) & (expected <= output.max())
            assert float(steps[inside].max()) <= 0.51
        else:
            torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    for handle in handles:
        handle.remove()


def test_only_training_observes_and_only_while_it_is_told_to():
    """OFA-34: no update in evaluation; frozen ranges stay."""
    model = small_model("bert")
    quantisers = calibrated(model, BATCH)
    module = training_of(model, quantisers)
    before = quantisers.ranges.values.clone()
    quantisers.ranges.values.zero_()

    def moved(*, training, learning):
        quantisers.learning = learning
        module.train(training)
        module(BATCH, TOTALS)
        quantisers.ranges.commit(1.0)
        found = bool(quantisers.ranges.values.any())
        quantisers.ranges.values.zero_()
        return found

    assert not moved(training=False, learning=True) and not moved(training=True, learning=False)
    assert moved(training=True, learning=True)
    with torch.no_grad():  # a forward that nobody announced is evaluation
        quantisers.learning = True
        model.eval()
        task_logits(model, KIND, BATCH)
    quantisers.ranges.commit(1.0)
    assert not quantisers.ranges.values.any() and before.any()


@pytest.mark.parametrize("settings", WAYS, ids=str)
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_gradients_reach_every_weight_and_nothing_waits_for_the_device(model_type, settings):
    model = small_model(model_type).train()
    quantisers = calibrated(model, BATCH, **settings)
    quantisers.learning = True
    module = training_of(model, quantisers)
    reads = seen(Reads(), lambda: module(BATCH, TOTALS)[0].backward())
    assert not {place for place in reads.by_place if "ours" in place}, reads.by_place
    quantisers.ranges.commit()
    for site in quantisers.sites.linears:
        assert site.module.weight.grad.abs().sum() > 0, site.name


def test_bf16_goes_through():
    model = small_model("bert")
    stock = task_logits(model, KIND, BATCH)
    model = model.bfloat16()
    quantisers = calibrated(model, BATCH)
    quantisers.learning = True
    module = training_of(model.train(), quantisers)
    loss, _ = module(BATCH, TOTALS)
    loss.backward()
    quantisers.ranges.commit()
    assert quantisers.ranges.values.dtype == torch.float32
    found = task_logits(model.eval(), KIND, BATCH)
    assert found.dtype == torch.bfloat16
    assert float((found.detach() - stock.detach()).norm() / stock.detach().norm()) < 0.25


@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_a_model_under_quantisers_is_one_graph(settings, fresh_compiler):
    """Forward and backward, ranges included."""
    model = small_model("bert")
    quantisers = calibrated(model, BATCH, **settings)
    quantisers.learning = True

    def train(forward):
        quantisers.ranges.discard()
        quantisers.enter(BATCH.attention_mask.bool(), training=True)
        model.zero_grad()
        logits = forward(model, KIND, BATCH)
        logits.square().mean().backward()
        return logits.detach(), quantisers.ranges._seen.clone(), model.classifier.weight.grad.clone()

    found = train(torch.compile(task_logits, fullgraph=True, dynamic=False, backend="aot_eager"))
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    expected = train(task_logits)
    assert expected[1].isfinite().all()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def written(folder, model, **settings):
    """(folder of a model with its scales, its quantisers)"""
    quantisers = calibrated(model, BATCH, **settings)
    data = encode_scales(quantisers.scales())
    save_model(folder, model)
    (folder / QUANTIZATION_FILE).write_bytes(data)
    return folder, quantisers


@pytest.mark.parametrize("settings", WAYS, ids=str)
@pytest.mark.parametrize("model_type", ["bert", "distilbert", "compact"])
def test_a_model_that_is_read_back_gives_the_same_logits(tmp_path, model_type, settings):
    model = uneven_model() if model_type == "compact" else small_model(model_type)
    folder, quantisers = written(tmp_path / "model", model, **settings)
    expected = task_logits(model, KIND, BATCH)
    again, loaded = load_quantized(folder)
    assert torch.equal(task_logits(again, KIND, BATCH), expected)
    assert loaded.zeros() == quantisers.zeros()
    loaded.remove()
    quantisers.remove()
    assert torch.equal(task_logits(again, KIND, BATCH), task_logits(model, KIND, BATCH))


class Operations(TorchDispatchMode):
    """How often each operation is called."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_a_step_before_8_bits_begin_is_the_float_step(settings):
    """PERF-35: what is off costs nothing, forward and backward."""

    def counted(module):
        with Operations() as operations:
            module.train()(BATCH, TOTALS)[0].backward()
        return operations.counts

    model = small_model("bert")
    quantisers = calibrated(model, BATCH, **settings)
    quantisers.quantising = False
    stock = TaskTraining(small_model("bert"), KIND, TaskObjectiveConfig(ce_weight=1.0, kd_weight=0.0))
    assert counted(training_of(model, quantisers)) == counted(stock)


class Roundings(TorchDispatchMode):
    """How many tensors of two sizes with more rows than the batch has, which are weights, are rounded."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.round_.default and args[0].dim() == 2:
            self.number += len(args[0]) > len(BATCH.input_ids)
        return func(*args, **(kwargs or {}))


def test_a_finished_model_quantises_its_weights_once(tmp_path):
    """The same numbers as anew; a weight that is changed is quantised again, and gradients are those of training."""
    model = small_model("bert")
    folder, quantisers = written(tmp_path / "model", model)
    expected = task_logits(model, KIND, BATCH)
    again, loaded = load_quantized(folder)

    def forward():
        with torch.no_grad(), Roundings() as roundings:
            return task_logits(again, KIND, BATCH), roundings.number

    (first, once), (second, none) = forward(), forward()
    assert torch.equal(first, expected) and torch.equal(second, expected)
    assert once == len(loaded.sites.linears) - 1 and none == 0  # the head has 3 rows, fewer than the batch
    with torch.no_grad():
        for one in (model, again):
            one.bert.pooler.dense.weight.mul_(0.5)
        loaded.weights._scales = {name: scale.weight for name, scale in quantisers.scales().modules.items()}
        assert torch.equal(task_logits(again, KIND, BATCH), task_logits(model, KIND, BATCH))
    again.requires_grad_(True)
    task_logits(again, KIND, BATCH).sum().backward()
    assert again.bert.pooler.dense.weight.grad.abs().sum() > 0


def test_jitter_turns_over_the_roundings_that_last_bits_can():
    """A value moves by a whole step or not at all, and only where it lay on the edge of two."""
    quantisers = calibrated(small_model("bert"), BATCH)
    torch.manual_seed(0)
    scale, zero_point = quantisers.ranges.scale[0], quantisers.ranges.zero_point[0]
    values = (torch.rand(100_000) * 200 + 20 - zero_point) * scale
    still = quantisers.activation(0, values)
    quantisers.jitter = 1e-3
    moved = quantisers.activation(0, values) - still
    turned = moved != 0
    assert 0.5 < float(turned.float().mean()) / (1e-3 * (2 / torch.pi) ** 0.5) < 2
    torch.testing.assert_close(moved[turned].abs(), scale.expand(int(turned.sum())))
    assert float((values[turned] / scale % 1 - 0.5).abs().max()) < 1e-2


def test_zeros_of_the_weights_are_zeros_of_the_integers():
    """OFA-37: and more may become zero, never fewer."""
    model = small_model("bert")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                functional.dropout(module.weight, 0.8, inplace=True)
    quantisers = calibrated(model, BATCH)
    zeros, total = quantisers.zeros()
    in_floats = sum(int((site.module.weight == 0).sum()) for site in quantisers.sites.linears)
    assert total > zeros >= in_floats > 0.7 * total


def test_what_was_never_calibrated_cannot_be_exported():
    quantisers = quantised(small_model("bert"), QuantizationConfig(), "cpu")
    with pytest.raises(CalibrationError, match="never measured, so there are no scales to export"):
        quantisers.scales()


def test_a_model_has_quantisers_once():
    model = small_model("bert")
    quantised(model, QuantizationConfig(), "cpu")
    with pytest.raises(ValueError, match="has quantisers already"):
        quantised(model, QuantizationConfig(), "cpu")


def test_files_of_other_models_and_damaged_ones_are_refused(tmp_path):
    folder, _ = written(tmp_path / "bert", small_model("bert"))
    other = save_model(tmp_path / "distilbert", small_model("distilbert"))
    with pytest.raises(QuantizationFileError, match="does not exist.*no model that was trained in 8 bits"):
        load_quantized(other)
    data = (folder / QUANTIZATION_FILE).read_bytes()
    (other / QUANTIZATION_FILE).write_bytes(data)
    with pytest.raises(QuantizationFileError, match="has no Linear there: the file is another model's"):
        load_quantized(other)
    wider = save_model(tmp_path / "wider", small_model("bert", intermediate_size=40))
    (wider / QUANTIZATION_FILE).write_bytes(data)
    with pytest.raises(QuantizationFileError, match="has 32 scales and 40 rows"):
        load_quantized(wider)
    (folder / QUANTIZATION_FILE).write_bytes(data[:-7])
    with pytest.raises(QuantizationFileError, match="damaged or cut short"):
        read_scales(folder / QUANTIZATION_FILE)
