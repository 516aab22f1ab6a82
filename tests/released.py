"""Checkpoint folders as the authors of Prune Once for All published them in 2021, written key by key.

No model class is involved: keys, types and files are those of
`Intel/bert-base-uncased-sparse-90-unstructured-pruneofa` and its siblings, the values are drawn.
"""

import json
from dataclasses import dataclass

import torch
from safetensors.torch import save_file

from tests.selection import keep_largest

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Size:
    """Sizes of an encoder."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocab: int = 60
    positions: int = 24


BASE = Size(12, 768, 12, 3072, 30522, 512)
SMALL = Size(3, 48, 4, 192)
LARGE_SHAPED = Size(24, 32, 16, 128)
"""The layers, heads and proportions of BERT-Large."""


def bert(size, sparsity, seed=0):
    """(state, zeros): the tensors of `BertForPreTraining` with its `position_ids` and its decoder tied, and how many
    zeros each pruned weight has."""
    draw = Draw(seed, sparsity)
    draw.embeddings("bert.embeddings", size, types=2)
    draw.state["bert.embeddings.position_ids"] = torch.arange(size.positions).unsqueeze(0)
    for layer in range(size.layers):
        at = f"bert.encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            draw.pruned(f"{at}.attention.self.{name}", size.hidden, size.hidden)
        draw.pruned(f"{at}.attention.output.dense", size.hidden, size.hidden)
        draw.norm(f"{at}.attention.output.LayerNorm", size.hidden)
        draw.pruned(f"{at}.intermediate.dense", size.intermediate, size.hidden)
        draw.pruned(f"{at}.output.dense", size.hidden, size.intermediate)
        draw.norm(f"{at}.output.LayerNorm", size.hidden)
    draw.pruned("bert.pooler.dense", size.hidden, size.hidden)
    draw.vector("cls.predictions.bias", size.vocab)
    draw.linear("cls.predictions.transform.dense", size.hidden, size.hidden)
    draw.norm("cls.predictions.transform.LayerNorm", size.hidden)
    draw.state["cls.predictions.decoder.weight"] = draw.state["bert.embeddings.word_embeddings.weight"]
    draw.state["cls.predictions.decoder.bias"] = draw.state["cls.predictions.bias"]
    draw.linear("cls.seq_relationship", 2, size.hidden)
    return draw.state, draw.zeros


def distilbert(size, sparsity, seed=0):
    """The same of `DistilBertForMaskedLM`."""
    draw = Draw(seed, sparsity)
    draw.embeddings("distilbert.embeddings", size)
    for layer in range(size.layers):
        at = f"distilbert.transformer.layer.{layer}"
        for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
            draw.pruned(f"{at}.attention.{name}", size.hidden, size.hidden)
        draw.norm(f"{at}.sa_layer_norm", size.hidden)
        draw.pruned(f"{at}.ffn.lin1", size.intermediate, size.hidden)
        draw.pruned(f"{at}.ffn.lin2", size.hidden, size.intermediate)
        draw.norm(f"{at}.output_layer_norm", size.hidden)
    draw.linear("vocab_transform", size.hidden, size.hidden)
    draw.norm("vocab_layer_norm", size.hidden)
    draw.state["vocab_projector.weight"] = draw.state["distilbert.embeddings.word_embeddings.weight"]
    draw.vector("vocab_projector.bias", size.vocab)
    return draw.state, draw.zeros


class Draw:
    """A state dict in the making."""

    def __init__(self, seed, sparsity):
        self.state, self.zeros, self.sparsity = {}, {}, sparsity
        self.generator = torch.Generator().manual_seed(seed)

    def vector(self, name, *shape, around=0.0):
        """fp32 values around a number."""
        self.state[name] = torch.randn(*shape, generator=self.generator).mul_(0.02).add_(around)

    def linear(self, at, rows, columns):
        """Weight and bias."""
        self.vector(f"{at}.weight", rows, columns)
        self.vector(f"{at}.bias", rows)

    def pruned(self, at, rows, columns):
        """The same, with zeros: -0.0 where the weight was below 0, as a product with a mask leaves it."""
        self.linear(at, rows, columns)
        weight = self.state[f"{at}.weight"]
        weight.mul_(keep_largest(weight.abs(), self.sparsity))
        self.zeros[f"{at}.weight"] = int((weight == 0).sum())

    def norm(self, at, size):
        """LayerNorm."""
        self.vector(f"{at}.weight", size, around=1.0)
        self.vector(f"{at}.bias", size)

    def embeddings(self, at, size, types=0):
        """Word, position and perhaps token-type embeddings."""
        self.vector(f"{at}.word_embeddings.weight", size.vocab, size.hidden)
        self.vector(f"{at}.position_embeddings.weight", size.positions, size.hidden)
        if types:
            self.vector(f"{at}.token_type_embeddings.weight", types, size.hidden)
        self.norm(f"{at}.LayerNorm", size.hidden)


def bert_config(size):
    """config.json as transformers 4.9 wrote it."""
    return {
        "_name_or_path": "bert-base-uncased",
        "architectures": ["BertForPreTraining"],
        "attention_probs_dropout_prob": 0.1,
        "gradient_checkpointing": False,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": size.hidden,
        "initializer_range": 0.02,
        "intermediate_size": size.intermediate,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": size.positions,
        "model_type": "bert",
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "transformers_version": "4.9.1",
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": size.vocab,
    }


def distilbert_config(size):
    """The same of DistilBERT."""
    return {
        "activation": "gelu",
        "architectures": ["DistilBertForMaskedLM"],
        "attention_dropout": 0.1,
        "dim": size.hidden,
        "dropout": 0.1,
        "hidden_dim": size.intermediate,
        "initializer_range": 0.02,
        "max_position_embeddings": size.positions,
        "model_type": "distilbert",
        "n_heads": size.heads,
        "n_layers": size.layers,
        "pad_token_id": 0,
        "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "sinusoidal_pos_embds": False,
        "tie_weights_": True,
        "torch_dtype": "float32",
        "transformers_version": "4.9.1",
        "vocab_size": size.vocab,
    }


def write_folder(folder, config, state, kind="bin", weights="pytorch_model"):
    """A model folder with tokenizer files. `kind` is `bin`, where tied tensors share their storage, or `safetensors`,
    where the hub's converter left out the second of two."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    words = [*WORDS, *(f"w{number}" for number in range(len(WORDS), config["vocab_size"]))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "tokenizer_class": "BertTokenizer"}\n')
    names = {"unk_token": 1, "sep_token": 3, "pad_token": 0, "cls_token": 2, "mask_token": 4}
    (folder / "special_tokens_map.json").write_text(json.dumps({key: WORDS[at] for key, at in names.items()}))
    if kind == "bin":
        torch.save(state, folder / f"{weights}.bin")
    else:
        once = {tensor.data_ptr(): name for name, tensor in reversed(state.items())}
        save_file({name: state[name] for name in once.values()}, folder / "model.safetensors", {"format": "pt"})
    return folder
