"""What differs between architectures, one row each: the only file that names an architecture.

In: a stock transformers model or its config. Out: the prunable weights (the scope) under their state-dict names, the
modules of the masked-LM and next-sentence heads, and the sizes that FLOPs are counted from.

Rows hold paths, and a row is checked against the model when it is used, so that a renamed module is an error that names
it. The road not taken is a regular expression over all Linear modules (the published code's way): a head whose name it
does not foresee is then pruned without a word.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn
from torch.nn import functional
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

from ofa.models.architecture import Adapter, AdapterError, Blocks, Shape
from ofa.models.compact import MODEL_TYPE_PREFIX, register

TASK_CLASSES = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
READERS = tuple(zip(TASK_CLASSES[1:], (("classifier",), ("qa_outputs",)), strict=True))

BERT_BLOCKS = Blocks(
    mixer="attention.self",
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    attention_out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    ffn="intermediate",
    up="intermediate.dense",
    down="output.dense",
    ffn_norm="output.LayerNorm",
    gated=False,
    pre_norm=False,
    embeddings=(
        "embeddings.word_embeddings",
        "embeddings.position_embeddings",
        "embeddings.token_type_embeddings",
    ),
    embedding_norm="embeddings.LayerNorm",
    projection=None,
    final_norm=None,
    readers=(("ForSequenceClassification", ("bert.pooler.dense",)), *READERS, ("Model", ("pooler.dense",))),
)

ADAPTERS = (
    Adapter(
        model_type="bert",
        base="bert",
        layers="bert.encoder.layer",
        blocks=BERT_BLOCKS,
        pooler="bert.pooler",
        head=("cls.predictions.transform",),
        decoder="cls.predictions.decoder",
        nsp="cls.seq_relationship",
        token_types=True,
        positions_follow_padding=False,
        windowed=False,
        intermediate_key="intermediate_size",
        embedding_key="hidden_size",
        pooling_key=None,
        dropout_keys=("hidden_dropout_prob", "attention_probs_dropout_prob"),
        head_dropout_keys=("classifier_dropout",),
    ),
    Adapter(
        model_type="roberta",
        base="roberta",
        layers="roberta.encoder.layer",
        blocks=replace(
            BERT_BLOCKS,
            readers=(("ForSequenceClassification", ("classifier.dense",)), *READERS, ("Model", ("pooler.dense",))),
        ),
        pooler="roberta.pooler",
        head=("lm_head.dense", functional.gelu, "lm_head.layer_norm"),
        decoder="lm_head.decoder",
        nsp=None,
        token_types=True,
        positions_follow_padding=True,
        windowed=False,
        intermediate_key="intermediate_size",
        embedding_key="hidden_size",
        pooling_key=None,
        dropout_keys=("hidden_dropout_prob", "attention_probs_dropout_prob"),
        head_dropout_keys=("classifier_dropout",),
    ),
    Adapter(
        model_type="distilbert",
        base="distilbert",
        layers="distilbert.transformer.layer",
        blocks=Blocks(
            mixer="attention",
            qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
            attention_out="attention.out_lin",
            attention_norm="sa_layer_norm",
            ffn="ffn",
            up="ffn.lin1",
            down="ffn.lin2",
            ffn_norm="output_layer_norm",
            gated=False,
            pre_norm=False,
            embeddings=("embeddings.word_embeddings", "embeddings.position_embeddings"),
            embedding_norm="embeddings.LayerNorm",
            projection=None,
            final_norm=None,
            readers=(("ForSequenceClassification", ("pre_classifier",)), *READERS, ("Model", ())),
        ),
        pooler=None,
        head=("vocab_transform", "activation", "vocab_layer_norm"),
        decoder="vocab_projector",
        nsp=None,
        token_types=False,
        positions_follow_padding=False,
        windowed=False,
        intermediate_key="hidden_dim",
        embedding_key="hidden_size",
        pooling_key=None,
        dropout_keys=("dropout", "attention_dropout"),
        head_dropout_keys=("seq_classif_dropout", "qa_dropout"),
    ),
    Adapter(
        model_type="electra",
        base="electra",
        layers="electra.encoder.layer",
        blocks=replace(
            BERT_BLOCKS,
            projection="embeddings_project",
            readers=(("ForSequenceClassification", ("classifier.dense",)), *READERS, ("Model", ())),
        ),
        pooler=None,
        head=("generator_predictions",),
        decoder="generator_lm_head",
        nsp=None,
        token_types=True,
        positions_follow_padding=False,
        windowed=False,
        intermediate_key="intermediate_size",
        embedding_key="embedding_size",
        pooling_key=None,
        dropout_keys=("hidden_dropout_prob", "attention_probs_dropout_prob"),
        head_dropout_keys=("classifier_dropout",),
    ),
    Adapter(
        model_type="modernbert",
        base="model",
        layers="model.layers",
        blocks=Blocks(
            mixer="attn",
            qkv=("attn.Wqkv",),
            attention_out="attn.Wo",
            attention_norm="attn_norm",
            ffn="mlp",
            up="mlp.Wi",
            down="mlp.Wo",
            ffn_norm="mlp_norm",
            gated=True,
            pre_norm=True,
            embeddings=("embeddings.tok_embeddings",),
            embedding_norm="embeddings.norm",
            projection=None,
            final_norm="final_norm",
            readers=(*((kind, ("head.dense",)) for kind in TASK_CLASSES), ("Model", ())),
        ),
        pooler=None,
        head=("head",),
        decoder="decoder",
        nsp=None,
        token_types=False,
        positions_follow_padding=False,
        windowed=True,
        intermediate_key="intermediate_size",
        embedding_key="hidden_size",
        pooling_key="classifier_pooling",
        dropout_keys=("embedding_dropout", "attention_dropout", "mlp_dropout"),
        head_dropout_keys=("classifier_dropout",),
    ),
)

for _row in ADAPTERS:
    register(CONFIG_MAPPING[_row.model_type])


def adapter_for(model_type: str) -> Adapter:
    """The row of an architecture; that of compact models is their stock type's.

    Raises:
        AdapterError: there is none; lists the known ones.
    """
    rows = {row.model_type: row for row in ADAPTERS}
    model_type = model_type.removeprefix(MODEL_TYPE_PREFIX)
    if model_type not in rows:
        raise AdapterError(f"no adapter for model_type {model_type!r}; ofa/models/adapters.py knows {', '.join(rows)}")
    return rows[model_type]


def shape(config: PreTrainedConfig) -> Shape:
    """Sizes of a model, from its config."""
    adapter = adapter_for(config.model_type)
    return Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=getattr(config, adapter.intermediate_key),
        heads=config.num_attention_heads,
        vocab=config.vocab_size,
        embedding=getattr(config, adapter.embedding_key),
        ffn_matrices=3 if adapter.blocks.gated else 2,
    )


def encoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The encoder's layers, first to last.

    Raises:
        AdapterError: the row's path leads to no list of layers.
    """
    adapter = adapter_for(model.config.model_type)
    layers = model.get_submodule(adapter.layers) if has_module(model, adapter.layers) else None
    if not isinstance(layers, nn.ModuleList):
        raise AdapterError(
            f"adapter {adapter.model_type}: found no list of layers at {adapter.layers}; correct `layers` of the row "
            "in ofa/models/adapters.py"
        )
    return layers


def scope(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The prunable weights of a transformers model: name -> parameter [out, in], layer by layer, the pooler last.

    The scope of Prune Once for All: every Linear of the encoder layers and, where the model has one, of the pooler;
    never embeddings or a projection of them, biases, LayerNorm or a head.

    Raises:
        AdapterError: a weight of the row is missing in the model, or the model's encoder has a Linear of which the row
            knows nothing.
    """
    adapter = adapter_for(model.config.model_type)
    parameters = dict(model.named_parameters())
    expected = adapter.encoder_names(model.config)
    pooler = adapter.pooler_name()
    if pooler and (pooler in parameters or has_module(model, adapter.nsp)):
        expected.append(pooler)
    missing = [name for name in expected if name not in parameters]
    outside = {f"{adapter.base}.{adapter.blocks.projection}.weight"}
    unknown = sorted(_linear_weights(model, adapter.base) - set(expected) - outside)
    if missing or unknown:
        matched = f"{len(expected) - len(missing)} of {len(expected)} scoped weights matched"
        raise AdapterError(
            f"adapter {adapter.model_type}: {matched}; missing {_some(missing)}; Linear weights of the encoder that "
            f"the row does not name: {_some(unknown)}. Correct the row in ofa/models/adapters.py"
        )
    return {name: parameters[name] for name in expected}


def scope_names(model: PreTrainedModel) -> list[str]:
    """Names of the scope, in its order."""
    return list(scope(model))


def encoder_names(model: PreTrainedModel) -> list[str]:
    """Names of the scope without the pooler: what `encoder_sparsity` counts."""
    names = set(adapter_for(model.config.model_type).encoder_names(model.config))
    return [name for name in scope(model) if name in names]


def _linear_weights(model: nn.Module, base: str) -> set[str]:
    modules = model.get_submodule(base).named_modules(prefix=base) if has_module(model, base) else ()
    return {f"{name}.weight" for name, module in modules if isinstance(module, nn.Linear)}


def has_module(model: nn.Module, path: str | None) -> bool:
    """Whether a path leads to a module; None leads nowhere."""
    if path is None:
        return False
    try:
        return isinstance(model.get_submodule(path), nn.Module)
    except AttributeError:
        return False


def _some(names: list[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more if names else "none"
