"""One fine-tuning run: a task's labelled data, a model with zeros to keep, and perhaps a teacher."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ofa.sections.base import Section
from ofa.sections.training import TrainingConfig, with_loss_weights


class TaskConfig(Section):
    """A task of `ofa.data.tasks`, and where its examples are."""

    name: str
    """`cola`, `sst2`, `mrpc`, `stsb`, `qqp`, `mnli`, `qnli`, `rte`, `wnli`, `squad`, `squad_v2`; or, with columns of
    your own, `text_classification`, `text_regression` or `token_classification`."""

    path: str | None = None
    """Folder of the task's original files (GLUE's .tsv, SQuAD's .json), or of your own (.csv, .tsv, .jsonl, .parquet;
    also .gz, .zst, .xz). null: the task's dataset on the hub."""

    dataset: str | None = None
    """Hub id or local dataset folder, in place of `path`; null: the task's own."""

    subset: str | None = None
    """Configuration of the dataset."""

    train: list[str] | None = None
    """Files or patterns of the training split below `path`, or the dataset's split; null: the task's own names."""

    validation: list[str] | None = None
    """The same for the validation split."""

    split_column: str | None = None
    """Column that says `train` or `validation`, where one file holds both splits."""

    text_column: str | None = None
    """Column of the text, of the words for token_classification; a dot leads into an object, as in `meta.title`. null:
    the task's own."""

    pair_column: str | None = None
    """Column of a second text; null: the task's own, or none."""

    label_column: str | None = None
    """Column of the label; null: the task's own."""

    labels: list[str] | None = Field(default=None, min_length=2)
    """Class names in their order; null: the task's own, or those of the training split, sorted."""

    other_labels: Literal["refuse", "drop"] = "refuse"
    """Examples whose label is not among `labels`: an error, or left out."""

    encoding: str = "utf-8"
    """Of the files."""

    max_length: int | None = Field(default=None, gt=8)
    """Tokens of a row, longer ones are cut (questions: windows of the context); null: 128, questions 384."""

    stride: int = Field(default=128, ge=0)
    """Tokens that windows of one context share (questions)."""

    train_rows: int | None = Field(default=None, gt=0)
    """Examples used: a random part of the split, always the same; null: all of them."""

    validation_rows: int | None = Field(default=None, gt=0)
    """The same for the validation split."""

    n_best: int = Field(default=20, gt=0)
    """Start and end positions that answers are made of (questions)."""

    max_answer_tokens: int = Field(default=30, gt=0)
    """Longer spans are no answers (questions)."""

    null_threshold: float = 0.0
    """No answer is given where its score is above the best answer's by more than this (squad_v2)."""

    @model_validator(mode="after")
    def _one_source(self) -> TaskConfig:
        if self.path is not None and self.dataset is not None:
            raise ValueError("task.path and task.dataset both say where the examples are: give one")
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            raise ValueError("task.labels names a class twice")
        return self


class TaskModelConfig(Section):
    """What is fine-tuned: an encoder, pre-trained or already fine-tuned."""

    init: str
    """A local folder or a hub id. Heads that it lacks are drawn from `seed`."""

    new_head: bool = False
    """Draw the head from `seed` also where `init` has one; otherwise a head for other classes or another task is an
    error."""

    dropout: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Overrides every dropout probability of the architecture."""

    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention implementation of transformers."""


class TaskTeacherConfig(Section):
    """A model of the same task whose predictions the student learns from."""

    init: str
    """A local folder or a hub id; its classes are put in the student's order, or refused."""

    labels: list[str] | None = None
    """Names of its classes in the order of its ids, where its config.json has none; they are those of the task."""

    cache: bool | None = None
    """Ask it once for every training row and keep its answers in the run folder; null: where they take less than 256 MB
    and every row is read more than once."""


class TaskObjectiveConfig(Section):
    """L = ce_weight * label loss + kd_weight * T^2 * KL(teacher || student).

    Regression has squared errors in both places, against label and teacher, and no temperature. Questions average start
    and end, over the tokens of the row without padding.
    """

    ce_weight: float | None = Field(default=None, ge=0.0)
    """Weight of the label loss; null: 0 with a teacher (the published transfer), 1 without."""

    kd_weight: float | None = Field(default=None, ge=0.0)
    """Weight of the distillation loss; null: 1 with a teacher, 0 without."""

    temperature: float = Field(default=2.0, gt=0.0)
    """Softens both distributions; the loss is multiplied by its square."""


DEFAULT_EPOCHS = 3.0


class TaskScheduleConfig(Section):
    """How long, and the learning rate on the way: warm-up from 0, then linear to 0 or constant."""

    epochs: float | None = Field(default=None, gt=0.0)
    """Passes over the training rows, rounded up to whole steps; null: 3, unless total_steps is given."""

    total_steps: int | None = Field(default=None, gt=0)
    """Steps in place of `epochs`."""

    warmup_share: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of all steps that the linear warm-up takes, rounded up."""

    decay: Literal["linear", "constant"] = "linear"
    """What follows the warm-up: linear decay to 0 at the last step, or the peak."""

    ELSEWHERE: ClassVar[dict[str, str]] = {"warmup_steps": "schedule.warmup_share"}

    @model_validator(mode="before")
    @classmethod
    def _some_length(cls, values: Any) -> Any:
        """The default is filled in, so that the resolved config says how long."""
        if isinstance(values, dict) and values.get("epochs") is None and values.get("total_steps") is None:
            return {**values, "epochs": DEFAULT_EPOCHS}
        return values

    @model_validator(mode="after")
    def _one_length(self) -> TaskScheduleConfig:
        if self.epochs is not None and self.total_steps is not None:
            raise ValueError("schedule.epochs and schedule.total_steps both say how long: set one of them to null")
        return self


class TaskEvaluateConfig(Section):
    """Scores while training and at the end; the checkpoint with the best is exported."""

    every: int | None = Field(default=None, gt=0)
    """Steps between two evaluations; null: an epoch. One is always made at the end."""

    micro_size: int | None = Field(default=None, gt=0)
    """Rows of one forward; null: batch.micro_size."""

    ELSEWHERE: ClassVar[dict[str, str]] = {"rows": "task.validation_rows"}


class FinetuneConfig(TrainingConfig):
    """One fine-tuning run: a task model from an encoder whose zeros stay, or are made on the way."""

    model: TaskModelConfig
    teacher: TaskTeacherConfig | None = None
    task: TaskConfig
    lock: bool = True
    """Keep every zero of `model.init`: the weights that its masks.safetensors drops or, without that file, those that
    are zero. false: train all weights."""

    objective: TaskObjectiveConfig = TaskObjectiveConfig()
    schedule: TaskScheduleConfig = TaskScheduleConfig()
    evaluate: TaskEvaluateConfig = TaskEvaluateConfig()

    PLACES: ClassVar[dict[str, Any]] = {"task": {"path", "dataset"}, "teacher": {"cache"}}

    @property
    def most_checkpoints(self) -> int:
        """Also the best one."""
        return super().most_checkpoints + 1

    @property
    def has_masks(self) -> bool:
        """Also those of a lock."""
        return super().has_masks or self.lock

    @model_validator(mode="before")
    @classmethod
    def _weights_follow_the_teacher(cls, values: Any) -> Any:
        return with_loss_weights(values, taught=(0.0, 1.0))

    @model_validator(mode="after")
    def _sections_fit(self) -> FinetuneConfig:
        if self.objective.kd_weight and self.teacher is None:
            raise ValueError("objective.kd_weight is above 0 but there is no teacher section")
        if not self.objective.kd_weight and not self.objective.ce_weight:
            raise ValueError("objective.ce_weight and kd_weight are both 0: nothing would be learned")
        if self.lock and self.pruning is not None:
            raise ValueError("lock keeps the zeros as they are and pruning makes new ones: set lock to false")
        if self.engine.compile:
            raise ValueError(
                "engine.compile: a task's batches have many widths, and each would be compiled anew: set it to false"
            )
        return self
