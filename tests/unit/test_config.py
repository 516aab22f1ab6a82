"""Configs: what is read, what is refused, and with which words."""

import json
import re

import pytest

from ofa.config import (
    CONFIGS,
    ConfigError,
    DataPrepConfig,
    FinetuneConfig,
    RunConfig,
    SweepConfig,
    command_that_makes,
    config_that_makes,
    differences,
    kind_of,
    load,
    parse,
    run_folder,
)

SHIPPED = sorted(p for p in CONFIGS.rglob("*.json") if p.name != "schema.json")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_shipped_config_parses(path):
    kind = kind_of(path)
    assert kind is not None and load(kind, path)


USES = {
    "tiny/ofa_90.json": (RunConfig, "pre-trains a model: use it with launch/pretrain.py --config"),
    "tiny/finetune.json": (FinetuneConfig, "fine-tunes a model: use it with launch/finetune.py --config"),
    "tiny/docstrings.json": (DataPrepConfig, "prepares data: use it with python -m data_prep --config"),
    "tiny/sweep.json": (SweepConfig, "describes a sweep: use it with python launch/sweep.py --config"),
}


@pytest.mark.parametrize("name", USES)
def test_a_config_of_another_kind_is_named_with_its_command(name):
    own, words = USES[name]
    for kind, _ in USES.values():
        if kind is own:
            assert isinstance(load(kind, name), own)
            continue
        with pytest.raises(ConfigError) as refused:
            load(kind, name)
        assert str(refused.value) == f"{CONFIGS / name} {words}"


def test_a_base_of_another_kind_decides_too(tmp_path):
    """The section that tells them apart stands in the base."""
    heir = write(tmp_path, "mine.json", {"base": "tiny/finetune.json", "seed": 1})
    with pytest.raises(ConfigError, match="mine.json fine-tunes a model"):
        load(RunConfig, heir)


def write(folder, name, values):
    """A config file."""
    (folder / name).write_text(json.dumps(values))
    return folder / name


def test_a_base_is_inherited_key_by_key_and_a_null_takes_a_section_away(tmp_path):
    base = json.loads((CONFIGS / "tiny" / "teacher.json").read_text())
    write(tmp_path, "low.json", {**base, "pruning": {"sparsity": 0.5, "ramp_end": 10, "frequency": 5}})
    write(tmp_path, "middle.json", {"base": "low.json", "optimizer": {"weight_decay": 0.1}})
    top = write(tmp_path, "top.json", {"base": "middle.json", "pruning": None, "seed": 7})
    config = load(RunConfig, top)
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (base["optimizer"]["lr"], 0.1)
    assert (config.pruning, config.seed) == (None, 7)


def test_overrides_win_and_are_json_or_else_strings():
    changes = ["optimizer.lr=3e-4", "data.path=somewhere/else", "log.tensorboard=false", "pruning.keep=null"]
    config = load(RunConfig, "tiny/ofa_90.json", changes[:3])
    assert (config.optimizer.lr, config.data.path, config.log.tensorboard) == (3e-4, "somewhere/else", False)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.learning_rate=1", ["unknown key optimizer.learning_rate", "known: lr"]),
        ("prunning.sparsity=0.9", ["unknown key prunning", "did you mean pruning?"]),
        ("schedule.rewind.freqency=5", ["unknown key schedule.rewind.freqency", "did you mean frequency?"]),
        ("pruning.sparsity=1.0", ["pruning.sparsity", "less than 1", "found 1.0"]),
        ("pruning.sparsity=90", ["tiny/ofa_90.json --set pruning.sparsity=90: ", "found 90 (90 % is 0.9)"]),
        ("pruning.sparsity=-0.1", ["pruning.sparsity", "greater than or equal to 0"]),
        ("batch.global_size=many", ["batch.global_size", "integer", '"many"']),
        ("pruning.end=2000", ["refresh until step 2000", "total_steps 1000", "set pruning.end"]),
        ("pruning.ramp_start=900", ["ramp_end 500 lies before ramp_start 900"]),
        ("schedule.warmup_steps=1000", ["warmup_steps 1000 must be below total_steps 1000"]),
        ("objective.kd_positions=some", ["objective.kd_positions", '"some"']),
        ("teacher=null", ["kd_weight is above 0 but there is no teacher"]),
        ("engine.zero_stage=0", ["regrow needs dense fp32 masters", "zero_stage 1"]),
        ("engine.precision=fp16", ["engine.precision", "'fp32' or 'bf16'", '"fp16"']),
        ("optimizer.spike_ratio=1.0", ["optimizer.spike_ratio", "greater than 1"]),
        ("engine.patience=1", ["engine.patience", "greater than or equal to 3"]),
        ("optimizer", ["expected section.key=value"]),
        ("batch.micro_size.x=1", ["micro_size is not a section"]),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_what_would_be_right(override, words):
    extra = ["objective.kd_weight=0.5"] if override.startswith("teacher") else []
    with pytest.raises(ConfigError) as refused:
        load(RunConfig, "tiny/ofa_90.json", [override, *extra])
    assert all(word in str(refused.value) for word in words), refused.value


def test_what_is_wrong_ends_the_line_and_no_value_that_is_right_stands_before_it():
    changes = ["seed=1", "optimizer.betas=[0.9,2]", "optimizer.lr=0.001", "pruning.sparsty=0.5", "optimizer.eps=NaN"]
    with pytest.raises(ConfigError) as refused:
        load(RunConfig, "tiny/ofa_90.json", changes[:4])
    where = f"{CONFIGS / 'tiny' / 'ofa_90.json'} --set optimizer.betas=[0.9,2] --set pruning.sparsty=0.5: "
    assert str(refused.value).startswith(f"{where}optimizer.betas.1: ")
    assert str(refused.value).endswith("; unknown key pruning.sparsty; did you mean sparsity?")
    with pytest.raises(ConfigError, match="ofa_90.json --set optimizer.eps=NaN: optimizer.eps: expected a finite"):
        load(RunConfig, "tiny/ofa_90.json", changes)


def test_a_key_that_is_near_to_none_comes_with_the_first_sentence_of_its_section():
    with pytest.raises(ConfigError, match=r"known: kind, .*\(Where documents come from\)$"):
        load(DataPrepConfig, "tiny/docstrings.json", ["source.packages=1"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["engine.zero_stage=0", "engine.precision=bf16"], "zero_stage 0 with bf16 hides DeepSpeed's masters"),
        (["engine.zero_stage=3", "engine.compile=true"], "gathers weights in hooks, which break a compiled layer"),
    ],
)
def test_what_cannot_go_together_is_refused_with_the_reason(overrides, words):
    with pytest.raises(ConfigError, match=words):
        load(RunConfig, "tiny/ofa_90.json", ["pruning.regrow=false", *overrides])


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "not JSON, line 1"), ("[1]", "a config is a JSON object, found list"), ('{"base": "no.json"}', "no.json")],
)
def test_a_broken_file_is_named(tmp_path, content, words):
    (tmp_path / "broken.json").write_text(content)
    with pytest.raises(ConfigError, match="broken.json") as refused:
        load(RunConfig, tmp_path / "broken.json")
    assert words in str(refused.value)


def test_a_base_that_leads_back_is_refused(tmp_path):
    write(tmp_path, "a.json", {"base": "b.json"})
    write(tmp_path, "b.json", {"base": "a.json"})
    with pytest.raises(ConfigError, match="leads back to itself"):
        load(RunConfig, tmp_path / "a.json")


def test_a_mistyped_config_name_gets_the_nearest_one():
    with pytest.raises(ConfigError, match=r"ofa_9.json not found.*did you mean ofa_9?0?"):
        load(RunConfig, "ofa_9.json")


def test_a_mistyped_config_name_gets_the_nearest_one_of_its_folder_too(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine", "my_task.json", {})
    for folder, typed, meant in ((tmp_path / "mine", "my_tsak.json", "my_task.json"), (tmp_path, "mine/task", "mine/")):
        monkeypatch.chdir(folder)
        with pytest.raises(ConfigError, match=f"did you mean {meant}"):
            load(RunConfig, typed)
    with pytest.raises(ConfigError) as found:
        load(RunConfig, "mine/zzzzzzzzzzzzzzzz")
    assert "known: " in str(found.value) and "my_task" not in str(found.value), "a folder may have thousands"


def test_keys_of_a_sweeps_grid_have_their_dots_in_set_too():
    """They are keys of another config; below other fields dots lead into objects."""
    sets = ["grid.structure.sparsity=[0.5, 0.6]", "grid.seed=[1]", "set.model.init=x", "slurm.minutes=9"]
    sweep = load(SweepConfig, "tiny/sweep.json", sets)
    assert sweep.grid["structure.sparsity"] == [0.5, 0.6] and sweep.grid["seed"] == [1]
    assert sweep.set["model"]["init"] == "x" and sweep.slurm.minutes == 9


def test_null_weights_of_the_objective_follow_the_teacher():
    dense, sparse = load(RunConfig, "tiny/teacher.json"), load(RunConfig, "tiny/ofa_90.json")
    assert (dense.objective.ce_weight, dense.objective.kd_weight) == (1.0, 0.0)
    assert (sparse.objective.ce_weight, sparse.objective.kd_weight) == (0.5, 0.5)


def test_the_run_folder_follows_the_configs_place(tmp_path):
    assert str(run_folder("tiny/ofa_90.json")) == "runs/tiny/ofa_90"
    assert str(run_folder(CONFIGS / "ofa_90.json")) == "runs/ofa_90"
    outside = write(tmp_path, "mine.json", {})
    assert str(run_folder(outside)) == "runs/mine"


def test_what_is_missing_comes_with_the_command_that_makes_it():
    assert command_that_makes("runs/tiny/teacher/model") == "deepspeed launch/pretrain.py --config tiny/teacher.json"
    assert command_that_makes("data/docstrings") == "python -m data_prep --config data/docstrings.json"
    assert command_that_makes("data/docstrings/documents") == command_that_makes("data/docstrings")
    assert command_that_makes("data") is None and command_that_makes("data/none") is None
    assert command_that_makes("data/wikipedia_20231101").endswith("--config data/wikipedia_20231101.json")
    assert command_that_makes("runs/nothing/model") is None
    tuned = command_that_makes("runs/tiny/finetune_teacher/model")
    assert tuned == "python launch/finetune.py --config tiny/finetune_teacher.json"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("runs/tiny/ofa_90/model", "tiny/ofa_90.json"),
        ("runs/downstream/distilbert/sst2/model", "downstream/distilbert/sst2.json"),
        ("runs/tiny/ofa_90", None),
        ("runs/model", None),
        ("elsewhere/tiny/ofa_90/model", None),
        ("runs/none/such/model", None),
        ("someone/model", None),
    ],
)
def test_the_config_that_makes_a_model_is_found_by_its_place(path, name):
    assert config_that_makes(path) == name


def test_every_place_that_a_shipped_run_needs_has_a_command():
    for path in SHIPPED:
        if kind_of(path) is RunConfig:
            config = load(RunConfig, path)
            assert command_that_makes(config.data.path), path
            places = [config.model.init, config.teacher.init if config.teacher else None]
            assert all(command_that_makes(place) for place in places if place and place.startswith("runs/")), path
        if kind_of(path) is FinetuneConfig:
            config = load(FinetuneConfig, path)
            places = [config.model.init, config.teacher.init if config.teacher else ""]
            assert all(command_that_makes(place) for place in places if place.startswith("runs/")), path


def test_only_what_decides_the_result_is_in_the_fingerprint():
    config = load(RunConfig, "tiny/ofa_90.json")
    same = ["log.every=1", "checkpoint.every=7", "data.workers=3", "engine.threads=1", "data.path=elsewhere"]
    same += ["engine.patience=9", "engine.zero_stage=2", "batch.micro_size=2", "evaluate.micro_size=3"]
    same += ["optimizer.max_skipped=1"]
    for override in same:
        assert load(RunConfig, "tiny/ofa_90.json", [override]).fingerprint() == config.fingerprint(), override
    for override in ["seed=1", "optimizer.lr=1e-4", "pruning.sparsity=0.8", "data.mask_probability=0.2"]:
        assert load(RunConfig, "tiny/ofa_90.json", [override]).fingerprint() != config.fingerprint(), override


def test_differences_name_keys_and_both_values():
    old = load(RunConfig, "tiny/ofa_90.json").model_dump(mode="json")
    new = load(RunConfig, "tiny/ofa_90.json", ["pruning.sparsity=0.8", "seed=1"]).model_dump(mode="json")
    assert differences(old, new) == ["pruning.sparsity (0.9 -> 0.8)", "seed (42 -> 1)"]


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match="optimizer is missing"):
        parse(RunConfig, {"schedule": {"total_steps": 1}}, origin="x")


ONE, OTHER = ({"kind": kind, "paths": ["x"]} for kind in ("text", "books"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"source": ONE, "on_damage": "skip"}, "unknown key on_damage; did you mean source.on_damage (of several"),
        ({"source": ONE, "min_words": 3}, "unknown key min_words; did you mean clean.min_words?"),
        ({"source": {**OTHER, "chapters": True}}, "unknown key source.chapters; did you mean its books.chapters?"),
        ({"sources": {"a": {**OTHER, "chapters": True}}}, "unknown key sources.a.chapters; did you mean its books.ch"),
        ({"sources": {"wiki": {**OTHER, "path": 1}}}, "unknown key sources.wiki.path; did you mean paths?"),
        ({"source": {"a": ONE}}, "a stands in sources, as sources.a"),
        ({"a": ONE}, "a is a source by name: it stands in sources, as sources.a"),
        ({"sources": {"a": ONE, "on_damage": "skip"}}, "did you mean sources.a.on_damage?"),
        ({"sources": {"ab": ONE}, "source": {"on_damage": "skip"}}, "several sources (ab).*mean sources.ab.on_damage?"),
        ({"sources": {"ab": {"on_damage": "skip"}}, "source": ONE}, "there is one source.*mean source.on_damage?"),
        ({"sources": {"books": ONE, "boks": {"weight": 2}}}, "sources.boks has no kind.*did you mean books?"),
        ({"sources": {"a": None}}, "found neither"),
        ({"sources": {"a": ONE}, "source": ONE}, "found both; null takes one away"),
    ],
)
def test_a_key_of_a_source_in_a_wrong_place_is_told_its_own(values, words):
    with pytest.raises(ConfigError, match=re.escape(words).replace(r"\.\*", ".*")):
        parse(DataPrepConfig, values, origin="x")


def test_a_null_for_a_source_that_is_not_there_is_an_error():
    with pytest.raises(ConfigError, match="no wikipeda to take away; did you mean wikipedia?"):
        load(DataPrepConfig, "data/wikipedia_books.json", ["sources.wikipeda=null"])


def test_a_null_takes_a_source_of_the_base_away():
    books = load(DataPrepConfig, "data/wikipedia_books.json", ["sources.wikipedia=null"])
    assert list(books.sources) == ["books"]
