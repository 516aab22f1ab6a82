"""Models from scratch and from folders, and the errors for what does not fit."""

import json
import lzma
import os
import socket
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from ofa.config import ModelConfig, ObjectiveConfig, TeacherConfig
from ofa.evaluate import evaluate_folder
from ofa.models.adapters import ADAPTERS
from ofa.models.build import ModelError, build_config, build_model, like_student, load_teacher, load_tokenizer
from ofa.models.fit import check_teacher, check_tokenizer, check_vocabulary
from tests.processes import finished
from tests.task_parts import save_model
from tests.task_parts import small_model as task_model

EVERY_TYPE = [row.model_type for row in ADAPTERS]


def saved(model, folder):
    model.save_pretrained(folder)
    return str(folder)


def config_of(folder, task="mlm", **architecture):
    return ModelConfig(init=str(folder), architecture=architecture, task=task)


def same_weights(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# ---- from scratch -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_fresh_weights_are_a_function_of_the_seed(make, model_type):
    first, again, other = (make.small_model(model_type, seed=seed) for seed in (1, 1, 2))
    assert same_weights(first, again) and not same_weights(first, other)


def test_drawing_weights_leaves_the_random_state_alone(make):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make.small_model(seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_the_initializer_range_decides_the_spread_of_fresh_weights(make):
    for spread in (0.02, 0.06):
        weight = make.small_model(initializer_range=spread).bert.embeddings.word_embeddings.weight
        assert weight.std().item() == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_dropout_overrides_every_probability_that_acts(make, model_type):
    model = make.small_model(model_type, dropout=0.37)
    found = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert found == {0.37}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_attention_implementation_is_the_configs(make, attention):
    assert make.small_model(attention=attention).config._attn_implementation == attention


def test_weights_are_fp32_and_in_training_mode(make):
    model = make.small_model("bert", task="mlm_nsp")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32} and model.training


def test_a_model_can_be_built_without_memory():
    architecture = {"model_type": "bert"}
    with torch.device("meta"):
        model = build_model(ModelConfig(architecture=architecture, task="mlm_nsp"), seed=0)
    assert all(weight.is_meta for weight in model.parameters())


def test_a_mistyped_architecture_key_is_an_error_with_the_nearest_name(make):
    with pytest.raises(ModelError, match="num_hiden_layers.*did you mean num_hidden_layers"):
        build_config(ModelConfig(architecture={"model_type": "bert", "num_hiden_layers": 2}))


def test_sentence_pairs_need_an_architecture_with_that_head(make):
    with pytest.raises(ModelError, match="distilbert has no next-sentence head"):
        make.small_model("distilbert", task="mlm_nsp")


# ---- from a folder ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_a_saved_model_comes_back_bit_for_bit(make, tmp_path, model_type):
    model = make.small_model(model_type)
    loaded = build_model(config_of(saved(model, tmp_path / "m"), model_type=model_type), seed=9)
    assert same_weights(model, loaded)


def test_a_pytorch_model_bin_is_read_too(make, tmp_path):
    model = make.small_model(task="mlm_nsp")
    folder = Path(saved(model, tmp_path / "m"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert same_weights(model, build_model(config_of(folder, "mlm_nsp"), seed=0))


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_after_loading_the_decoder_is_the_embedding(make, tmp_path, model_type):
    """OFA-8"""
    loaded = build_model(config_of(saved(make.small_model(model_type), tmp_path / "m")), seed=0)
    embedding = loaded.get_input_embeddings().weight
    assert loaded.get_output_embeddings().weight.data_ptr() == embedding.data_ptr()


def test_an_untied_decoder_is_an_error(make, tmp_path):
    folder = Path(saved(make.small_model(), tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    weights = load_file(folder / "model.safetensors")
    decoder = torch.randn(make.VOCAB, 32)
    bias = weights["cls.predictions.bias"].clone()
    extra = {"cls.predictions.decoder.weight": decoder, "cls.predictions.decoder.bias": bias}
    save_file({**weights, **extra}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not tied to the word embedding"):
        build_model(config_of(folder), seed=0)


def test_a_missing_pair_head_is_drawn_from_the_seed_and_said(make, tmp_path, caplog):
    folder = saved(make.small_model(task="mlm"), tmp_path / "m")
    first, again, other = (build_model(config_of(folder, "mlm_nsp"), seed=seed) for seed in (1, 1, 2))
    assert "cls.seq_relationship.weight" in caplog.text and "drawn from the seed" in caplog.text
    assert same_weights(first, again) and not same_weights(first, other)


def test_missing_encoder_weights_are_an_error(make, tmp_path):
    folder = Path(saved(make.small_model(), tmp_path / "m"))
    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing: bert\.encoder\.layer\.1\.output\.dense\.weight"):
        build_model(config_of(folder), seed=0)


def test_an_architecture_that_disagrees_with_the_folder_is_an_error_naming_the_keys(make, tmp_path):
    folder = saved(make.small_model(), tmp_path / "m")
    with pytest.raises(ModelError, match="num_hidden_layers is 2 there, 12 in model.architecture"):
        build_model(config_of(folder, model_type="bert", hidden_size=32, num_hidden_layers=12), seed=0)


def test_a_missing_run_folder_names_the_command_that_makes_it():
    with pytest.raises(ModelError, match="not found.*no config.json") as error:
        build_model(config_of("runs/teacher/model", model_type="bert"), seed=0)
    if (Path(__file__).parents[3] / "configs" / "teacher.json").is_file():
        assert "launch/pretrain.py --config teacher.json" in str(error.value)


def test_a_local_path_is_never_looked_up_on_the_hub(tmp_path):
    with pytest.raises(ModelError, match="model folder .*nothing/here"):
        build_model(config_of(tmp_path / "nothing" / "here", model_type="bert"), seed=0)


def test_an_unreachable_hub_id_is_an_error_that_says_what_to_do_offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="neither a local folder nor a model that could be fetched.*Offline"):
        build_model(config_of("no-such-owner/no-such-model", model_type="bert"), seed=0)


FETCH = """
from ofa.models.build import read_config
print(read_config("owner/cached").model_type)
read_config("owner/elsewhere")
"""


def test_a_hub_that_cannot_be_reached_is_tried_once_and_its_cache_serves(tmp_path):
    """Its own client tries again and again."""
    commit = tmp_path / "hub" / "models--owner--cached" / "snapshots" / ("0" * 40)
    commit.mkdir(parents=True)
    (commit / "config.json").write_text('{"model_type": "bert"}')
    (commit.parents[1] / "refs").mkdir()
    (commit.parents[1] / "refs" / "main").write_text(commit.name)
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        hub = f"http://127.0.0.1:{nobody_listens.getsockname()[1]}"
        values = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        done = finished([sys.executable, "-c", FETCH], cwd=tmp_path, check=False, **values)
    assert done.stdout == "bert\n"
    assert done.stderr.count(f"{hub} cannot be reached") == 1 and "Retrying" not in done.stderr
    error = done.stderr.splitlines()[-1]
    assert "owner/elsewhere is neither a local folder" in error and "cached files. Offline, download" in error


def test_a_real_model_with_old_norm_names_loads_whole(tmp_path):
    """LayerNorm.gamma and .beta, as the first converted checkpoints have them."""
    data = os.environ.get("OFA_TEST_DATA")
    if not data:
        pytest.skip("OFA_TEST_DATA is not set")
    with lzma.open(Path(data) / "models_tiny.tar.xz") as packed, tarfile.open(fileobj=packed) as tar:
        tar.extractall(tmp_path, filter="data")
    folder = next(tmp_path.rglob("splade-tiny-mlm"))
    stored = load_file(next(folder.glob("*.safetensors")))
    model = build_model(config_of(folder), seed=0)
    norm = stored["bert.encoder.layer.0.output.LayerNorm.gamma"]
    assert torch.equal(model.bert.encoder.layer[0].output.LayerNorm.weight, norm)
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(4.42e6, rel=0.01)


# ---- teachers ---------------------------------------------------------------------------------------------------


def test_a_teacher_is_frozen_and_in_evaluation_mode(make, tmp_path):
    """OFA-19"""
    folder = saved(make.small_model(), tmp_path / "m")
    teacher = load_teacher(TeacherConfig(init=folder), config_of(folder))
    assert not teacher.training and not any(weight.requires_grad for weight in teacher.parameters())


def test_a_teacher_without_one_of_its_heads_is_an_error(make, tmp_path):
    """OFA-20: it is said what the folder is, and what it would have to be."""
    folder = saved(make.small_model(task="mlm"), tmp_path / "m")
    words = "m is a BertForMaskedLM, and sentence pairs need a BertForPreTraining, complete with its head"
    with pytest.raises(ModelError, match=words):
        load_teacher(TeacherConfig(init=folder), config_of(folder, "mlm_nsp"))


def test_a_task_model_is_no_teacher_of_masked_words_and_has_no_scores_on_them(tmp_path):
    """Whether a run asks for it or launch/evaluate.py --data."""
    folder = str(save_model(tmp_path / "task", task_model()))
    words = "task is a BertForSequenceClassification, and masked words need a BertForMaskedLM"
    with pytest.raises(ModelError, match=words):
        load_teacher(TeacherConfig(init=folder), config_of(folder, "mlm"))
    with pytest.raises(ModelError, match="is a BertForSequenceClassification, a task model, .*leave --data out"):
        evaluate_folder(folder, "no corpus is opened", rows=None, micro_size=2)


def test_a_teacher_that_lacks_weights_of_its_own_class_is_incomplete(make, tmp_path):
    folder = saved(make.small_model(task="mlm"), tmp_path / "m")
    values = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**values, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match="weights are missing: .*a teacher must be complete"):
        load_teacher(TeacherConfig(init=folder), config_of(folder, "mlm"))


def test_a_teacher_with_another_vocabulary_is_an_error(make):
    """OFA-20"""
    with pytest.raises(ModelError, match="teacher's vocabulary has 120 entries, the student's 97"):
        check_teacher(make.small_model(), make.small_model(vocab_size=120), ObjectiveConfig())


def test_hidden_states_of_other_sizes_are_refused_only_where_they_are_compared(make):
    student, teacher = make.small_model(), make.small_model(hidden_size=48)
    check_teacher(student, teacher, ObjectiveConfig())
    with pytest.raises(ModelError, match="teacher's size is 48 and the student's 32"):
        check_teacher(student, teacher, ObjectiveConfig(hidden_weight=1.0))


# ---- the corpus -------------------------------------------------------------------------------------------------


def corpus(**values):
    """What the checks read of a corpus."""
    return SimpleNamespace(**{"path": "data/x", "vocab_size": 97, "sequence_length": 48, **values})


@pytest.mark.parametrize("vocab_size", [98, 300])
def test_a_vocabulary_smaller_than_the_tokenizers_is_an_error(make, vocab_size):
    with pytest.raises(ModelError, match=f"has 97 entries, the tokenizer of data/x {vocab_size}"):
        check_vocabulary(make.small_model(), corpus(vocab_size=vocab_size))


def test_a_padded_vocabulary_is_accepted_and_another_one_is_not(make):
    check_vocabulary(make.small_model(vocab_size=128), corpus())
    with pytest.raises(ModelError, match="less than 128"):
        check_vocabulary(make.small_model(vocab_size=97 + 128), corpus())


@pytest.mark.parametrize(("model_type", "longest"), [("bert", 48), ("roberta", 46)])
def test_rows_longer_than_the_position_embeddings_are_an_error(make, model_type, longest):
    model = make.small_model(model_type, pad_token_id=1)
    check_vocabulary(model, corpus(sequence_length=longest))
    with pytest.raises(ModelError, match=f"cover {longest}"):
        check_vocabulary(model, corpus(sequence_length=longest + 1))


def test_a_folder_with_another_tokenizer_is_an_error(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece", "vocab": {"a": 0}}}))
    with pytest.raises(ModelError, match="not the one that data/x was prepared with"):
        check_tokenizer(str(tmp_path), corpus(tokenizer_fingerprint="another"))
    check_tokenizer(None, corpus(tokenizer_fingerprint="another"))


# ---- tokenizers -------------------------------------------------------------------------------------------------


def test_a_model_folder_without_a_tokenizer_is_refused(make, tmp_path):
    """transformers makes one of five special tokens, to which every word is unknown."""
    saved(make.small_model(), tmp_path)
    with pytest.raises(ModelError, match="has no tokenizer: put tokenizer.json"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_padding_is_refused(make, tmp_path):
    saved(make.small_model(), tmp_path)
    words = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "b": 4}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has no padding token"):
        load_tokenizer(str(tmp_path))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[SEP]").save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token_id == 2


def test_sizes_of_a_model_come_from_its_init_where_the_config_names_a_type_alone(make, tmp_path):
    """Exporting a checkpoint makes the model anew: with the sizes of the type's defaults its weights would not fit."""
    make.small_model("bert").save_pretrained(tmp_path / "model")
    settings = ModelConfig(init=str(tmp_path / "model"), architecture={"model_type": "bert"}, dropout=0.25)
    like = like_student(settings)
    shapes = {name: value.shape for name, value in build_model(settings, seed=1).named_parameters()}
    assert {name: value.shape for name, value in like.named_parameters()} == shapes
    assert like.config.hidden_size == 32 and like.config.hidden_dropout_prob == 0.25


def test_sizes_of_an_init_that_is_gone_are_unknown(make, tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        like_student(ModelConfig(init=str(tmp_path / "nowhere"), architecture={"model_type": "bert"}))
