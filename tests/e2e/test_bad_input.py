"""Wrong things typed at the command line: each is answered by one line that says what to do, and leaves no trace."""

import shutil

import pytest
from transformers import BertConfig, BertForMaskedLM

from tests.commands import command, edit, flip, overrides, refused
from tests.corpora import write_corpus

CONFIGS = {
    "a misspelt section": (["prunning.sparsity=0.5"], ["unknown key prunning", "did you mean pruning?"]),
    "a misspelt key": (["optimizer.weight_decai=0"], ["unknown key optimizer.weight_decai", "weight_decay?"]),
    "a wrong type": (["optimizer.lr=fast"], ["optimizer.lr", "valid number", '"fast"']),
    "a list for a section": (["optimizer=[1]"], ["optimizer", "found [1]"]),
    "a sparsity in per cent": (["pruning.sparsity=90"], ["less than 1, found 90 (90 % is 0.9)", "--set pruning"]),
    "a sparsity of one": (["pruning.sparsity=1.0"], ["pruning.sparsity", "less than 1"]),
    "a negative sparsity": (["pruning.sparsity=-0.1"], ["pruning.sparsity", "greater than or equal to 0"]),
    "sizes that do not divide": (["batch.global_size=9"], ["global_size 9", "micro_size 4", "8 or 12", "micro_size 1"]),
    "an endless rate": (["optimizer.lr=1e400"], ["optimizer.lr", "finite", "inf"]),
    "no number": (["optimizer.eps=NaN"], ["optimizer.eps", "finite", "nan"]),
    "a huge seed": (["seed=100000000000000000000"], ["seed", "below 2^63"]),
    "betas of one": (["optimizer.betas=[0.9,1]"], ["optimizer.betas.1", "less than 1"]),
    "too many threads": (["engine.threads=100000000"], ["engine.threads", "less than or equal to 1024"]),
    "no key": (["optimizer"], ["--set optimizer", "expected section.key=value"]),
    "the same key twice": (['optimizer={"lr": 1, "lr": 2}'], ["--set optimizer", "lr is given twice"]),
    "another optimizer": (["engine.deepspeed.optimizer.type=Lamb"], ["deepspeed.optimizer", "AdamW", "LAMB"]),
    "optimizer.type": (["optimizer.type=Muon"], ["unknown key optimizer.type", "known: lr", "AdamW"]),
    "offload": (["engine.deepspeed.zero_optimization.offload_optimizer.device=cpu"], ["offload_optimizer", "masks"]),
    "DeepCompile": (["engine.deepspeed.compile.deepcompile=true"], ["deepspeed.compile", "engine.compile"]),
    "ZeRO 0 and bf16": (
        ["engine.zero_stage=0", "engine.precision=bf16", "pruning.regrow=false"],
        ["zero_stage 0 with bf16", "use zero_stage 1"],
    ),
    "ZeRO 0 and regrow": (["engine.zero_stage=0"], ["regrow", "ZeRO 0", "use zero_stage 1"]),
    "ZeRO 3 and compile": (["engine.zero_stage=3", "engine.compile=true"], ["zero_stage 3", "compile"]),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_that_cannot_be_run_is_refused(project, kind):
    values, words = CONFIGS[kind]
    refused(project, "--config", "sparse.json", "--run-dir", "new/run", *overrides(*values), words=words)


FILES = {
    "not JSON": (b'{"seed": 1,}', ["bad.json", "not JSON, line 1"]),
    "UTF-16": ('{"seed": 1}'.encode("utf-16"), ["bad.json", "not UTF-8"]),
    "a list": (b"[1]", ["bad.json", "JSON object", "found list"]),
    "endless nesting": (b'{"model": ' + b"[" * 100_000, ["bad.json", "more than 20 levels"]),
    "another kind": (b'{"source": {"kind": "text"}}', ["bad.json", "prepares data", "python -m data_prep"]),
    "a missing base": (b'{"base": "nowhere.json"}', ["bad.json", "nowhere.json exists neither"]),
    "a base that leads back": (b'{"base": "bad.json"}', ["bad.json", "leads back to itself"]),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_config_file_that_cannot_be_read_is_refused(project, kind):
    content, words = FILES[kind]
    (project / "bad.json").write_bytes(content)
    refused(project, "--config", "bad.json", words=words)


def test_a_config_that_is_not_there_gets_the_nearest_name(project):
    refused(project, "--config", "tiny/ofa_9.json", words=["ofa_9.json not found", "did you mean tiny/ofa_90.json?"])
    refused(project, "--config", "data", words=["config data is a folder"])


def test_a_mistyped_option_is_a_usage_error(project):
    for arguments in (["--confog", "sparse.json"], [], ["--config", "sparse.json", "--plan-every", "0", "--plan"]):
        answer = command("pretrain.py", *arguments, cwd=project)
        assert answer.status == 2 and "usage: pretrain.py" in answer.err and "Traceback" not in answer.err


# ---- data -------------------------------------------------------------------------------------------------------


DATA = {
    "a flipped bit in the last shard": (
        lambda data: flip(data / "train" / "shard-00002.tar"),
        ["shard-00002.tar: the record at byte", "is damaged", "crc32", "launch/verify.py"],
    ),
    "a truncated tar": (
        lambda data: (data / "train" / "shard-00001.tar").write_bytes(b"short"),
        ["shard-00001.tar: 5 bytes, the manifest expects", "make it with"],
    ),
    "a missing shard": (
        lambda data: (data / "validation" / "shard-00000.tar").unlink(),
        ["validation/shard-00000.tar: missing", "make it with"],
    ),
    "no manifest": (lambda data: (data / "manifest.json").unlink(), ["no manifest.json", "not finished", "make it"]),
    "a manifest that is not JSON": (lambda data: (data / "manifest.json").write_bytes(b"\xff{"), ["not JSON"]),
    "another version": (
        lambda data: edit(data / "manifest.json", lambda m: m.update(version=7)),
        ["expected sparse-ofa-shards version 1", "7"],
    ),
    "a changed count": (
        lambda data: edit(data / "manifest.json", lambda m: m["splits"]["train"]["shards"][0].update(tokens=1)),
        ["manifest.json: damaged", "checksum"],
    ),
    "another tokenizer in the folder": (
        lambda data: edit(data / "tokenizer" / "tokenizer.json", lambda t: t["model"]["vocab"].update(extra=7)),
        ["damaged/tokenizer: not the tokenizer that the shards were made with"],
    ),
    "a damaged tokenizer": (
        lambda data: (data / "tokenizer" / "tokenizer.json").write_text("{"),
        ["tokenizer.json: damaged"],
    ),
    "no tokenizer": (lambda data: shutil.rmtree(data / "tokenizer"), ["tokenizer.json: missing"]),
}


@pytest.mark.parametrize("kind", DATA)
def test_damaged_data_is_refused_before_anything_is_trained(project, damaged, kind):
    damage, words = DATA[kind]
    damage(damaged)
    arguments = ("--config", "teacher.json", "--run-dir", "new/run", *overrides("data.path=damaged"))
    refused(project, *arguments, words=words)


OTHER_DATA = {
    "another length": ({"length": 32}, [], ["rows have 32 tokens", "data.sequence_length is 64", "set it to 32"]),
    "fewer rows than a batch": ({"rows": 5}, [], ["5 training rows do not fill one batch of 8", "at most 5"]),
    "no rows": ({"rows": 0, "shards": 1}, [], ["0 training rows", "prepare more text"]),
    "no validation rows": ({"validation_rows": 0}, [], ["0 validation rows", "larger validation share"]),
    "fewer validation rows than asked for": ({}, ["evaluate.rows=99"], ["asked for 99", "has 23", "evaluate.rows"]),
    "no pairs": ({}, ["model.task=mlm_nsp"], ["next-sentence labels", "doc_sentences", "segment_pair_nsp"]),
    "a larger vocabulary": ({"vocab_size": 300}, [], ["200 entries", "300", "model.architecture.vocab_size"]),
    "the manifest of another tokenizer": (
        {"vocab_size": 199},
        ["model.init=runs/teacher/model"],
        ["tokenizer in runs/teacher/model is not the one", "tokenizer.init"],
    ),
}


@pytest.mark.parametrize("kind", OTHER_DATA)
def test_data_that_does_not_serve_the_config_is_refused(project, kind):
    shape, values, words = OTHER_DATA[kind]
    write_corpus(project / "other", **{"rows": 40, **shape})
    try:
        values = overrides("data.path=other", *values)
        refused(project, "--config", "teacher.json", "--run-dir", "new/run", *values, words=words)
    finally:
        shutil.rmtree(project / "other")


def test_data_that_was_never_prepared_comes_with_the_command_that_makes_it(project):
    words = ["data/docstrings: no such folder", "python -m data_prep --config data/docstrings.json"]
    values = overrides("data.path=data/docstrings")
    refused(project, "--config", "teacher.json", "--run-dir", "new/run", *values, words=words)


# ---- models -----------------------------------------------------------------------------------------------------

MODELS = {
    "no row for the architecture": (["model.architecture.model_type=gpt2"], ["no adapter", "'gpt2'", "adapters.py"]),
    "a misspelt size": (["model.architecture.hidden_sise=8"], ["no key hidden_sise", "hidden_size?"]),
    "a size of a wrong type": (['model.architecture.hidden_size="x"'], ["model.architecture", "hidden_size", "int"]),
    "heads that do not divide": (["model.architecture.num_attention_heads=5"], ["model.architecture", "5"]),
    "no layers": (["model.architecture.num_hidden_layers=0"], ["0 layers", "at least 1"]),
    "a decoder": (["model.architecture.is_decoder=true"], ["is_decoder", "only encoders"]),
    "an unknown activation": (["model.architecture.hidden_act=nope"], ["model.architecture", "nope"]),
    "more than fits in memory": (["model.architecture.hidden_size=1000000000"], ["model.architecture", "memory"]),
    "short positions": (["model.architecture.max_position_embeddings=8"], ["64 tokens", "cover 8"]),
    "a model that is not there": (["model.init=runs/none/model"], ["runs/none/model not found", "config.json"]),
    "data for a model": (["model.init=data"], ["model folder data not found", "config.json"]),
    "another architecture": (
        ["model.init=runs/teacher/model", "model.architecture.hidden_size=64"],
        ["another architecture", "hidden_size is 32 there, 64"],
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_that_cannot_be_built_is_refused(project, kind):
    values, words = MODELS[kind]
    refused(project, "--config", "teacher.json", "--run-dir", "new/run", *overrides(*values), words=words)


def teacher_folder(project, change):
    """A copy of the teacher with something changed."""
    folder = project / "changed"
    shutil.copytree(project / "runs" / "teacher" / "model", folder)
    change(folder)
    return folder


def other_vocabulary(folder):
    """A model with more words than its tokenizer's students."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertForMaskedLM(BertConfig(vocab_size=256, max_position_embeddings=64, **sizes)).save_pretrained(folder)


TEACHERS = {
    "another vocabulary": (other_vocabulary, ["teacher's vocabulary has 256 entries", "student's 200", "tokenizer"]),
    "another tokenizer": (
        lambda folder: edit(folder / "tokenizer.json", lambda t: t["model"]["vocab"].update(extra=7)),
        ["tokenizer in changed is not the one"],
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), ["changed cannot be loaded", "safetensors"]),
    "cut weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\x10" + b"\0" * 40),
        ["changed cannot be loaded"],
    ),
    "a config that is no model's": (lambda folder: (folder / "config.json").write_text("[]"), ["changed cannot be"]),
    "an architecture without a row": (
        lambda folder: edit(folder / "config.json", lambda c: c.update(model_type="gpt2")),
        ["no adapter for model_type 'gpt2'"],
    ),
    "missing layers": (
        lambda folder: edit(folder / "config.json", lambda c: c.update(num_hidden_layers=3)),
        ["weights are missing", "a teacher must be complete"],
    ),
}


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_teacher_that_does_not_serve_is_refused(project, kind):
    change, words = TEACHERS[kind]
    folder = teacher_folder(project, change)
    try:
        values = overrides("teacher.init=changed")
        refused(project, "--config", "sparse.json", "--run-dir", "new/run", *values, words=words)
    finally:
        shutil.rmtree(folder)
