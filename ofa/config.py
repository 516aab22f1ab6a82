"""Configuration: JSON in, checked and typed sections out.

A config file is one JSON object with the sections of a training run (`RunConfig`, `FinetuneConfig`, `CofiConfig`,
`CofiMlmConfig`), of `DataPrepConfig` (text to shards) or of `SweepConfig` (many runs). `base` names one other file,
beside the file that says it or under `configs/`, whose values are inherited. Values given as `--set section.key=value`
win over the file. The sections stand in `ofa.sections` and can be imported from here.

An alternative was omegaconf or hydra: they bring their own command line, and DeepSpeed's launcher has one already.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ofa.config_errors import ConfigError, concerned, explain, shortened
from ofa.config_values import apply_override, decode, merged, wild_values
from ofa.sections.base import Section, likely, nearest
from ofa.sections.cofi import (
    CofiConfig,
    CofiObjectiveConfig,
    CofiScheduleConfig,
    CompactScheduleConfig,
    StructureConfig,
)
from ofa.sections.cofi_mlm import (
    AnyCofiConfig,
    CofiMlmConfig,
    CofiMlmObjectiveConfig,
    CompactStepsConfig,
    StructureStepsConfig,
)
from ofa.sections.data import BatchConfig, DataConfig
from ofa.sections.data_prep import (
    BooksConfig,
    CleanConfig,
    DataPrepConfig,
    SourceConfig,
    TokenizerConfig,
    WikiConfig,
)
from ofa.sections.engine import EngineConfig
from ofa.sections.finetune import (
    FinetuneConfig,
    TaskConfig,
    TaskEvaluateConfig,
    TaskModelConfig,
    TaskObjectiveConfig,
    TaskScheduleConfig,
    TaskTeacherConfig,
)
from ofa.sections.model import ModelConfig, ObjectiveConfig, TeacherConfig
from ofa.sections.qat import QatConfig, QuantizationConfig
from ofa.sections.run import EvaluateConfig, RunConfig
from ofa.sections.schedule import OptimizerConfig, OverrideConfig, PruningConfig, RewindConfig, ScheduleConfig
from ofa.sections.sweep import CellConfig, JobConfig, NamedValuesConfig, SweepConfig
from ofa.sections.training import CheckpointConfig, LogConfig, TrainingConfig

__all__ = [
    "AnyCofiConfig",
    "BatchConfig",
    "BooksConfig",
    "CHECKOUT",
    "CONFIGS",
    "CellConfig",
    "CheckpointConfig",
    "CleanConfig",
    "CofiConfig",
    "CofiMlmConfig",
    "CofiMlmObjectiveConfig",
    "CofiObjectiveConfig",
    "CofiScheduleConfig",
    "CompactScheduleConfig",
    "CompactStepsConfig",
    "ConfigError",
    "DataConfig",
    "DataPrepConfig",
    "EngineConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "JobConfig",
    "LogConfig",
    "ModelConfig",
    "NamedValuesConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "OverrideConfig",
    "PruningConfig",
    "QatConfig",
    "QuantizationConfig",
    "RewindConfig",
    "RunConfig",
    "ScheduleConfig",
    "Section",
    "SourceConfig",
    "StructureConfig",
    "StructureStepsConfig",
    "SweepConfig",
    "TaskConfig",
    "TaskEvaluateConfig",
    "TaskModelConfig",
    "TaskObjectiveConfig",
    "TaskScheduleConfig",
    "TaskTeacherConfig",
    "TeacherConfig",
    "TokenizerConfig",
    "TrainingConfig",
    "WikiConfig",
    "apply_override",
    "command_that_makes",
    "config_that_makes",
    "differences",
    "find",
    "kind_of",
    "kind_of_values",
    "likely",
    "load",
    "load_one_of",
    "parse",
    "run_folder",
    "schema",
]

CHECKOUT = Path(__file__).resolve().parents[1]
"""The folder that holds `ofa/`, `launch/` and `configs/`, whatever the working directory is."""

CONFIGS = CHECKOUT / "configs"

USES: dict[type[Section], str] = {
    SweepConfig: "describes a sweep: use it with python launch/sweep.py",
    RunConfig: "pre-trains a model: use it with launch/pretrain.py",
    CofiConfig: "prunes a task model's structure: use it with launch/cofi.py",
    CofiMlmConfig: "prunes a masked-LM model's structure: use it with launch/cofi.py",
    QatConfig: "trains a task model in 8 bits: use it with launch/qat.py",
    FinetuneConfig: "fine-tunes a model: use it with launch/finetune.py",
    DataPrepConfig: "prepares data: use it with python -m data_prep",
}
"""What configs of each kind do, and by what."""

KEYS: dict[tuple[str, ...], type[Section]] = {
    ("script",): SweepConfig,
    ("structure", "data"): CofiMlmConfig,
    ("structure",): CofiConfig,
    ("quantization",): QatConfig,
    ("task",): FinetuneConfig,
    ("source",): DataPrepConfig,
    ("sources",): DataPrepConfig,
    ("data",): RunConfig,
}
"""Sections that configs of one kind have, and no kind that stands further down."""

MAKERS: dict[type[Section] | None, str] = {
    RunConfig: "deepspeed launch/pretrain.py",
    CofiConfig: "python launch/cofi.py",
    CofiMlmConfig: "python launch/cofi.py",
    QatConfig: "python launch/qat.py",
    FinetuneConfig: "python launch/finetune.py",
}
"""Commands that make models."""


ConfigT = TypeVar("ConfigT", bound=Section)


def find(name: str | Path) -> Path:
    """Path of a config named as a path or relative to the checkout's `configs/`.

    Raises:
        ConfigError: neither exists.
    """
    for candidate in (Path(name), CONFIGS / name):
        if _is_file(candidate):
            return candidate.resolve()
    if Path(name).is_dir():
        raise ConfigError(f"config {name} is a folder; a config is one JSON file")
    known = sorted(str(p.relative_to(CONFIGS)) for p in CONFIGS.rglob("*.json") if p.name != "schema.json")
    beside = sorted(map(str, Path(name).parent.glob("*.json")))
    hint = nearest(str(name), known, besides=beside)
    raise ConfigError(f"config {name} not found, neither as a path nor under {CONFIGS}{hint}")


def load(kind: type[ConfigT], name: str | Path, overrides: list[str] | None = None) -> ConfigT:
    """Read a config file with its bases, apply `section.key=value` overrides, and check it.

    Raises:
        ConfigError: with the file and the key.
    """
    path = find(name)
    values = _read_with_bases(path, seen=())
    for override in overrides or []:
        apply_override(values, override, kind.DOTTED, kind.NAMED)
    _refuse_another_kind(kind, values, path)
    return parse(kind, values, origin=str(path), overrides=overrides or ())


def load_one_of(kinds: Sequence[type[ConfigT]], name: str | Path, overrides: list[str] | None = None) -> ConfigT:
    """As `load`, of the one among several kinds that the file is of; of the first where it is of none.

    Raises:
        ConfigError: as `load`.
    """
    found = kind_of(name)
    return load(next((kind for kind in kinds if kind is found), kinds[0]), name, overrides)


def _refuse_another_kind(kind: type[Section], values: dict[str, Any], path: Path) -> None:
    """A config of the other kind would give an error for each of its keys."""
    found = kind_of_values(values)
    if found is not None and issubclass(kind, Section) and kind in USES and found is not kind:
        raise ConfigError(f"{path} {USES[found]} --config")


def kind_of(name: str | Path) -> type[Section] | None:
    """What a config file is for; None where no section tells.

    Raises:
        ConfigError: it is not there, or cannot be read.
    """
    return kind_of_values(_read_with_bases(find(name), seen=()))


def kind_of_values(values: Mapping[str, Any]) -> type[Section] | None:
    """What a config is for, by the sections that only its kind has; None where it has none of them."""
    return next((kind for keys, kind in KEYS.items() if values.keys() >= set(keys)), None)


def parse(
    kind: type[ConfigT], values: dict[str, Any], *, origin: str, overrides: Sequence[str] = ()
) -> ConfigT:
    """Check values that are already read; `origin` names them in errors, with those of the overrides that are wrong.

    Raises:
        ConfigError: with `origin` and every key that is wrong.
    """
    for problem in wild_values(values, ()):
        raise ConfigError(f"{_places(origin, overrides, [problem.partition(':')[0]])}: {problem}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [explain(kind, dict(problem)) for problem in error.errors()]
        keys = [".".join(map(str, problem["loc"])) for problem in error.errors()]
        raise ConfigError(f"{_places(origin, overrides, keys)}: {'; '.join(problems)}") from None


def _places(origin: str, overrides: Sequence[str], keys: Sequence[str]) -> str:
    """Where problems with these keys come from: the file, and what was typed over it."""
    return " --set ".join([origin, *concerned(overrides, keys)])


def run_folder(name: str | Path) -> Path:
    """`runs/` and the config's path under `configs/`, without its suffix."""
    path = find(name)
    inside = path.relative_to(CONFIGS) if path.is_relative_to(CONFIGS) else Path(path.name)
    return Path("runs") / inside.with_suffix("")


def schema() -> dict[str, Any]:
    """JSON schema of config files, for editors."""
    kinds = {"run": RunConfig, "finetune": FinetuneConfig, "cofi": CofiConfig, "cofi_mlm": CofiMlmConfig}
    kinds |= {"qat": QatConfig, "sweep": SweepConfig, "data_prep": DataPrepConfig}
    either = {"title": "sparse-ofa config", "anyOf": [], "$defs": {}}
    for name, kind in kinds.items():
        one = kind.model_json_schema(ref_template="#/$defs/{model}")
        either["$defs"].update(one.pop("$defs", {}))
        meaning = "A config to inherit from: beside this one, or under configs/."
        one["properties"]["base"] = {"type": "string", "description": meaning}
        one.pop("required", None)  # a base may give what a file leaves out
        either["$defs"][name] = one
        either["anyOf"].append({"$ref": f"#/$defs/{name}"})
    return either


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two dumped configs."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after or (key in old) != (key in new):
            texts = (shortened(json.dumps(side[key])) if key in side else "absent" for side in (old, new))
            found.append(f"{prefix}{key} ({' -> '.join(texts)})")
    return found


def command_that_makes(path: str) -> str | None:
    """The command whose output is `path`, if a shipped config makes it: a run's model, or prepared data or a part of
    them."""
    name = config_that_makes(path)
    if name is not None:
        return f"{MAKERS[kind_of(CONFIGS / name)]} --config {name}"
    parts = Path(path).parts
    if parts[:1] == ("data",) and len(parts) > 1:
        name = Path("data", f"{parts[1]}.json")
        return f"python -m data_prep --config {name}" if (CONFIGS / name).is_file() else None
    return None


def config_that_makes(path: str) -> str | None:
    """Name of the shipped config whose run exports its model to `path`; None if there is none."""
    parts = Path(path).parts
    if parts[:1] != ("runs",) or parts[-1:] != ("model",) or len(parts) < 3:
        return None
    name = Path(*parts[1:-1]).with_suffix(".json")
    return str(name) if (CONFIGS / name).is_file() else None


def _read_with_bases(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise ConfigError(f"{path}: base leads back to itself")
    try:
        values = decode(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not JSON, line {error.lineno}: {error.msg}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a config is a JSON object, found {type(values).__name__}")
    base = values.pop("base", None)
    values.pop("$schema", None)
    if base is None:
        return values
    base_path = next((p.resolve() for p in (path.parent / str(base), CONFIGS / str(base)) if _is_file(p)), None)
    if base_path is None:
        raise ConfigError(f"{path}: its base {base} exists neither beside it nor under {CONFIGS}")
    return merged(_read_with_bases(base_path, (*seen, path)), values)


def _is_file(path: Path) -> bool:
    """False also for what cannot be a path."""
    try:
        return path.is_file()
    except OSError:
        return False
