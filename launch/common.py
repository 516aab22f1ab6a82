"""What every entry script shares: the checkout on the import path, common arguments, exit statuses, error lines.

Scripts are run as files (`python launch/verify.py`, also by DeepSpeed's and torch's launchers) from any working
directory. Each parses its arguments first and imports torch and transformers after that, in its `__main__` block, so
that `--help` and a mistyped option answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn

CHECKOUT = Path(__file__).resolve().parents[1]
if str(CHECKOUT) not in sys.path:
    sys.path.insert(0, str(CHECKOUT))

signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `main_wrapper`: Ctrl-C in an import needs no traceback

DONE = 0
ERROR = 1
USAGE = 2
INTERRUPTED = 130
STOPPED_AND_SAVED = 75
"""A signal ended the run after it saved: start the same command again (sysexits' EX_TEMPFAIL)."""

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
"""Where a rank has died, torch would print a C++ stack trace at every exchange with it, before our line names it."""


def launcher_arguments() -> argparse.ArgumentParser:
    """Parent parser: what launchers add to a command line and we do not need."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--local_rank", "--local-rank", type=int, default=None, help=argparse.SUPPRESS)
    return parser


def run_arguments() -> argparse.ArgumentParser:
    """Parent parser of scripts that train: which config, where to, and whether to continue."""
    parser = argparse.ArgumentParser(add_help=False, parents=[launcher_arguments()])
    parser.add_argument("--config", required=True, metavar="FILE", help="a path, or a name under configs/")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        help="override one value; may be repeated",
    )
    parser.add_argument("--run-dir", metavar="DIR", help="run folder (default: runs/ and the config's name)")
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|DIR",
        help="auto continues what the run folder holds (default); DIR continues another run's checkpoint",
    )
    parser.add_argument(
        "--time-limit",
        type=duration,
        metavar="TIME",
        help="save and end with status 75 after this time: seconds, or 90m, 3h30m, or HH:MM:SS",
    )
    parser.add_argument(
        "--check",
        choices=("all", "config"),
        help="say what is wrong and stop; config: without looking for data and models, which may yet be made",
    )
    add_made(parser, "all")
    return parser


def add_made(parser: argparse.ArgumentParser, check: str = "") -> None:
    """Add --made, which goes with --check and its value."""
    parser.add_argument(
        "--made",
        action="append",
        default=[],
        metavar="DIR",
        help=f"with --check{check and ' '}{check}: a folder that others will have made by then; may be repeated",
    )


def check_made(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Refuse --made where nothing is only checked: what is not there cannot be used."""
    if given.made and given.check != "all":
        parser.error("--made is for --check all")


def folder_arguments(expected: str) -> argparse.ArgumentParser:
    """Parent parser of scripts that read a folder; `expected` says which kinds."""
    parser = argparse.ArgumentParser(add_help=False, parents=[launcher_arguments()])
    parser.add_argument("folder", type=Path, metavar="DIR", help=expected)
    return parser


def task_arguments(
    group: argparse._ArgumentGroup,
    *,
    task: str = "default: the one that it was fine-tuned on",
    path: str = "folder of its files (default: as when fine-tuned)",
) -> None:
    """Options that say which rows of which task: `task`, `path` and `overrides` (None: not given).

    Args:
        group: of the script's parser.
        task, path: what stands in the help.
    """
    group.add_argument("--task", metavar="NAME", help=task)
    group.add_argument("--path", metavar="DIR", help=path)
    group.add_argument(
        "--set",
        action="append",
        metavar="task.KEY=VALUE",
        dest="overrides",
        help="another value of the config's task section; may be repeated",
    )


def foreign_option(given: argparse.Namespace, names: Iterable[str]) -> str | None:
    """The first of some options that was given, as it is typed; by the names of their values."""
    typed = {"overrides": "set"}
    return next((f"--{typed.get(name, name)}" for name in names if getattr(given, name) is not None), None)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text}")
    return int(text)


def count(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, found {text}")
    return int(text)


def duration(text: str) -> float:
    """Seconds of `5400`, `90m`, `1h30m`, `1d2h` or `[[D-]HH:]MM:SS`."""
    units = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text)
    clock = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", text)
    found = clock or units
    seconds = sum(int(n or 0) * s for n, s in zip(found.groups(), (86400, 3600, 60, 1), strict=True)) if found else 0
    if not seconds:
        raise argparse.ArgumentTypeError(f"expected a time above 0 such as 5400, 90m, 1h30m or 01:30:00, found {text}")
    return float(seconds)


def only_first_rank() -> None:
    """End every other process of a launcher: what does not train is done once."""
    if os.environ.get("RANK", "0") != "0":
        sys.exit(DONE)


def say_that_nothing_is_wrong(check: str) -> None:
    """What `--check` ends with, by the first rank."""
    if os.environ.get("RANK", "0") == "0":
        left = "data and models were not looked for" if check == "config" else "rows and weights are read by the run"
        print(f"checked: nothing wrong was found; {left}")


def say_that_it_starts() -> None:
    """A line before imports that take seconds, where nothing is wrong so far; by the first rank."""
    if os.environ.get("RANK", "0") == "0":
        print("starting: loading torch and transformers", file=sys.stderr, flush=True)


def look(
    check: Callable[[], None],
    *,
    folders: Iterable[Path | str | None] = (),
    models: Iterable[str | None] = (),
    writes: Iterable[Path | None] = (),
) -> None:
    """Refuse what can be seen to be wrong before imports that take seconds.

    With OFA_CHECK=arguments, instead print as JSON what the command line says of places, and end: who submits the
    command looks for them, but for those that will be made before.

    Args:
        check: looks.
        folders: that are read; None: not given.
        models: the same, or ids of the hub.
        writes: what is made.
    """
    if os.environ.get("OFA_CHECK") == "arguments":
        places = {"folders": folders, "models": models, "writes": writes}
        print(json.dumps({key: [str(one) for one in given if one is not None] for key, given in places.items()}))
        sys.exit(DONE)
    with explained_errors():
        check()


def main_wrapper(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and exit with its status (None: 0); see `explained_errors`."""
    with explained_errors():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = main()
    sys.exit(DONE if status is None else status)


@contextlib.contextmanager
def explained_errors(*, once: bool = False) -> Iterator[None]:
    """Turn an error that a user can fix into one line on stderr and exit status 1.

    With OFA_TRACEBACK=1 the traceback is shown too. Errors that only we can have made keep theirs.

    Args:
        once: all ranks of a launcher find the same, and the first of each machine says it.
    """
    try:
        yield
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(DONE)
    except (ValueError, OSError) as error:
        if os.environ.get("OFA_TRACEBACK") == "1":
            traceback.print_exc()
        if not once or os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"error: {describe(error)}", file=sys.stderr)
        sys.exit(ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def describe(error: Exception) -> str:
    """An error's own words, on one line; its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
