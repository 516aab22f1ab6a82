"""OFA-38: the checkpoints that the authors of Prune Once for All released load, with every zero, into every head.

Nothing is downloaded: `tests/released.py` writes folders with the published keys, types and files.
"""

import logging

import pytest
import transformers

from ofa.config import ModelConfig
from ofa.export.count import same_bits
from ofa.export.verify import verify_folder
from ofa.export.verify_table import verification_table
from ofa.models.adapters import scope
from ofa.models.build import build_model
from ofa.models.sparsity import sparsities
from ofa.pruning.lock import locked_masks
from tests import released
from tests.commands import command

STOCK = ("PreTraining", "MaskedLM", "SequenceClassification", "QuestionAnswering", "TokenClassification")
HAS_POOLER = {"PreTraining", "SequenceClassification"}
"""Of BERT."""

FULL = pytest.param(("bert", released.BASE, 0.9), marks=pytest.mark.slow, id="bert-base-90 in full")
CHECKPOINTS = [
    FULL,
    pytest.param(("bert", released.SMALL, 0.9), id="bert-base-90"),
    pytest.param(("bert", released.SMALL, 0.85), id="bert-base-85"),
    pytest.param(("bert", released.LARGE_SHAPED, 0.9), id="bert-large-90"),
    pytest.param(("distilbert", released.SMALL, 0.85), id="distilbert-85"),
]


class Checkpoint:
    """A folder, and what is in it."""

    def __init__(self, folder, model_type, size, sparsity, kind):
        self.model_type, self.size, self.sparsity = model_type, size, sparsity
        make = {"bert": released.bert, "distilbert": released.distilbert}[model_type]
        config = {"bert": released.bert_config, "distilbert": released.distilbert_config}[model_type](size)
        self.state, self.zeros = make(size, sparsity)
        self.folder = released.write_folder(folder, config, self.state, kind)

    def changed(self, model):
        """Scoped weights that are not those of the file to the bit."""
        return [name for name, weight in scope(model).items() if not same_bits(weight.detach(), self.state[name])]


@pytest.fixture(scope="module", params=CHECKPOINTS)
def checkpoint(request, tmp_path_factory):
    """As published: `pytorch_model.bin`."""
    return Checkpoint(tmp_path_factory.mktemp("released") / "model", *request.param, "bin")


@pytest.fixture(scope="module", params=CHECKPOINTS)
def as_safetensors(request, tmp_path_factory):
    """As the hub's converter would leave it."""
    return Checkpoint(tmp_path_factory.mktemp("released") / "model", *request.param, "safetensors")


def test_the_files_have_the_published_scope_and_zeros_of_either_sign():
    """prune-ofa 3.5: every Linear of the encoder and the pooler."""
    made = [released.bert(released.SMALL, 0.9), released.bert(released.LARGE_SHAPED, 0.9)]
    assert [len(zeros) for _, zeros in made] == [3 * 6 + 1, 24 * 6 + 1]
    state, zeros = made[0]
    assert all(state[name][state[name] == 0].signbit().any() for name in zeros)


@pytest.mark.slow
def test_the_full_sized_file_has_the_published_size(tmp_path):
    made = Checkpoint(tmp_path / "model", "bert", released.BASE, 0.9, "bin")
    once = {tensor.data_ptr(): tensor.numel() for tensor in made.state.values() if tensor.is_floating_point()}
    assert sum(once.values()) == 110_106_428
    assert len(made.zeros) == 73 and made.zeros["bert.pooler.dense.weight"] == 530_841
    assert round((made.folder / "pytorch_model.bin").stat().st_size / 1e6) in (440, 441)


@pytest.mark.parametrize("head", STOCK)
def test_every_stock_class_loads_it_with_every_bit_of_the_scope(checkpoint, head):
    auto = getattr(transformers, f"AutoModelFor{head}")
    model, info = auto.from_pretrained(checkpoint.folder, output_loading_info=True)
    assert checkpoint.changed(model) == []
    assert ("bert.pooler.dense.weight" in scope(model)) == (checkpoint.model_type == "bert" and head in HAS_POOLER)
    assert not [name for name in info["missing_keys"] if ".layer." in name or "embeddings" in name]
    for name, weight in scope(model).items():
        assert abs(float((weight == 0).float().mean()) - checkpoint.sparsity) <= 1 / weight.numel(), name


def test_safetensors_and_bin_are_one_model(as_safetensors):
    model = transformers.AutoModelForPreTraining.from_pretrained(as_safetensors.folder)
    assert as_safetensors.changed(model) == []
    assert verify_folder(as_safetensors.folder, as_safetensors.sparsity).problems == []


def test_it_is_a_start_of_pre_training(checkpoint, caplog):
    """`model.init`: position_ids is tolerated, the decoder stays tied, the zeros are locked, the pooler's too."""
    task = "mlm_nsp" if checkpoint.model_type == "bert" else "mlm"
    with caplog.at_level(logging.INFO):
        model = build_model(
            ModelConfig(architecture={"model_type": checkpoint.model_type}, init=str(checkpoint.folder), task=task),
            seed=0,
        )
    assert checkpoint.changed(model) == [] and "drawn" not in caplog.text
    keep = locked_masks(scope(model), None)
    assert {name: int((~mask).sum()) for name, mask in keep.items()} == checkpoint.zeros
    assert sparsities(model)["scope_sparsity"] == pytest.approx(checkpoint.sparsity, abs=1e-3)


def test_verify_counts_it(checkpoint):
    """-0.0 and position_ids are no problem in a folder that is not ours; the pooler has its row."""
    found = verify_folder(checkpoint.folder, checkpoint.sparsity)
    assert found.problems == []
    assert {row.name: row.count.zeros for row in found.rows} == checkpoint.zeros
    assert "is what it says it is" in verification_table(found)
    wrong = verify_folder(checkpoint.folder, 0.8).problems
    assert {problem.kind for problem in wrong} == {"wrong-count"} and len(wrong) == len(checkpoint.zeros)


def test_the_command_says_so(tmp_path):
    made = Checkpoint(tmp_path / "released", "bert", released.SMALL, 0.9, "bin")
    done = command("verify.py", made.folder, "--expect-sparsity", "0.9", cwd=tmp_path)
    assert done.status == 0 and "bert.pooler.dense.weight" in done.out and "AutoModelForPreTraining" in done.out
