"""The masked forward against stock models: with weights scaled or cut instead of masks, and without any."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ofa.downstream.cofi.gated_norm import GatedLayerNorm
from ofa.downstream.cofi.gates import FAMILIES, Gates
from ofa.downstream.cofi.masked import MaskedForward
from ofa.downstream.cofi.recorder import LayerRecorder
from ofa.models.blocks import blocks_of, sizes_of, stream_of
from ofa.models.structure import StructureMasks
from ofa.models.task_training import task_logits
from tests.task_parts import ARCHITECTURES, batch_of, random_rows, small_model

LAYERS = 3
KIND = "classification"


def model_of(model_type="bert", *, layers=LAYERS, seed=0, **changes):
    """A small stock classifier in evaluation mode, with biases and norms of its own."""
    model = small_model(model_type, num_hidden_layers=layers, seed=seed, **changes)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            assert parameter.std() > 0, name
    return model


BATCH, _ = batch_of(random_rows(KIND), KIND)


def logits(model):
    """Of one batch with padding."""
    return task_logits(model, KIND, BATCH)


def recorded(model):
    """(logits, hidden states behind each layer)"""
    recorder = LayerRecorder(model)
    found = logits(model)
    recorder.remove()
    return found, recorder.take()


def random_masks(model, *, hidden=False, low=0.3, dead=0.0, seed=0, dtype=torch.float32):
    """Masks in [low, 1], a share of them 0."""
    generator = torch.Generator().manual_seed(seed)

    def draw(ones):
        values = low + (1 - low) * torch.rand(ones.shape, generator=generator)
        return (values * (torch.rand(ones.shape, generator=generator) >= dead)).to(dtype)

    ones = StructureMasks.ones(sizes_of(model), hidden=hidden)
    return StructureMasks(
        **{name: None if mask is None else draw(mask) for name, mask in vars(ones).items()}
    ).canonical()


def scaled(model, masks):
    """The model with masks multiplied into its weights: exact for sublayers whose masks are not 0 and, of hidden
    dimensions, for masks that are not 0 either (`reference/cofi.md` 2.1)."""
    stream, sizes = stream_of(model), sizes_of(model)
    hidden = torch.ones(sizes.hidden) if masks.hidden is None else masks.hidden
    norms = [stream.final_norm]
    with torch.no_grad():
        for number, block in enumerate(blocks_of(model)):
            head = masks.head[number].repeat_interleave(sizes.head_size)
            for linear, columns, layer in (
                (block.attention_out, head, masks.attention[number]),
                (block.down, masks.intermediate[number], masks.ffn[number]),
            ):
                linear.weight.mul_(columns).mul_((layer * hidden)[:, None])
                if linear.bias is not None:
                    linear.bias.mul_(layer * hidden)
            norms += [block.attention_norm, block.ffn_norm]
        if stream.projection is None:
            norms.append(stream.embedding_norm)
            for table in stream.embeddings:
                table.weight.mul_(hidden)
        else:
            stream.projection.weight.mul_(hidden[:, None])
            stream.projection.bias.mul_(hidden)
        for norm in norms:
            for weight in [] if norm is None else norm.parameters():
                weight.mul_(hidden)
    return model


def exact(model_type):
    """Tolerance in float64: ModernBERT-like rotations are computed in fp32 whatever the model's dtype is."""
    return {"rtol": 0, "atol": 1e-4 if hasattr(small_model(model_type).base_model, "rotary_emb") else 1e-10}


# ---- without masks, and with all of them 1 -------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_masks_of_one_change_no_bit(model_type, attention):
    """COFI-19, in evaluation and, with dropout, in training."""
    model = model_of(model_type, attn_implementation=attention)
    ones = StructureMasks.ones(sizes_of(model))
    for train in (False, True):
        model.train(train)
        found = []
        torch.manual_seed(1)
        expected = logits(model)
        with MaskedForward(model) as masked:
            for masks in (None, ones, None):
                masked.set(masks)
                torch.manual_seed(1)
                found.append(logits(model))
        assert all(torch.equal(one, expected) for one in found)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_hidden_masks_of_one_change_last_bits_at_most(model_type):
    """COFI-19: statistics are summed in another order."""
    model = model_of(model_type)
    expected = logits(model)
    with MaskedForward(model) as masked:
        masked.set(StructureMasks.ones(sizes_of(model), hidden=True))
        torch.testing.assert_close(logits(model), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("layers", [6, 24])
def test_any_number_of_layers_will_do(layers):
    """COFI-31"""
    model = model_of(layers=layers)
    expected = logits(model)
    with MaskedForward(model) as masked:
        masked.set(StructureMasks.ones(sizes_of(model)))
        assert torch.equal(logits(model), expected)
        masked.set(random_masks(model))
        assert not torch.equal(logits(model), expected)


# ---- masks against scaled weights ----------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [False, True], ids=["units", "units and hidden"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_masks_are_what_scaled_weights_are(model_type, hidden):
    """COFI-19, COFI-20, COFI-25: all families at once, none of them 0, in float64 against a stock model."""
    model = model_of(model_type).double()
    masks = random_masks(model, hidden=hidden, dtype=torch.float64)
    with MaskedForward(model) as masked:
        masked.set(masks)
        found = logits(model)
    stock = logits(model)
    torch.testing.assert_close(found, logits(scaled(model, masks)), **exact(model_type))
    assert float((found - stock).detach().abs().max()) > 0.01


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_dead_heads_and_dimensions_are_zeroed_columns(model_type, attention):
    """COFI-20: of the output projection and of the down projection; both attention backends alike."""
    model = model_of(model_type, attn_implementation=attention)
    masks = StructureMasks.ones(sizes_of(model))
    masks.head[0, 1] = masks.head[1, 0] = 0.0
    masks.intermediate[:, 5:20] = 0.0
    with MaskedForward(model) as masked:
        masked.set(masks)
        found = logits(model)
    torch.testing.assert_close(found, logits(scaled(model, masks)), rtol=0, atol=1e-5)
    other = model_of(model_type, attn_implementation="eager" if attention == "sdpa" else "sdpa")
    with MaskedForward(other) as masked:
        masked.set(masks)
        torch.testing.assert_close(logits(other), found, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_dead_hidden_dimensions_are_zero_everywhere_in_the_stream_and_count_for_nothing(model_type):
    """COFI-21: whatever stands in the weights that belong to them, finite numbers of any size, changes no bit."""
    model = model_of(model_type)
    masks = random_masks(model, hidden=True, dead=0.25)
    dead = masks.hidden == 0
    assert 0 < dead.sum() < len(dead)
    with MaskedForward(model) as masked:
        masked.set(masks)
        found, states = recorded(model)
        assert not any(state[..., dead].any() for state in states) and all(s[..., ~dead].all() for s in states)
        stream = stream_of(model)
        with torch.no_grad():
            writers = [table.weight for table in stream.embeddings] if stream.projection is None else []
            for block in blocks_of(model):
                writers += [*block.attention_norm.parameters(), *block.ffn_norm.parameters()]
                writers += [block.attention_out.weight.T, block.down.weight.T]
            for weight in writers:
                weight[..., dead] += 7.0
        assert torch.equal(logits(model), found)


# ---- dead sublayers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_dead_layer_gives_its_input_to_the_bit(model_type):
    """COFI-22"""
    model = model_of(model_type)
    masks = StructureMasks.ones(sizes_of(model))
    masks.attention[1] = masks.ffn[1] = 0.0
    with MaskedForward(model) as masked:
        masked.set(masks)
        _, (first, second, third) = recorded(model)
    assert torch.equal(first, second) and not torch.equal(second, third)


@pytest.mark.parametrize(
    "model_type", [name for name in ARCHITECTURES if not blocks_of(small_model(name))[0].paths.pre_norm]
)
def test_with_keep_norm_a_dead_layer_gives_its_norms_of_its_input(model_type):
    """COFI-22"""
    model = model_of(model_type)
    masks = StructureMasks.ones(sizes_of(model))
    masks.attention[1] = masks.ffn[1] = 0.0
    with MaskedForward(model, dead_sublayer="keep_norm") as masked:
        masked.set(masks)
        _, (first, second, _) = recorded(model)
    block = blocks_of(model)[1]
    assert torch.equal(second, block.ffn_norm(block.attention_norm(first)))
    assert float((second - first).detach().abs().max()) > 0.1


@pytest.mark.parametrize("dead_sublayer", ["skip", "keep_norm"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_sublayer_without_units_is_a_dead_sublayer(model_type, dead_sublayer):
    """COFI-26: in the published code it gives its bias and the norm."""
    model = model_of(model_type)
    ones = StructureMasks.ones(sizes_of(model))
    without = replace(ones, head=ones.head.clone(), intermediate=ones.intermediate.clone())
    without.head[0], without.intermediate[2] = 0.0, 0.0
    closed = replace(ones, attention=ones.attention.clone(), ffn=ones.ffn.clone())
    closed.attention[0], closed.ffn[2] = 0.0, 0.0
    with MaskedForward(model, dead_sublayer=dead_sublayer) as masked:
        masked.set(without)
        found = logits(model)
        assert masked.masks.attention[0] == masked.masks.ffn[2] == 0
        masked.set(closed)
        assert torch.equal(logits(model), found)


# ---- gradients and dtypes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dead_sublayer", ["skip", "keep_norm"])
def test_gradients_of_all_masks_are_those_of_finite_differences(dead_sublayer):
    """In float64; every family at once."""
    model = model_of(layers=2).double()
    masks = random_masks(model, hidden=True, dtype=torch.float64)
    names, values = zip(*vars(masks).items(), strict=True)
    with MaskedForward(model, dead_sublayer=dead_sublayer) as masked:

        def of_masks(*values):
            masked.set(StructureMasks(**dict(zip(names, values, strict=True))))
            return logits(model).sin()

        assert torch.autograd.gradcheck(of_masks, [value.requires_grad_() for value in values], fast_mode=True)


@pytest.mark.parametrize("how", ["bf16", "autocast"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_masks_take_the_dtype_of_the_activations_and_gates_stay_fp32(model_type, how):
    """COFI-4: logits near those in fp32, gradients of the gates in fp32 and in the same direction."""

    def run(dtype):
        model = model_of(model_type).to(torch.bfloat16 if dtype == "bf16" else torch.float32)
        torch.manual_seed(0)
        gates = Gates(sizes_of(model), FAMILIES, mean=2.0)
        with MaskedForward(model) as masked, torch.autocast("cpu", enabled=dtype == "autocast"):
            masked.set(gates.sample())
            found, states = recorded(model)
            if dtype == "bf16":
                assert {state.dtype for state in states} == {torch.bfloat16}
        found.float().square().sum().backward()
        return found.detach().float(), gates.log_alpha.grad

    (found, gradient), (expected, reference) = run(how), run("fp32")
    assert gradient.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) < 0.1
    assert float(nn.functional.cosine_similarity(gradient, reference, dim=0)) > 0.98


# ---- in and out ----------------------------------------------------------------------------------------------


def described(model):
    """Everything that placing masks may change."""
    hooks = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()}
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    parameters = {name: id(parameter) for name, parameter in model.named_parameters()}
    return {name: type(m) for name, m in model.named_modules()}, hooks, attributes, parameters, list(model.state_dict())


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_model_is_stock_again_once_masks_are_out(model_type):
    model = model_of(model_type)
    before, expected = described(model), logits(model)
    masked = MaskedForward(model)
    inside = described(model)
    assert inside[3:] == before[3:] and inside[0] != before[0]
    masked.set(random_masks(model, hidden=True, dead=0.3))
    assert not torch.equal(logits(model), expected)
    masked.remove()
    assert described(model) == before and torch.equal(logits(model), expected)
    with MaskedForward(model):
        pass
    assert described(model) == before


def test_masks_are_not_placed_twice():
    model = model_of()
    with MaskedForward(model) as masked:
        masked.set(random_masks(model))
        expected, before = logits(model), described(model)
        with pytest.raises(ValueError, match="found GatedLayerNorm; masks that were placed before must be removed"):
            MaskedForward(model)
        assert described(model) == before and torch.equal(logits(model), expected)


def test_a_model_that_does_not_fit_is_left_as_it_was():
    model = model_of()
    blocks_of(model)[-1].layer.output.LayerNorm = nn.RMSNorm(16)
    before = described(model)
    with pytest.raises(ValueError, match="expected a torch.nn.LayerNorm to be masked, found RMSNorm"):
        MaskedForward(model)
    assert described(model) == before
    assert not any(isinstance(module, GatedLayerNorm) for module in model.modules())


def test_masks_of_another_model_are_refused():
    model = model_of()
    sizes = sizes_of(model)
    with MaskedForward(model) as masked:
        for wrong, name in (
            (replace(sizes, layers=2), "head"),
            (replace(sizes, intermediate=8), "intermediate"),
            (replace(sizes, hidden=8), "hidden"),
        ):
            with pytest.raises(ValueError, match=f"{name} masks of shape .*, expected .*: these are masks of another"):
                masked.set(StructureMasks.ones(wrong, hidden=True))
            assert masked.masks is None
