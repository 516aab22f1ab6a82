"""What a recipe costs, from its config alone; every shipped one is planned and built on the meta device."""

import json

import pytest

from ofa.config import CONFIGS, RunConfig, kind_of, load
from ofa.cost import checkpoint_bytes, model_size, rank_memory, summary, wire_bytes
from ofa.cost_table import cost_lines
from ofa.data.plan import PlanError
from ofa.recipe import Recipe

RUNS = [p for p in sorted(CONFIGS.rglob("*.json")) if p.name != "schema.json" and kind_of(p) is RunConfig]


@pytest.mark.parametrize("path", RUNS, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_shipped_run_plans_and_builds_on_the_meta_device(path):
    """OFA-8: the published scopes of BERT-base, BERT-large and DistilBERT."""
    config = load(RunConfig, path)
    scoped = {"bert_large": 303_038_464, "distilbert": 42_467_328, "tiny": 393_216, "minilm": 10_616_832}
    expected = next((size for name, size in scoped.items() if name in str(path.relative_to(CONFIGS))), 85_524_480)
    assert model_size(config.model).scoped == expected
    recipe = Recipe(config)
    assert all(recipe.at(t).lr >= 0 for t in range(0, recipe.total_steps + 1, max(1, recipe.total_steps // 100)))
    text = summary(config, ranks=1, tokens_per_second=None)
    assert f"{config.schedule.total_steps:,}" in text and "FLOP" in text


def test_the_published_job_costs_what_the_papers_sizes_say():
    """13.1 G tokens and 1.24e19 FLOP for the student of BERT-base at 512 tokens, distilled at every position."""
    text = summary(load(RunConfig, "ofa_90.json"), ranks=8, tokens_per_second=4e6)
    assert "1.311e+10" in text and "1.24e+19 FLOP" in text
    assert "0.9 hours at 4,000,000 tokens/s" in text
    assert "unknown until data/wikipedia_20231101 is prepared" in text


def test_zero_shares_masters_and_moments_over_the_ranks():
    """BERT-base in bf16: 2 + 2 bytes of weights and gradients, 4 of sums, 2 of the teacher, 12 shared, 1 a mask."""
    config = load(RunConfig, "ofa_90.json")
    size = model_size(config.model)
    assert size.parameters == 110_106_428
    assert rank_memory(config, size, 1) == 22 * size.parameters + size.scoped
    assert rank_memory(config, size, 4) == 13 * size.parameters + size.scoped
    assert checkpoint_bytes(config, size) == 14 * size.parameters + size.scoped / 8


def test_batch_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="not a multiple"):
        summary(load(RunConfig, "tiny/ofa_90.json"), ranks=3, tokens_per_second=None)


def test_epochs_are_counted_once_the_shards_are_there(tmp_path):
    from tests.corpora import write_corpus

    corpus = write_corpus(tmp_path / "data", rows=160)
    config = load(RunConfig, "tiny/teacher.json", [f"data.path={json.dumps(str(corpus.path))}"])
    assert "100.00 of 160 rows" in summary(config, ranks=1, tokens_per_second=None)


def test_live_weights_are_counted_by_pattern_allocation_and_override():
    overrides = [{"match": "attention", "sparsity": 0.5, "pattern": "2:4"}, {"match": "pooler", "sparsity": 0.0}]
    changes = ['pruning.allocation="global"', f"pruning.overrides={json.dumps(overrides)}"]
    text = summary(load(RunConfig, "ofa_90.json", changes), ranks=1, tokens_per_second=None)
    attention, pooler, scoped = 12 * 4 * 768 * 768, 768 * 768, 85_524_480
    others = scoped - attention - pooler
    live = others - int(0.9 * others)
    assert f"{attention // 2 + pooler + live:,} of {scoped:,} in 73 tensors" in text
    assert f"attention: {attention // 2:,} of {attention:,} in 48 tensors (50.0000%); 2:4, uniform, 0.5 zeros" in text
    assert f"pooler: {pooler:,} of {pooler:,} in 1 tensors (100.0000%); unstructured, uniform, 0 zeros" in text
    assert f"{live:,} of {others:,} in 24 tensors" in text and "unstructured, global, 0.9 zeros" in text


def test_uniform_pruning_of_single_weights_keeps_what_was_published():
    """PERF-13: 73 floors."""
    text = summary(load(RunConfig, "ofa_90.json"), ranks=1, tokens_per_second=None)
    assert f"{85_524_480 - 49 * 530_841 - 24 * 2_123_366:,} of 85,524,480 in 73 tensors" in text


def test_a_plan_refuses_a_pattern_that_the_model_does_not_fill_and_an_override_that_matches_nothing():
    for change, message in (
        ('pruning.pattern="7x1"', r"layer\.0\.attention\.self\.query\.weight of shape \[768, 768\].*7x1"),
        ('pruning.overrides=[{"match": "layers.0", "sparsity": 0.1}]', "no tensor matches; the scope has"),
    ):
        with pytest.raises(ValueError, match=message):
            summary(load(RunConfig, "ofa_90.json", [change]), ranks=1, tokens_per_second=None)


def test_a_rank_sends_what_the_formula_of_the_wire_says():
    """PERF-25: 6 P (N - 1) / N in bf16 with fp32 sums, 4 with bf16 sums, 12 in fp32; nothing alone."""
    config = load(RunConfig, "ofa_90.json")
    size = model_size(config.model)
    assert wire_bytes(config, size, 1) == 0
    assert wire_bytes(config, size, 8) == 6 * size.parameters * 7 / 8
    sums = load(RunConfig, "ofa_90.json", ['engine.deepspeed={"communication_data_type": "bf16"}'])
    assert wire_bytes(sums, size, 8) == 4 * size.parameters * 7 / 8
    fp32 = load(RunConfig, "ofa_90.json", ["engine.precision=fp32"])
    assert wire_bytes(fp32, size, 8) == 12 * size.parameters * 7 / 8
    assert wire_bytes(load(RunConfig, "ofa_90.json", ["engine.zero_stage=2"]), size, 8) is None


def test_the_table_divides_a_step_by_any_number_of_ranks_that_can_share_it():
    config = load(RunConfig, "ofa_90.json")
    lines = cost_lines([("base", config)], [1, 8, 64, 256], tflops=250.0)
    assert [line[3] for line in lines] == ["1 x 32 x 8", "8 x 32 x 1", "64 x 4 x 1", "256 x 1 x 1"]
    assert [line[4] for line in lines[:2]] == ["2.51 GB", "1.35 GB"]
    assert float(lines[0][-1]) == pytest.approx(1.24e19 / 250e12 / 3600, rel=0.01)
    for ranks in (3, 512):
        with pytest.raises(PlanError, match="cannot be shared"):
            cost_lines([("base", config)], [ranks], tflops=250.0)
