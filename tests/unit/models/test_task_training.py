"""Losses of fine-tuning against their formulas in float64, and what may not change them: padding, division."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.config import FinetuneConfig, TaskObjectiveConfig
from ofa.data.task_rows import IGNORED
from ofa.models.task_training import TaskTeacher, TaskTraining, TaughtRows, task_logits
from tests.reads import Reads, seen
from tests.task_parts import ARCHITECTURES, KINDS, batch_of, random_rows, small_model

CLASSES = {"classification": 3, "tokens": 3}
ORDER = [2, 0, 1]


def training(kind, *, model_type="bert", ce=1.0, kd=0.0, temperature=2.0, seed=0):
    """A small model with its losses, in evaluation mode."""
    objective = TaskObjectiveConfig(ce_weight=ce, kd_weight=kd, temperature=temperature)
    return TaskTraining(small_model(model_type, kind, seed=seed), kind, objective).eval()


def teacher(kind, *, order=None, model_type="bert", seed=5):
    return TaskTeacher(small_model(model_type, kind, seed=seed), kind, order)


def with_gradient(module, batch, totals, targets=None, scale=1.0):
    """(loss, terms, gradient of the logits): the head's output is caught on its way."""
    caught = []
    head = module.model.qa_outputs if module.kind == "questions" else module.model.classifier
    hook = head.register_forward_hook(lambda _, __, output: caught.append(output))
    loss, terms = module(batch, totals, targets, scale)
    hook.remove()
    caught[0].retain_grad()
    loss.backward()
    return loss, terms, caught[0].grad


# ---- the oracle: one softmax at a time, in float64 -----------------------------------------------------------


def shares(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def choices(kind, batch):
    """(place in the logits, label, weight) of every softmax."""
    labels, mask = batch.labels.numpy(), batch.attention_mask.numpy()
    for row in range(len(labels)):
        if kind == "classification":
            yield (row,), labels[row], 1.0
        elif kind == "tokens":
            yield from (((row, place), label, 1.0) for place, label in enumerate(labels[row]) if label != IGNORED)
        else:
            real = slice(0, mask[row].sum())
            yield from (((row, real, side), labels[row, side], 0.5) for side in (0, 1))


def oracle(kind, logits, batch, targets, counted, *, ce, kd, temperature):
    """(label loss, distillation loss, gradient of ce * one + kd * other) of logits, over `counted`."""
    logits = logits.detach().double().numpy()
    taught = None if targets is None else targets.double().numpy()
    gradient, label_loss, distance = np.zeros_like(logits), 0.0, 0.0
    if kind == "regression":
        label_loss = ((logits - batch.labels.double().numpy()) ** 2).sum()
        gradient += ce * 2 * (logits - batch.labels.double().numpy())
        if taught is not None:
            distance = ((logits - taught) ** 2).sum()
            gradient += kd * 2 * (logits - taught)
        return label_loss / counted, distance / counted, gradient / counted
    for place, label, weight in choices(kind, batch):
        ours = shares(logits[place])
        label_loss -= weight * np.log(ours[label])
        gradient[place] += ce * weight * (ours - np.eye(len(ours))[label])
        if taught is not None:
            soft, theirs = shares(logits[place] / temperature), shares(taught[place] / temperature)
            distance += weight * temperature**2 * (theirs * np.log(theirs / soft)).sum()
            gradient[place] += kd * weight * temperature * (soft - theirs)
    return label_loss / counted, distance / counted, gradient / counted


WEIGHTS = [(1.0, 0.0, 2.0), (0.0, 1.0, 2.0), (0.5, 0.5, 2.0), (0.3, 2.0, 5.5)]


@pytest.mark.parametrize(("ce", "kd", "temperature"), WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_the_formulas(kind, ce, kd, temperature):
    """OFA-15: T^2 KL(teacher || student) and the gradient T (p_S - p_T) / N; OFA-17: start and end are averaged."""
    batch, totals = batch_of(random_rows(kind), kind)
    assert (batch.attention_mask == 0).any(), "without padding this test would see less"
    module = training(kind, ce=ce, kd=kd, temperature=temperature)
    targets = teacher(kind).targets(batch) if kd else None
    loss, terms, gradient = with_gradient(module, batch, totals, targets)
    label_loss, distance, expected = oracle(
        kind, module(batch), batch, targets, totals.counted, ce=ce, kd=kd, temperature=temperature
    )
    assert terms["label_loss"].item() == pytest.approx(label_loss, rel=1e-5)
    assert loss.item() == pytest.approx(ce * label_loss + kd * distance, rel=1e-5)
    assert ("kd" in terms) == (kd > 0) and (not kd or terms["kd"].item() == pytest.approx(distance, rel=1e-5))
    found = gradient.squeeze(-1) if kind == "regression" else gradient
    assert np.abs(found.double().numpy() - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("kind", KINDS)
def test_right_answers_are_counted(kind):
    batch, totals = batch_of(random_rows(kind, 60, seed=4), kind)
    module = training(kind)
    logits, labels = module(batch).detach(), batch.labels
    terms = module(batch, totals)[1]
    if kind == "regression":
        assert "correct" not in terms
        return
    if kind == "questions":
        logits = logits.masked_fill(batch.attention_mask[..., None] == 0, -1e9)
        expected = int((logits.argmax(1) == labels).all(1).sum())
    else:
        expected = int(((logits.argmax(-1) == labels) & (labels != IGNORED)).sum())
    assert terms["correct"].item() == expected and 0 < expected < totals.counted


@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_multiplies_the_loss_and_no_term(kind):
    batch, totals = batch_of(random_rows(kind), kind)
    module = training(kind)
    (one, terms), (eight, same) = module(batch, totals), module(batch, totals, None, 8.0)
    assert eight.item() == 8 * one.item() and {k: v.item() for k, v in terms.items()} == {
        k: v.item() for k, v in same.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_without_totals_the_logits_come_out(kind):
    batch, _ = batch_of(random_rows(kind), kind)
    size, width = batch.input_ids.shape
    shapes = {"classification": (size, 3), "regression": (size,), "tokens": (size, width, 3)}
    module = training(kind)
    logits = module(replace(batch, labels=None))
    assert logits.shape == shapes.get(kind, (size, width, 2)) and torch.equal(logits, module(batch))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_logits_are_those_of_the_stock_forward(model_type, attention):
    """The mask is made here, so that nobody looks at its values; token types go where the model has an embedding."""
    model = small_model(model_type)
    model.set_attn_implementation(attention)
    batch, _ = batch_of(random_rows("classification"), "classification")
    types = {"token_type_ids": batch.token_type_ids} if model_type in ("bert", "electra") else {}
    stock = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **types).logits
    found = task_logits(model, "classification", batch)
    assert torch.allclose(found, stock, atol=1e-5) and stock.std() > 0.1


@pytest.mark.parametrize("kind", ["classification", "tokens"])
def test_a_sentence_judged_by_the_mean_of_its_tokens_is_the_stock_models(kind):
    """Its head needs the mask [B, S]; heads for tokens do not."""
    model = small_model("modernbert", kind, classifier_pooling="mean")
    batch, _ = batch_of(random_rows(kind), kind)
    stock = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    real = batch.attention_mask.bool() if kind == "tokens" else slice(None)
    assert torch.allclose(task_logits(model, kind, batch)[real], stock[real], atol=1e-5) and stock.std() > 0.1


# ---- defaults of the transfer --------------------------------------------------------------------------------

MINIMAL = {"model": {"init": "x"}, "task": {"name": "sst2"}, "optimizer": {"lr": 1e-4}}
MINIMAL |= {"batch": {"global_size": 8, "micro_size": 8}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(kind):
    """OFA-17: with a teacher the default weights are 0 and 1, and KD < 1e-6 in evaluation mode at step 0."""
    config = FinetuneConfig.model_validate({**MINIMAL, "teacher": {"init": "y"}})
    assert (config.objective.ce_weight, config.objective.kd_weight) == (0.0, 1.0)
    batch, totals = batch_of(random_rows(kind), kind)
    module = TaskTraining(small_model("bert", kind, seed=3), kind, config.objective).eval()
    loss, terms, gradient = with_gradient(module, batch, totals, teacher(kind, seed=3).targets(batch))
    assert abs(terms["kd"].item()) < 1e-6 and abs(loss.item()) < 1e-6 and gradient.abs().max() < 1e-6
    assert terms["label_loss"] > 0.1


# ---- what must not matter ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_stands_in_padding_changes_nothing(model_type, kind):
    """OFA-16, bitwise: ids, token types and the teacher's outputs there."""
    batch, totals = batch_of(random_rows(kind), kind)
    padding = batch.attention_mask == 0
    module = training(kind, model_type=model_type, ce=0.5, kd=0.5)
    targets = teacher(kind, model_type=model_type).targets(batch)
    other = replace(
        batch,
        input_ids=batch.input_ids.masked_fill(padding, 11),
        token_type_ids=batch.token_type_ids.masked_fill(padding, 1),
    )
    assert padding.any() and not torch.equal(other.input_ids, batch.input_ids)
    taught = targets.masked_fill(padding[..., None], 1e3) if kind in ("tokens", "questions") else targets
    loss, terms = module(batch, totals, targets)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in module.named_parameters() if "embeddings" not in name}
    module.zero_grad()
    again, same = module(other, totals, taught)
    again.backward()
    assert torch.equal(loss, again) and all(torch.equal(terms[name], same[name]) for name in terms)
    changed = [name for name, p in module.named_parameters() if name in gradients and p.grad is not None]
    assert changed and all(torch.equal(gradients[name], module.get_parameter(name).grad) for name in changed)


@settings(deadline=None, max_examples=12)
@given(kind=st.sampled_from(KINDS), cuts=st.sets(st.integers(1, 10), max_size=5))
def test_micro_batches_of_any_division_add_up_to_the_global_mean(kind, cuts):
    """OFA-16: the divisor is the global batch's count, of rows or labelled tokens, however unevenly they are spread."""
    rows = random_rows(kind, 11, seed=2)
    module = training(kind, ce=0.5, kd=0.5)
    ask = teacher(kind)
    batch, totals = batch_of(rows, kind)
    whole, terms = module(batch, totals, ask.targets(batch))
    found, summed = 0.0, dict.fromkeys(terms, 0.0)
    for part in np.split(np.arange(11), sorted(cuts)):
        one, _ = batch_of(rows, kind, part)
        loss, own = module(one, totals, ask.targets(one))
        found += loss.item()
        summed = {name: summed[name] + own[name].item() for name in terms}
    assert found == pytest.approx(whole.item(), rel=1e-5)
    assert summed == pytest.approx({name: value.item() for name, value in terms.items()}, rel=1e-5)


def test_tokens_without_a_label_have_no_loss_and_no_gradient():
    """OFA-16: exactly 0, and so has a micro-batch without any."""
    rows = random_rows("tokens")
    module = training("tokens", ce=0.5, kd=0.5)
    batch, totals = batch_of(rows, "tokens")
    unlabelled = batch.labels == IGNORED
    _, _, gradient = with_gradient(module, batch, totals, teacher("tokens").targets(batch))
    assert gradient[unlabelled].eq(0).all() and gradient[~unlabelled].ne(0).all()
    bare = replace(batch, labels=torch.full_like(batch.labels, IGNORED))
    loss, terms, gradient = with_gradient(module, bare, totals, teacher("tokens").targets(batch))
    assert loss.item() == 0 and all(value == 0 for value in terms.values()) and gradient.eq(0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kd", [0.0, 1.0])
def test_a_loss_and_its_gradients_read_nothing_from_the_device(kind, kd):
    """PERF-27: labelled tokens are not counted, padding is not cut out."""
    batch, totals = batch_of(random_rows(kind), kind)
    module, ask = training(kind, ce=1.0, kd=kd), teacher(kind, order=ORDER if kind in CLASSES else None)
    looked_up = TaughtRows(*flat_outputs(ask, random_rows(kind), kind))

    def work():
        for one in (ask, looked_up):
            targets = one.targets(batch) if kd else None
            module(batch, totals, targets)[0].backward()

    found = seen(Reads(), work).by_place
    assert not found


# ---- a teacher that is asked, and one that is looked up ------------------------------------------------------


def flat_outputs(ask, rows, kind):
    """(values, starts) of `TaughtRows`, each row asked by itself."""
    answers = [ask.targets(batch_of(rows, kind, [row])[0])[0] for row in range(len(rows))]
    if kind not in ("tokens", "questions"):
        return torch.stack(answers), None
    pieces = [answer[:length] for answer, length in zip(answers, rows.lengths, strict=True)]
    return torch.cat(pieces), torch.from_numpy(np.cumsum(rows.lengths) - rows.lengths)


@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_looked_up_targets_are_those_that_the_teacher_gives(kind, permuted):
    rows = random_rows(kind, 9, seed=6)
    ask = teacher(kind, order=ORDER if permuted and kind in CLASSES else None)
    kept = TaughtRows(*flat_outputs(ask, rows, kind))
    for ids in ([4, 0, 8], [1], [3, 3, 2, 7]):
        batch, _ = batch_of(rows, kind, ids)
        asked, found = ask.targets(batch), kept.targets(batch)
        assert asked.shape == found.shape and asked.dtype == found.dtype == torch.float32
        real = batch.attention_mask.bool() if kind in ("tokens", "questions") else ...
        assert torch.allclose(asked[real], found[real], atol=1e-5)
        if kind in ("tokens", "questions"):
            assert found[~batch.attention_mask.bool()].eq(0).all()


@pytest.mark.parametrize("kind", CLASSES)
def test_a_permuted_teacher_says_each_class_in_the_students_place(kind):
    """OFA-20: place i of the targets is the teacher's logit of the student's class i."""
    batch, _ = batch_of(random_rows(kind), kind)
    as_it_is, in_order = teacher(kind).targets(batch), teacher(kind, order=ORDER).targets(batch)
    assert all(torch.equal(in_order[..., ours], as_it_is[..., theirs]) for ours, theirs in enumerate(ORDER))


def test_a_teacher_is_frozen_and_in_evaluation_mode():
    ask = TaskTeacher(small_model("bert").train().requires_grad_(True), "classification", None)
    assert not ask.model.training and not any(p.requires_grad for p in ask.model.parameters())
    assert not isinstance(ask, torch.nn.Module), "a module that holds it would save it"
