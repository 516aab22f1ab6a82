"""What may stand in a config: every section of a training run and of data preparation, with its checks.

A field's meaning stands below it and reaches the JSON schema. An unknown key is an error. What is wrong in a value is
refused here; what needs the model or the data is refused where they are opened. `ofa.config` reads files into these.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """One object of a config file; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


# ---- training runs ----------------------------------------------------------------------------------------------


class ModelConfig(Section):
    """The student: what is trained, pruned and exported."""

    init: str | None = None
    """Weights to start from: a local folder or a hub id. null draws fresh weights from `seed`."""

    architecture: dict[str, Any]
    """`model_type` and any other value of the transformers config. With `init` it must agree with the folder's
    config.json; it lets a recipe be planned and checked before the weights exist."""

    task: Literal["mlm", "mlm_nsp"] = "mlm"
    """Heads: masked-LM alone, or masked-LM and next-sentence prediction (needs `segment_pair_nsp` data)."""

    dropout: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Overrides every dropout probability of the architecture."""

    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention implementation of transformers."""


class TeacherConfig(Section):
    """A frozen dense model whose predictions the student learns from."""

    init: str
    """A local folder or a hub id; vocabulary and tokenizer must be the student's."""


class DataConfig(Section):
    """Prepared shards and how tokens are masked when rows are loaded."""

    path: str
    """Folder made by `python -m data_prep`: manifest.json, train/, validation/, tokenizer/."""

    sequence_length: int = Field(gt=0)
    """Tokens in a packed row. Owned by the shards; repeated here so that a recipe can be planned without them, and
    checked against the manifest."""

    mask_probability: float = Field(default=0.15, gt=0.0, lt=1.0)
    """Share of a row's maskable tokens that is predicted. The number per row is fixed: rounded, at least one."""

    max_predictions: int | None = Field(default=None, gt=0)
    """Upper limit of predicted tokens in a row; null: ceil(mask_probability * sequence_length)."""

    mask_token_share: float = Field(default=0.8, ge=0.0, le=1.0)
    """Share of predicted tokens replaced by [MASK] (BERT section 3.1)."""

    random_token_share: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of predicted tokens replaced by a random token; the rest keeps its token."""

    whole_word_masking: bool = False
    """Choose whole words instead of single WordPieces."""

    shuffle_window: int = Field(default=16, gt=0)
    """Records whose rows are shuffled together; larger mixes more and reads more ahead."""

    workers: int = Field(default=1, ge=0)
    """Threads of each rank that read and mask ahead of the step; 0 does it between the steps."""

    @model_validator(mode="after")
    def _shares_fit(self) -> DataConfig:
        if self.mask_token_share + self.random_token_share > 1.0:
            raise ValueError("mask_token_share + random_token_share must not exceed 1")
        return self

    def predictions_limit(self) -> int:
        """Most positions of one row that can be predicted."""
        default = -(-round(self.mask_probability * self.sequence_length * 10**6) // 10**6)
        return self.max_predictions or default


class BatchConfig(Section):
    """Rows per optimizer step; gradient accumulation is derived from these and the world size."""

    global_size: int = Field(gt=0)
    """Rows of one optimizer step over all ranks."""

    micro_size: int = Field(gt=0)
    """Rows of one forward on one rank."""


class ObjectiveConfig(Section):
    """L = ce_weight * (CE_mlm + CE_nsp) + kd_weight * (KD_mlm + KD_nsp) + hidden_weight * cosine."""

    ce_weight: float | None = Field(default=None, ge=0.0)
    """Weight of the label losses; null: 0.5 with a teacher, 1 without."""

    kd_weight: float | None = Field(default=None, ge=0.0)
    """Weight of the distillation losses; null: 0.5 with a teacher, 0 without."""

    temperature: float = Field(default=2.0, gt=0.0)
    """Softens both distributions; the loss is multiplied by its square."""

    kd_positions: str = Field(default="masked", pattern=r"^(masked|all|sample:(0?\.\d+|1(\.0*)?))$")
    """Where distillation compares logits: `masked` (predicted tokens), `all` (every real token, the published
    method), or `sample:p` (a fixed share p of the real tokens of each row, predicted ones always among them)."""

    hidden_weight: float = Field(default=0.0, ge=0.0)
    """Weight of 1 - cosine between the last hidden states of student and teacher at every real token."""

    chunk_rows: int = Field(default=1024, gt=0)
    """Positions whose logits exist at one time."""


class OptimizerConfig(Section):
    """AdamW; weight decay spares biases and LayerNorm."""

    lr: float = Field(gt=0.0)
    """Peak learning rate."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moment."""

    eps: float = Field(default=1e-8, gt=0.0)
    """Added to the root of the second moment."""

    weight_decay: float = Field(default=0.01, ge=0.0)
    """Decoupled weight decay."""

    max_grad_norm: float = Field(default=1.0, ge=0.0)
    """Clips the norm of the whole gradient; 0 switches clipping off."""


class RewindConfig(Section):
    """Learning-rate rewinding while pruning (Prune Once for All): see `ofa.recipe.rewound_linear`."""

    start: int = Field(ge=0)
    """First step of the pruning window."""

    end: int = Field(gt=0)
    """First step after it."""

    frequency: int = Field(gt=0)
    """Steps after which the clock of the learning rate jumps back."""

    cap_at_peak: bool = False
    """Keep the rate at or below its peak; the published schedule exceeds it by T'/(T' - W) when the warm-up lies
    inside the window."""


class ScheduleConfig(Section):
    """Learning rate as a function of the step, in applied optimizer steps."""

    total_steps: int = Field(ge=0)
    """Optimizer steps of the run; 0 prunes and exports without training."""

    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up from 0."""

    decay: Literal["linear", "constant"] = "linear"
    """What follows the warm-up: linear decay to 0 at `total_steps`, or the peak."""

    rewind: RewindConfig | None = None
    """Learning-rate rewinding; null: none."""

    @model_validator(mode="after")
    def _windows_fit(self) -> ScheduleConfig:
        if self.total_steps and self.warmup_steps >= self.total_steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below total_steps {self.total_steps}")
        if self.rewind is None:
            return self
        start, end = self.rewind.start, self.rewind.end
        if self.decay != "linear":
            raise ValueError("rewind needs decay linear")
        if not start < end <= self.total_steps:
            raise ValueError(f"rewind needs start < end <= total_steps, found {start}, {end}, {self.total_steps}")
        if self.total_steps - (end - start) <= self.warmup_steps:
            raise ValueError("rewind leaves no step after the warm-up: total_steps - (end - start) <= warmup_steps")
        return self


class PruningConfig(Section):
    """Gradual magnitude pruning of the scope that the architecture's adapter names."""

    sparsity: float = Field(ge=0.0, lt=1.0)
    """Final fraction of zeros in each scoped tensor."""

    initial_sparsity: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Fraction at `ramp_start`."""

    ramp_start: int = Field(default=0, ge=0)
    """Step at which the cubic ramp begins (t0)."""

    ramp_end: int = Field(ge=0)
    """Step at which it reaches `sparsity` (t1); equal to `ramp_start` prunes in one shot."""

    begin: int | None = Field(default=None, ge=0)
    """First step at which masks may be refreshed; null: `ramp_start`."""

    end: int | None = Field(default=None, ge=0)
    """Last step at which masks may be refreshed; null: `ramp_end`."""

    frequency: int = Field(gt=0)
    """Steps between two refreshes."""

    regrow: bool = True
    """true: pruned weights keep a dense copy in the fp32 master and may come back until the last refresh (the
    published method). false: they are zeroed together with their optimizer moments and stay zero."""

    ties: Literal["index", "drop_all"] = "index"
    """Equal magnitudes at the threshold: `index` drops the lowest indices first, so that counts are exact;
    `drop_all` drops every one of them, as the published code does."""

    @model_validator(mode="after")
    def _ramp_fits(self) -> PruningConfig:
        if self.initial_sparsity > self.sparsity:
            raise ValueError(f"initial_sparsity {self.initial_sparsity} exceeds sparsity {self.sparsity}")
        if self.ramp_end < self.ramp_start:
            raise ValueError(f"ramp_end {self.ramp_end} lies before ramp_start {self.ramp_start}")
        if self.last_allowed < self.first_allowed:
            raise ValueError(f"pruning end {self.last_allowed} lies before its begin {self.first_allowed}")
        return self

    @property
    def first_allowed(self) -> int:
        """First step of the refresh grid."""
        return self.ramp_start if self.begin is None else self.begin

    @property
    def last_allowed(self) -> int:
        """No refresh happens after this step."""
        return self.ramp_end if self.end is None else self.end


DECIDED_FOR_DEEPSPEED = {
    "train_batch_size": "batch.global_size",
    "train_micro_batch_size_per_gpu": "batch.micro_size",
    "gradient_accumulation_steps": "batch.global_size and batch.micro_size",
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "data_types": "fp32, always",
    "gradient_clipping": "optimizer.max_grad_norm",
    "fp16": "engine.precision",
    "bf16": "engine.precision",
    "zero_optimization.stage": "engine.zero_stage",
    "steps_per_print": "log.every",
}
"""DeepSpeed keys whose values are generated, and the keys of ours that decide them."""


PASSED_TO_DEEPSPEED = (
    "communication_data_type",
    "comms_logger",
    "dump_state",
    "flops_profiler",
    "memory_breakdown",
    "wall_clock_breakdown",
    "zero_optimization.allgather_bucket_size",
    "zero_optimization.allgather_partitions",
    "zero_optimization.contiguous_gradients",
    "zero_optimization.overlap_comm",
    "zero_optimization.reduce_bucket_size",
    "zero_optimization.reduce_scatter",
    "zero_optimization.round_robin_gradients",
)
"""Keys that a user may set: none of them moves or copies weights."""


class EngineConfig(Section):
    """DeepSpeed; its own config is generated from this one."""

    zero_stage: Literal[0, 1] = 1
    """Partition of the optimizer state: 1 shards fp32 masters and moments over the ranks; 0 does not."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of weights and activations; masters and moments are always fp32."""

    threads: int | None = Field(default=None, gt=0)
    """CPU threads of each rank; null: cores / ranks on the machine. Other counts give other last bits."""

    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Further DeepSpeed keys, passed on: buckets, overlap, logging and profiling. Any other key is refused."""


    @model_validator(mode="after")
    def _deepspeed_keys_are_known(self) -> EngineConfig:
        zero = self.deepspeed.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ValueError(f"deepspeed.zero_optimization must be an object, found {json.dumps(zero)}")
        given = [key for key in self.deepspeed if key != "zero_optimization"]
        for key in [*given, *(f"zero_optimization.{inner}" for inner in zero)]:
            if key in DECIDED_FOR_DEEPSPEED:
                raise ValueError(f"deepspeed.{key} is decided by {DECIDED_FOR_DEEPSPEED[key]}: set that instead")
            if key not in PASSED_TO_DEEPSPEED:
                raise ValueError(
                    f"deepspeed.{key} is not passed on: DeepSpeed ignores keys that it does not know, and offload, "
                    f"quantised or compiled modes keep weights where masks do not reach them. Passed on are "
                    f"{', '.join(PASSED_TO_DEEPSPEED)}"
                )
        return self


class CheckpointConfig(Section):
    """Where a killed run continues."""

    every: int = Field(default=1000, gt=0)
    """Steps between two checkpoints; one is always written at the end."""

    keep_last: int = Field(default=2, gt=0)
    """Newest checkpoints that stay on disk."""

    keep_every: int | None = Field(default=None, gt=0)
    """Checkpoints whose step is a multiple of this stay for good."""


class LogConfig(Section):
    """metrics.jsonl and what mirrors it."""

    every: int = Field(default=10, gt=0)
    """Steps between two metrics lines; mask refreshes always get a line."""

    tensorboard: bool = True
    """Also write TensorBoard event files."""


class EvaluateConfig(Section):
    """Validation while training and at the end."""

    every: int = Field(default=1000, gt=0)
    """Steps between two validations; one is always made at the end."""

    rows: int | None = Field(default=None, gt=0)
    """Validation rows used, from the first; null: all of them."""

    micro_size: int | None = Field(default=None, gt=0)
    """Rows of one forward; null: batch.micro_size."""


class RunConfig(Section):
    """One training run: teacher preparation, sparse pre-training, or one-shot pruning."""

    seed: int = Field(default=42, ge=0)
    """Fresh weights, sample order, token masks and dropout all derive from it."""

    model: ModelConfig
    teacher: TeacherConfig | None = None
    data: DataConfig
    batch: BatchConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    pruning: PruningConfig | None = None
    engine: EngineConfig = EngineConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="before")
    @classmethod
    def _weights_follow_the_teacher(cls, values: Any) -> Any:
        """Fill the objective's null weights, so that the resolved config says what was run."""
        if not isinstance(values, dict) or not isinstance(values.get("objective", {}), dict):
            return values
        objective = dict(values.get("objective", {}))
        has_teacher = values.get("teacher") is not None
        for key, default in (("ce_weight", 0.5 if has_teacher else 1.0), ("kd_weight", 0.5 if has_teacher else 0.0)):
            if objective.get(key) is None:
                objective[key] = default
        return {**values, "objective": objective}

    @model_validator(mode="after")
    def _sections_fit(self) -> RunConfig:
        if self.objective.kd_weight and self.teacher is None:
            raise ValueError("objective.kd_weight is above 0 but there is no teacher section")
        if self.objective.hidden_weight and self.teacher is None:
            raise ValueError("objective.hidden_weight is above 0 but there is no teacher section")
        if self.pruning and self.pruning.last_allowed > self.schedule.total_steps:
            raise ValueError(
                f"pruning may refresh until step {self.pruning.last_allowed}, after total_steps "
                f"{self.schedule.total_steps}; set pruning.end"
            )
        if self.pruning and self.pruning.regrow and self.engine.zero_stage == 0:
            raise ValueError("pruning.regrow needs dense fp32 masters, which ZeRO 0 does not keep: use zero_stage 1")
        if self.engine.zero_stage == 0 and self.engine.precision == "bf16":
            raise ValueError("zero_stage 0 with bf16 hides DeepSpeed's masters and moments: use zero_stage 1")
        return self

    def fingerprint(self) -> str:
        """sha256 of everything that decides the result."""
        return _digest(self.decisive())

    def decisive(self) -> dict[str, Any]:
        """The values that decide the result; a run may continue with others for the rest. The data has a fingerprint
        of its own, so its place may change."""
        aside = {"log": True, "checkpoint": True, "data": {"path", "workers"}, "engine": {"threads"}}
        return self.model_dump(mode="json", exclude=aside)


# ---- data preparation -------------------------------------------------------------------------------------------


class SourceConfig(Section):
    """Where documents come from."""

    kind: Literal["docstrings", "text", "parquet", "hub"]
    """`docstrings` of installed packages, `text` (.txt, .jsonl; also .gz, .zst, .xz), `parquet` files, or a dataset
    of the `hub` (also a local folder in its layout)."""

    paths: list[str] = []
    """Files, folders or glob patterns (`text`, `parquet`)."""

    distributions: list[str] = []
    """Installed distributions to read (`docstrings`); the standard library is always read."""

    dataset: str | None = None
    """Hub id or local folder (`hub`)."""

    subset: str | None = None
    """Configuration of the dataset, for example `20231101.en` (`hub`)."""

    split: str = "train"
    """Split of the dataset (`hub`)."""

    streaming: bool = False
    """Read the dataset over the network without keeping a copy in the cache (`hub`)."""

    text_field: str = "text"
    """Column or JSON key of the text."""

    id_field: str | None = "id"
    """Column or JSON key of the identifier; where it is missing the position in the file serves."""

    group_field: str | None = None
    """Column or JSON key whose value keeps documents together in the split; null: each document alone."""

    @model_validator(mode="after")
    def _kind_is_complete(self) -> SourceConfig:
        if self.kind in ("text", "parquet") and not self.paths:
            raise ValueError(f"source.kind {self.kind} needs source.paths")
        if self.kind == "hub" and not self.dataset:
            raise ValueError("source.kind hub needs source.dataset")
        return self


class CleanConfig(Section):
    """Filters; each counts what it drops in the manifest."""

    min_characters: int = Field(default=1, ge=0)
    """Shorter documents are dropped."""

    max_characters: int | None = Field(default=None, gt=0)
    """Longer documents are dropped; null: none are."""

    drop_code_lines: bool = False
    """Drop doctest lines (`>>>`, `...`) and rule lines (`----`, `====`)."""

    deduplicate: bool = True
    """Keep the first of documents whose text, white space aside, is the same."""


class TokenizerConfig(Section):
    """A tokenizer to load, or a WordPiece vocabulary to train on the documents."""

    init: str | None = None
    """A local folder or a hub id; null trains one."""

    vocab_size: int = Field(default=8192, gt=0)
    """Entries of a trained vocabulary."""

    lowercase: bool = True
    """Lower-case and strip accents in a trained tokenizer."""


class DataPrepConfig(Section):
    """Text to shards: `python -m data_prep --config FILE`."""

    seed: int = Field(default=42, ge=0)
    """Sentence pairs and short sequences derive from it."""

    source: SourceConfig
    clean: CleanConfig = CleanConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()

    mode: Literal["doc_sentences", "segment_pair_nsp"] = "doc_sentences"
    """`doc_sentences`: sentences of one document joined by [SEP]. `segment_pair_nsp`: BERT's sentence pairs."""

    sentences: Literal["rule", "nupunkt", "none"] = "rule"
    """Sentence splitter; `none` takes a document as one sentence."""

    sequence_length: int = Field(default=512, gt=4)
    """Tokens in a packed row."""

    overflow: Literal["cut", "close"] = "cut"
    """The sentence that overflows a segment (`doc_sentences`): `cut` fills the segment with its beginning and starts
    the next one with the rest, so that rows are full; `close` keeps it whole for the next segment, as the published
    method does, which leaves 4 % of a 512-token row empty on long articles and 13 % of a 128-token one."""

    short_sequence_probability: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of documents with a random shorter target length (`segment_pair_nsp`)."""

    validation_share: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of document groups that goes to validation, by a hash of the group."""

    record_tokens: int = Field(default=65536, ge=1024)
    """Tokens in one record of a shard."""

    shard_characters: int = Field(default=64_000_000, ge=1000)
    """Characters of text in one shard: the unit of work and of a restart."""

    @model_validator(mode="after")
    def _pairs_need_sentences(self) -> DataPrepConfig:
        if self.mode == "segment_pair_nsp" and self.sentences == "none":
            raise ValueError("mode segment_pair_nsp pairs sentences: sentences must be rule or nupunkt, found none")
        return self


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
