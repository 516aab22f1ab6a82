"""`python -m data_prep --config CONFIG [--set key=value] [--output DIR]`: text to shards.

Exit status: 0 done, 1 error, 2 usage, 75 stopped by Ctrl-C, SIGTERM, the end of its session or Slurm's SIGUSR2
(run it again to continue).
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data_prep.array import ClusterOptions
from data_prep.changes import changes_since_plan, compare_source
from data_prep.check import found
from data_prep.counts import counted, kept, losses_in_words, read_in_words
from data_prep.documents import DataPrepError
from data_prep.pipeline import finished, prepare, remove_rest
from data_prep.progress import visible_progress
from data_prep.work import REMEDY
from data_prep.workers import STOPS
from ofa.config import ConfigError, DataPrepConfig, find, load
from ofa.data.shards import SPLITS, ShardError
from ofa.files import DiskFull, is_disk_full
from ofa.slurm.errors import SubmitError


def main(arguments: list[str] | None = None) -> int:
    """Run the preparation; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    useless = [f"--{name}" for name in _of_a_cluster(options)]
    if useless:
        parser.error(f"{', '.join(useless)}: for jobs of a cluster; add --cluster slurm, or leave it out")
    if options.made and not options.check:
        parser.error("--made is for --check")
    try:
        config = load(DataPrepConfig, options.config, options.set)
        output = options.output or Path("data") / find(options.config).stem
        if options.check:
            print(found(config, output, options.made))
            return 0
        manifest = finished(config, output)
        if manifest is not None:
            compared = compare_source(config, manifest, output)
            print(f"{output}: already prepared" + (f"; {compared.result}" if compared.result else ""))
            if compared.note is not None:
                print(f"note: {compared.note}", file=sys.stderr)
            _remove_rest(output)
            _print_summary(manifest, output)
            return 0
        changes = changes_since_plan(config, output / ".work")
        if changes is not None:
            print(f"note: the source has changed since {output} was begun: {changes}; it starts anew", file=sys.stderr)
        started = time.monotonic()
        with visible_progress() as progress:
            manifest = prepare(config, output, options.workers, progress, _cluster(options))
        _print_summary(manifest, output)
        kind = "worker" if options.cluster is None else "job"
        also = "" if options.cluster is None else f" at a time ({options.cluster})"
        print(f"prepared in {time.monotonic() - started:.0f} s with {counted(options.workers, kind)}{also}")
        return 0
    except (ConfigError, DataPrepError, DiskFull, ShardError, SubmitError) as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error}{_advice(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped; run the same command to continue, finished parts are kept", file=sys.stderr)
        return 75
    return 1


def _advice(error: OSError) -> str:
    if is_disk_full(error):
        return f"; {REMEDY}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "; get the rights to read and write there, or choose another place; finished parts are kept"
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_prep", description="Text to packed shards of token ids.")
    parser.add_argument("--config", required=True, help="a path, or a name under configs/ such as tiny/docstrings.json")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of the config"
    )
    parser.add_argument("--workers", type=_positive, default=cores(), help="processes (default: one a core given)")
    jobs = parser.add_argument_group("a cluster, whose nodes share the disk of --output")
    jobs.add_argument("--cluster", choices=("slurm", "local", "ray"), help="work in jobs, --workers at a time")
    jobs.add_argument("--time", type=_positive, metavar="MINUTES", help="of one job (default: 240)")
    jobs.add_argument("--mem", type=float, metavar="GB", help="of one job (default: 4)")
    jobs.add_argument("--partition")
    jobs.add_argument("--sbatch", action="append", default=[], metavar="KEY=VALUE", help="any other option of sbatch")
    jobs.add_argument("--uncommitted", action="store_true", help="slurm: run the checkout's files as they are now")
    parser.add_argument("--output", type=Path, help="default: data/<name of the config>")
    parser.add_argument("--check", action="store_true", help="say what there is, or what is wrong, and stop")
    help_ = "with --check: a folder that others will have made by then; may be repeated"
    parser.add_argument("--made", action="append", default=[], metavar="DIR", help=help_)
    return parser


def _of_a_cluster(options: argparse.Namespace) -> list[str]:
    """Options that were given and change nothing: without Slurm all of its own, but for the limit of local jobs."""
    if options.cluster == "slurm":
        return []
    asked = ("time", "mem", "partition", "sbatch", "uncommitted")
    names = [name for name in asked if getattr(options, name) not in (None, [], False)]
    return [name for name in names if name != "time" or options.cluster != "local"]


def cores() -> int:
    """Those that this process may use: of a job those that it was given, also where Slurm does not bind it to them."""
    bound, given = len(os.sched_getaffinity(0)), os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(bound, int(given)) if given.isdigit() and int(given) else bound


def _cluster(options: argparse.Namespace) -> ClusterOptions | None:
    if options.cluster is None:
        return None
    given = {"minutes": options.time, "memory_gb": options.mem, "partition": options.partition}
    given = {name: value for name, value in given.items() if value is not None}
    return ClusterOptions(options.cluster, **given, other=tuple(options.sbatch), uncommitted=options.uncommitted)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, found {text}")
    return int(text)


def _remove_rest(output: Path) -> None:
    try:
        remove_rest(output)
    except (DataPrepError, SubmitError, OSError) as error:  # the data are whole all the same
        print(f"note: {output / '.work'}, left by a run that was killed, stays: {error}", file=sys.stderr)


def _stop(*_: object) -> None:
    """What a signal does; a second one must not break into what the first has begun."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _print_summary(manifest: dict[str, Any], output: Path) -> None:
    statistics = manifest["statistics"]
    table = Table()
    table.add_column(manifest["mode"])
    for split in SPLITS:
        table.add_column(split, justify="right")
    for what in ("documents", "segments", "rows", "tokens"):
        table.add_row(what, *(f"{statistics.get(f'{split}_{what}', 0):,}" for split in SPLITS))
    console = Console()
    console.print(table)
    console.print(f"rows of {manifest['sequence_length']} tokens, vocabulary of {manifest['vocab_size']:,}")
    read = read_in_words([own["counts"] for own in manifest.get("sources", {}).values()] or [statistics])
    console.print(", ".join([f"{read}, {kept(statistics):,} kept", *losses_in_words(statistics)]), soft_wrap=True)
    console.print(f"rows are {statistics['fill']:.2%} full; {output}/card.html", soft_wrap=True)


if __name__ == "__main__":
    for one in STOPS:
        if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN:  # nohup
            signal.signal(one, _stop)
    sys.exit(main())
