"""The report of a run: one HTML page that needs nothing else, not even a network.

Reads what the run has recorded (`config.json`, `metrics.jsonl`, `result.json`, `model/`), also while it is under way,
and writes `report.html` beside it. Plain HTML with pictures inside, because such a page can be mailed and still opens
in ten years; a dashboard that is served needs TensorBoard, which reads the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ofa import report_figures as figures
from ofa import report_structure
from ofa.data.tasks import TASKS
from ofa.export.words import pruning_method, pruning_target
from ofa.files import write_text
from ofa.page import definitions, document, folded, none, note, picture, rows_table, section
from ofa.report_data import ReportData, read_report_data
from ofa.report_structure import is_of_structure
from ofa.run_files import read_json
from ofa.run_folder import RunFolder
from ofa.tables import Columns, result_cells, result_columns, result_table

REPORT_FILE = "report.html"

NOT_TERMS = {
    "step", "lr", "time", "grad_norm", "tokens_per_second", "mfu", "dropped", "revived", "skipped", "train_accuracy",
    "target_sparsity", "sparsity", "encoder_sparsity", "scope_sparsity", "model_sparsity",
}  # fmt: skip
"""Keys of a training line that are not loss terms."""

NOT_SCORES = NOT_TERMS | {"validation_loss"}
"""Keys of a validation line that are no metrics, beside what is said of the structure."""

def build_report(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write the page of a run folder or model folder and return its path.

    Args:
        folder: a run, finished or not, or an exported model.
        output: where to; the default is `report.html` in the run folder (in the model folder if it stands alone).

    Raises:
        ValueError: the folder is neither, or one of its records is damaged.
    """
    data = read_report_data(folder)
    path = Path(output) if output else data.folder / REPORT_FILE
    write_text(path, page(data))
    return path


def show_result(folder: RunFolder) -> None:
    """Print a finished run's table; its report is made if it is not there yet."""
    if not folder.report.is_file():
        build_report(folder.path)
    print(result_table(read_json(folder.result)))


def page(data: ReportData) -> str:
    """The whole document."""
    sections = [
        ("result", "Result", result_section(data)),
        *([("structure", "Structure", structure_section(data))] if is_structural(data.config) else []),
        ("curves", curves_title(data.config), curves_section(data)),
        ("terms", "Loss terms", terms_section(data)),
        ("sparsity", "Sparsity of each tensor", sparsity_section(data)),
        ("churn", "Mask changes", churn_section(data)),
        ("weights", "Weights", weights_section(data)),
        ("throughput", "Throughput", throughput_section(data)),
        ("config", "Config", config_section(data)),
    ]
    body = [header(data), *(section(*one) for one in sections)]
    return document(data.name, body)


def header(data: ReportData) -> str:
    """Name, what it is, how far it came, and with what on what."""
    state, is_open = progress(data)
    badge = f'<span class="state{" open" if is_open else ""}">{escape(state)}</span>'
    return (
        f'<header id="header"><h1>{escape(data.name)}</h1>\n'
        f'<p class="lead">{escape(what_it_is(data.config))} {badge}</p>\n'
        f"{definitions(facts(data))}</header>"
    )


def facts(data: ReportData) -> list[tuple[str, str]]:
    """What stands at the top of the page, as far as it is known."""
    record, recipe = data.record, data.recipe or {}
    versions = record.get("versions") or recipe.get("versions") or {}
    hardware = record.get("hardware") or {}
    known = [
        ("command", record.get("command")),
        ("commit", record.get("commit")),
        ("hardware", ", ".join(f"{key} {value}" for key, value in hardware.items())),
        ("processes", record.get("world_size")),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("data", record.get("data_fingerprint") or (recipe.get("data") or {}).get("fingerprint")),
        ("config", record.get("config_fingerprint") or recipe.get("config_fingerprint")),
    ]
    return [(label, str(value)) for label, value in known if value]


def what_it_is(config: dict[str, Any]) -> str:
    """One sentence on the kind of run, from its config."""
    if not config:
        return "A model folder without its run."
    pruning = config.get("pruning")
    if is_task(config):
        return task_words(config)
    if is_structural(config):
        return report_structure.in_words(config, "masked words")
    architecture, steps = config["model"]["architecture"].get("model_type", "model"), config["schedule"]["total_steps"]
    teacher = " with a dense teacher" if config.get("teacher") else ""
    if not pruning:
        return f"Dense pre-training of {architecture}{teacher}, {steps:,} steps."
    return f"{pruning_method(config)} of {architecture}{teacher}: {pruning_target(pruning)}. {steps:,} steps."


def is_task(config: dict[str, Any]) -> bool:
    """Whether the run fine-tunes."""
    return "task" in config


def is_structural(config: dict[str, Any]) -> bool:
    """Whether the run prunes whole units."""
    return "structure" in config


def task_words(config: dict[str, Any]) -> str:
    """One sentence on a fine-tuning run."""
    if is_structural(config):
        return report_structure.in_words(config, config["task"]["name"])
    zeros = "every zero of the base kept" if config["lock"] else "all weights trained"
    if config.get("pruning"):
        zeros = f"{pruning_method(config)} on the way: {pruning_target(config['pruning'])}"
    teacher = f", with the task teacher {config['teacher']['init']}" if config.get("teacher") else ""
    return f"Fine-tuning of {config['model']['init']} on {config['task']['name']}{teacher}; {zeros}."


def scores_in(line: dict[str, Any]) -> list[str]:
    """Names of a task's metrics in a validation line."""
    known = (key for key in line if key not in NOT_SCORES and "sparsity" not in key)
    return [key for key in known if not is_of_structure(key)]


def progress(data: ReportData) -> tuple[str, bool]:
    """How far the run is, and whether it is still open."""
    if not data.record:
        return "exported model", False
    total = data.record.get("total_steps") or data.config["schedule"]["total_steps"]
    if data.result is not None:
        return f"finished: {total:,} steps", False
    if not data.train_lines:
        return f"unfinished: no step of {total:,} recorded yet", True
    return f"unfinished: step {data.train_lines[-1]['step']:,} of {total:,}", True


def result_section(data: ReportData) -> str:
    """The final table; for an unfinished run the newest validation."""
    if data.result is None:
        if not data.validation_lines:
            return none("The final table is made when the run ends; there is no validation yet.")
        last = data.validation_lines[-1]
        newest = {**last, "name": f"this run at step {last['step']:,}"}
        columns = result_columns({"rows": [newest], **({"metrics": scores_in(last)} if is_task(data.config) else {})})
        return none("The run has not ended; its newest validation:") + html_table(
            [result_cells(newest, columns)], columns
        )
    columns = result_columns(data.result)
    text = html_table([result_cells(row, columns) for row in data.result["rows"]], columns)
    rate = data.result.get("tokens_per_second")
    if is_task(data.config) and "best_step" in data.result:
        text = note(exported_words(data.result, data.config)) + text
    more = [("tokens per second", f"{rate:,.0f}" if rate else ""), ("model", data.result.get("model", ""))]
    return text + definitions([(label, str(value)) for label, value in more if value])


def exported_words(result: dict[str, Any], config: dict[str, Any]) -> str:
    """Which step of a fine-tuning run was exported, and why."""
    best, step, total = result["metric"].replace("_", " "), result["best_step"], result["steps"]
    among = " among those scored after pruning ended" if config.get("pruning") or is_structural(config) else ""
    return f"Exported: step {step:,} of {total:,}, the first with the best {best} on the validation split{among}."


def curves_title(config: dict[str, Any]) -> str:
    """What the curves show."""
    if is_task(config):
        sparse = makes_or_keeps_zeros(config)
        return "Score, loss, learning rate and sparsity" if sparse else "Score, loss and learning rate"
    return "Loss, learning rate and sparsity"


def makes_or_keeps_zeros(config: dict[str, Any]) -> bool:
    """Whether single weights of a fine-tuned model are zero."""
    return bool(config.get("pruning") or config["lock"])


def curves_section(data: ReportData) -> str:
    """The panels, from training and validation lines."""
    if not data.lines:
        return none("No metrics line has been written.")
    if is_task(data.config):
        task, config = TASKS[data.config["task"]["name"]], data.config
        metrics = [task.best, *(name for name in task.metrics if name != task.best)]
        pruned, sparse = bool(config.get("pruning")), makes_or_keeps_zeros(config)
        exported = (data.result or {}).get("best_step")
        uri = figures.task_curves(data.lines, metrics, marks(data), exported=exported, pruned=pruned, sparse=sparse)
        return picture(uri, f"validation {curves_title(config).lower()} by step")
    return picture(figures.curves(data.lines, marks(data)), "loss, learning rate and sparsity by step")


def marks(data: ReportData) -> figures.Marks:
    """Where a structural run has changed."""
    return report_structure.stage_marks(data.config, data.result)


def terms_section(data: ReportData) -> str:
    """Every loss term that the training lines hold."""
    found = {key for line in data.train_lines for key in line} - NOT_TERMS
    names = sorted(key for key in found if not is_of_structure(key))
    if not names:
        return none("No loss terms have been recorded.")
    return picture(figures.loss_terms(data.train_lines, names, marks(data)), "loss terms by step")


def sparsity_section(data: ReportData) -> str:
    """Counted in the exported weights."""
    if not data.counts:
        return none(f"Nothing to count: {data.note}.")
    zeros, size = sum(c.zeros for c in data.counts.values()), sum(c.numel for c in data.counts.values())
    text = f"{zeros:,} of {size:,} weights in {len(data.counts)} tensors are zero, counted in the exported file."
    lock = (data.recipe or {}).get("lock")
    if lock:
        locked = sum(data.counts[name].zeros for name in lock["patterns"] if name in data.counts)
        drawn = [name for name in data.counts if name not in lock["patterns"]]
        text += f" {locked:,} are those of the base, in {len(lock['patterns'])} tensors, kept where they stood."
        text += f" Not in the base, so trained without zeros: {', '.join(drawn)}." if drawn else ""
    return note(text) + picture(figures.tensor_sparsity(data.counts), "sparsity of each tensor")


def structure_section(data: ReportData) -> str:
    """What is left of each layer, and how the search went."""
    if not data.validation_lines:
        return none("No structure has been looked at yet.")
    uri = report_structure.search(data.lines, marks(data))
    picture_of_search = picture(uri, "structural sparsity and multipliers by step")
    if data.structure is None:
        return none("The structure is not final yet.") + picture_of_search
    text = "Units of the dense model that are left; a hard structure is what would be cut out at that step's target."
    if data.result is not None:
        text += report_structure.stages_in_words(data.result["stages"])
    uri = report_structure.units(data.structure)
    return note(text) + picture(uri, "heads and intermediate dimensions of each layer") + picture_of_search


def churn_section(data: ReportData) -> str:
    """What each mask refresh changed."""
    if data.config.get("lock"):
        return none("The zeros are those of the base and were kept: masks do not change.")
    if is_structural(data.config):
        return none("This run prunes units, not single weights: see Structure.")
    if not data.config.get("pruning"):
        return none("This run does not prune.")
    if not any(line.get("dropped") or line.get("revived") for line in data.train_lines):
        return none("No mask has changed in the recorded steps.")
    text = "Weights that each refresh of the masks dropped, and revived from the dense copy, over the whole scope."
    return note(text) + picture(figures.churn(data.train_lines), "dropped and revived weights by step")


def weights_section(data: ReportData) -> str:
    """Histograms of a few tensors."""
    if not data.shown:
        return none(f"Nothing to show: {data.note}.")
    text = "Weights that are not zero; dashed: the smallest magnitude that lives."
    return note(text) + picture(figures.weight_histograms(data.shown), "histograms of weights")


def throughput_section(data: ReportData) -> str:
    """Tokens per second."""
    if not any("tokens_per_second" in line for line in data.train_lines):
        return none("No rate has been recorded.")
    shares = [line["mfu"] for line in data.train_lines if isinstance(line.get("mfu"), (int, float))]
    middle = sorted(shares)[len(shares) // 2] if shares else None
    text = "" if middle is None else note(f"Median share of the measured peak (MFU): {middle:.1%}.")
    return text + picture(figures.throughput(data.train_lines, marks(data)), "tokens per second by step")


def config_section(data: ReportData) -> str:
    """The resolved config and, where there is one, the exported model's recipe; both folded."""
    parts = [folded("Resolved config", data.config) if data.config else none("There is no config.")]
    if data.recipe:
        parts.append(folded("recipe.json of the exported model", data.recipe))
    return "\n".join(parts)


def html_table(rows: Iterable[Sequence[str]], columns: Columns) -> str:
    """The result's columns as a table."""
    return rows_table(["", *(title for title, _, _ in columns)], rows)
