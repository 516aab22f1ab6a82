"""The library in a loop of one's own: a lock with a distillation loss, and gradual pruning, on a small classifier. The
README's examples are these two, and are run from it."""

import re

import torch
from transformers import BertConfig, BertForSequenceClassification

from ofa.config import CHECKOUT, PruningConfig, ScheduleConfig
from ofa.models.adapters import scope
from ofa.objectives import distillation_sum
from ofa.pruning.lock import PatternLock, zeros_of
from ofa.pruning.magnitude import MagnitudePruner
from ofa.pruning.plain import PlainWeights
from ofa.recipe import Recipe
from tests.selection import keep_largest

STEPS = 60


def classifier(seed, zeros=0.0):
    """A small BERT of two classes; `zeros` of every prunable tensor are 0, pooler included."""
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "initializer_range": 0.2,
    }
    model = BertForSequenceClassification(BertConfig(vocab_size=40, max_position_embeddings=16, **sizes))
    with torch.no_grad():
        for weight in scope(model).values():
            weight.mul_(keep_largest(weight.detach().abs(), zeros))
    return model


def rows(count=STEPS):
    """Batches whose label is whether token 7 is there, which a classifier learns at once."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        tokens = torch.randint(8, 40, (16, 12), generator=generator)
        tokens[:8, ::3] = 7
        yield {"input_ids": tokens, "labels": torch.tensor([1] * 8 + [0] * 8)}


def fine_tune(student, teacher, batches):
    """Example: keep the zeros, learn from a teacher."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3, weight_decay=0.01)
    prunable = scope(student)
    PatternLock(zeros_of(prunable), prunable, PlainWeights(prunable, optimizer))
    for batch in batches:
        output = student(**batch)
        with torch.no_grad():
            wanted = teacher(**batch).logits
        loss = 0.5 * output.loss + 0.5 * distillation_sum(output.logits, wanted, temperature=2.0) / len(wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def prune(model, batches):
    """Example: gradual pruning while fine-tuning."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    prunable = scope(model)
    pruning = PruningConfig(sparsity=0.9, ramp_end=40, frequency=5, regrow=False)
    recipe = Recipe.of(ScheduleConfig(total_steps=60, warmup_steps=4), 3e-3, pruning)
    pruner = MagnitudePruner(pruning, prunable, PlainWeights(prunable, optimizer))
    for step, batch in enumerate(batches):
        knobs = recipe.at(step)
        pruner.before_step(knobs)
        optimizer.param_groups[0]["lr"] = knobs.lr
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()


def loss_of(model, teacher=None):
    """Over some rows: against their labels, or against a teacher."""
    model.eval()
    with torch.no_grad():
        found = [(model(**batch), teacher(**batch).logits if teacher else None) for batch in rows(5)]
    model.train()
    return sum(float(distillation_sum(out.logits, said, 2.0)) if teacher else float(out.loss) for out, said in found)


def check_locked(student, before):
    """OFA-25: zeros at the same places, all of them +0.0, and every kept weight moved."""
    for name, weight in scope(student).items():
        zero = before[name] == 0
        assert torch.equal(weight == 0, zero) and not weight.detach()[zero].view(torch.int32).any(), name
        assert zero.any() and (weight[~zero] != before[name][~zero]).float().mean() > 0.99, name


def check_pruned(model):
    """OFA-2: exact counts in every tensor of the scope."""
    for name, weight in scope(model).items():
        assert int((weight == 0).sum()) == int(0.9 * weight.numel()), name


def weights_of(model):
    """Its prunable weights as they are now."""
    return {name: weight.detach().clone() for name, weight in scope(model).items()}


def test_a_sparse_classifier_learns_from_labels_and_teacher_with_its_zeros_kept():
    """OFA-21, OFA-25: the pooler's zeros too."""
    teacher, student = classifier(1), classifier(2, zeros=0.8)
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=3e-3)
    for batch in rows():
        optimizer.zero_grad()
        teacher(**batch).loss.backward()
        optimizer.step()
    teacher.eval()
    before, first, far = weights_of(student), loss_of(student), loss_of(student, teacher)
    assert "bert.pooler.dense.weight" in before
    fine_tune(student, teacher, rows())
    check_locked(student, before)
    assert loss_of(student) < 0.7 * first and loss_of(student, teacher) < 0.7 * far


def test_a_classifier_is_pruned_while_it_learns():
    model = classifier(3)
    first = loss_of(model)
    prune(model, rows())
    check_pruned(model)
    assert loss_of(model) < 0.7 * first


def readme_block(marker):
    """The Python block of the README that follows a marker."""
    found = re.search(
        rf"<!-- {re.escape(marker)} -->\s*```python\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.S
    )
    assert found is not None, f"README.md has no marker <!-- {marker} -->"
    return compile(found.group(1), f"README.md, {marker}", "exec")


def test_the_readme_example_of_the_lock_runs_and_keeps_the_zeros():
    """With `student`, `teacher` and `batches` as the reader brings them."""
    block, student = readme_block("example: lock"), classifier(2, zeros=0.8)
    before = weights_of(student)
    exec(block, {"student": student, "teacher": classifier(1).eval(), "batches": rows()})
    check_locked(student, before)


def test_the_readme_example_of_pruning_runs_and_reaches_its_target():
    """With `model` and `batches`; its schedule has as many steps as they are."""
    block, model = readme_block("example: pruning"), classifier(3)
    exec(block, {"model": model, "batches": rows()})
    check_pruned(model)
