"""Submit a script to Slurm: it survives preemption, time limits and lost nodes until it is done.

    python launch/submit.py --nodes 4 --gpus-per-node 8 --partition gpu --time 12h \\
        launch/pretrain.py --config ofa_90.json --set batch.micro_size=8
    python launch/submit.py --nodes 1-2 ... launch/pretrain.py ...       goes on with what is left of lost nodes; each
                                                     number must divide the batch: of 1-4 perhaps 1,2,4
    python launch/submit.py ... launch/pretrain.py --config teacher.json \\
        --then launch/pretrain.py --config ofa_90.json \\
        --then --nodes 1 launch/sweep.py --config downstream/sweep.json  each after the success of the one before
    python launch/submit.py --each seed=1,2,3 ... launch/finetune.py --config downstream/mrpc.json          an array
    python launch/submit.py --dry-run ...                                the batch scripts; nothing is queued
    python launch/submit.py --cluster local --tasks-per-node 2 ...       without Slurm, on this machine

Options come before the script, its own arguments behind it. After --then, options that are not given again hold on.
Scripts that do not train (data_prep, sweep, report, ...) get one process on one node. The code is that of the commit.
Stopped before its limit, a run saves, is queued again and continues; `touch RUN/stop` ends it without that.
"""

import argparse
import shlex
import sys
from pathlib import Path

import common

from ofa import config
from ofa.cluster.command import SCRIPTS, expanded, read_call
from ofa.cluster.errors import StepFailed, StillAtWork
from ofa.cluster.resources import Resources, check_options, minutes
from ofa.sections.nodes import node_list, node_range
from ofa.slurm.errors import SubmitError

OF_ONE_LINK = ("each", "name", "script", "arguments", "setup", "sbatch")
"""What a link of the chain does not take over from the one before it."""

REPEATED = ("setup", "sbatch")
"""Of these, all together: who gives one gives all."""

AT_A_TIME = 100
"""Jobs of an array in Slurm, if no number is given."""

OF_THE_CHAIN = ("cluster", "jobs", "uncommitted", "dry_run", "follow")


def arguments() -> list[argparse.Namespace]:
    """The command line: one namespace for each link of the chain."""
    parser = _parser()
    links: list[argparse.Namespace] = []
    parts = [[]]
    for word in sys.argv[1:]:
        if word == "--then":
            parts.append([])
        else:
            parts[-1].append(word)
    for part in parts:
        before = vars(links[-1]) if links else {}
        start = {key: value for key, value in before.items() if key not in OF_ONE_LINK}
        link = parser.parse_args(part, namespace=argparse.Namespace(**start))
        vars(link).update({key: before.get(key, []) for key in REPEATED if getattr(link, key) is None})
        links.append(link)
    for option in OF_THE_CHAIN:
        if any(vars(link)[option] != vars(links[0])[option] for link in links):
            parser.error(f"--{option.replace('_', '-')} holds for the whole chain: give it before the first script")
    if links[0].cluster == "slurm" and any(link.time is None for link in links):
        parser.error("--time says how long one attempt may take, such as 12h: it saves before that and is queued again")
    return links


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [options] SCRIPT [its arguments] [--then [options] SCRIPT [its arguments]] ...",
    )
    asked = parser.add_argument_group("what is asked of Slurm")
    asked.add_argument("--nodes", default="1", metavar="N|N-M|N,M", help="or as many as there are (default: 1)")
    asked.add_argument("--gpus-per-node", type=common.count, metavar="N", help="each with a process")
    asked.add_argument("--tasks-per-node", type=common.positive, metavar="N", help="processes, where there are no GPUs")
    asked.add_argument("--cpus-per-task", type=common.positive, metavar="N")
    asked.add_argument("--mem", type=float, metavar="GB", help="of a node; 0: all")
    asked.add_argument("--time", type=_limit, metavar="TIME", help="of one attempt: 90m, 12h, 1d12h, HH:MM:SS")
    asked.add_argument("--grace", type=common.duration, default=120.0, metavar="TIME", help="to save in (default: 2m)")
    for name in ("partition", "account", "qos", "constraint", "exclude"):
        asked.add_argument(f"--{name}", metavar=name.upper())
    asked.add_argument("--setup", action="append", metavar="COMMAND", help="of the shell, before it starts; for Slurm")
    asked.add_argument("--sbatch", action="append", metavar="KEY=VALUE", help="any other option of sbatch")
    jobs = parser.add_argument_group("jobs")
    jobs.add_argument("--each", action="append", default=[], metavar="KEY=A,B", help="an array over a key, or config")
    jobs.add_argument("--at-a-time", type=common.positive, metavar="N", help="jobs of an array (100; local: what fits)")
    jobs.add_argument("--max-requeues", type=common.count, default=100, metavar="N", help="in all (default: 100)")
    jobs.add_argument("--max-crashes", type=common.count, default=2, metavar="N", help="in a row, no step saved (2)")
    jobs.add_argument("--max-kills", type=common.count, default=20, metavar="N", help="the same, of Slurm's kills (20)")
    jobs.add_argument("--jobs", type=Path, default=Path("runs", ".jobs"), metavar="DIR", help="for logs; shared")
    jobs.add_argument("--cluster", choices=("slurm", "local", "debug"), default="slurm")
    jobs.add_argument("--uncommitted", action="store_true", help="run the checkout's files as they are now")
    jobs.add_argument("--dry-run", action="store_true", help="check all, print the batch scripts, queue nothing")
    jobs.add_argument("--follow", action="store_true", help="print the log until the end; Ctrl-C leaves the job alone")
    parser.add_argument("script", metavar="SCRIPT", help=f"launch/pretrain.py or another: {', '.join(SCRIPTS)}")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _limit(text: str) -> float:
    """Seconds of `common.duration`, with a unit: a bare number is minutes to sbatch."""
    if text.isdigit():
        raise argparse.ArgumentTypeError(f"{text} of what? say {text}m for minutes, {text}h or {text}s")
    return common.duration(text)


def _link(options: argparse.Namespace) -> "Link":
    """One link of the chain."""
    call = read_call([options.script, *options.arguments], options.each)
    calls = tuple(expanded(call, options.each)) if options.each else (call,)
    if options.gpus_per_node and options.tasks_per_node:
        raise SubmitError("--tasks-per-node is for nodes without GPUs: each GPU has one process")
    check_options(options.sbatch)
    try:
        nodes = node_range(options.nodes)
    except ValueError as error:
        raise SubmitError(f"--nodes {error}") from None
    resources = Resources(
        nodes=nodes if call.trains else (1, 1),
        only=node_list(options.nodes) if call.trains else (),
        gpus_per_node=options.gpus_per_node or 0,
        tasks_per_node=options.tasks_per_node if call.trains else 1,
        cpus_per_task=options.cpus_per_task,
        mem_gb=options.mem,
        minutes=minutes(options.time or 365 * 86400),
        grace=int(options.grace),
        **{name: getattr(options, name) for name in ("partition", "account", "qos", "constraint", "exclude")},
        setup=tuple(options.setup),
        other=tuple(options.sbatch),
    )
    resources.check()
    limits = Limits(options.max_requeues, options.max_crashes, options.max_kills)
    usual = AT_A_TIME if options.cluster == "slurm" else fitting(resources)
    return Link(calls, resources, limits, options.at_a_time or usual)


def main() -> int:
    """Check, then print or submit."""
    first, folder = LINKS[0], LINKS[0].jobs.absolute()
    slurm = first.cluster == "slurm"
    chain = [_link(options) for options in LINKS]
    if not slurm:
        check_here(chain, first.cluster)
    check_chain(chain, slurm=slurm)
    if not slurm:
        return _here(chain, folder, first)
    code = snapshot(config.CHECKOUT, folder / "code", uncommitted=first.uncommitted)
    if code.commit is None:
        print(
            f"note: no commit is known of {code.path}: jobs run its files as they are when they start", file=sys.stderr
        )
    ask_slurm(chain, folder, code)
    if first.dry_run:
        for link, script in zip(chain, scripts(chain, folder, code), strict=True):
            _show_script(link, script, code.path)
        return common.DONE
    submitted = submit(chain, folder, code)
    _show(submitted, chain)
    return _follow(submitted) if first.follow else common.DONE


def _here(chain: "list[Link]", folder: Path, options: argparse.Namespace) -> int:
    unused = meaningless_here(chain)
    if unused:
        print(f"note: without Slurm these change nothing: {', '.join(unused)}", file=sys.stderr)
    if options.dry_run:
        for link in chain:
            for call in link.calls:
                print("python", *call.program(config.CHECKOUT))
        return common.DONE
    if options.cluster == "local" and len(chain) > 1:
        print(words.how_a_chain_goes_on(chain), flush=True)
    try:
        last = run_here(chain, options.cluster, folder, watch=options.follow, begun=_say_begun)
    except StepFailed as failed:
        if not failed.was_said or failed.step + 1 < len(chain):
            print(f"error: {words.after_failure(failed, chain, _command_from)}", file=sys.stderr)
        return failed.status
    except StillAtWork as left:
        print(f"\n{words.after_ctrl_c(left, chain, _command_from)}", file=sys.stderr)
        return common.DONE if left.jobs and not words.not_begun(left, chain) else common.INTERRUPTED
    if options.cluster == "local" and not options.follow:
        print(f"{words.how_to_watch(chain)}; {words.how_to_stop(last)}")
    return common.DONE


def _say_begun(one: "Submitted") -> None:
    if LINKS[0].cluster == "local":  # a job in here says all itself
        print(f"{one.call.name}: process {one.job}, log {one.log}", flush=True)


def _command_from(step: int) -> str:
    """The command line of the chain from one of its links on."""
    parser = _parser()
    typed, before = ["python", sys.argv[0]], {}
    for link in LINKS[step:]:
        for key, value in vars(link).items():
            usual = parser.get_default(key) if key in OF_ONE_LINK else before.get(key, parser.get_default(key))
            if key not in ("script", "arguments") and value != usual:
                typed += _option(key, value)
        typed += [link.script, *link.arguments, "--then"]
        before = vars(link)
    return shlex.join(typed[:-1])


def _option(key: str, value: object) -> list[str]:
    flag = f"--{key.replace('_', '-')}"
    if isinstance(value, list):
        return [word for one in value for word in (flag, str(one))]
    if value is True:
        return [flag]
    unit = "s" if key == "time" else ""
    return [flag, f"{value:.12g}{unit}" if isinstance(value, float) else str(value)]


def _show_script(link: "Link", script: str, code: Path) -> None:
    print(f"# {link.resources.in_words()}:")
    for call in link.calls:
        print("#   python", *call.program(code))
    print(script)


def _show(submitted: "list[Submitted]", chain: "list[Link]") -> None:
    what = {call: link for link in chain for call in link.calls}
    for one in submitted:
        place = "" if one.call.run_dir is None else f" -> {one.call.run_dir}"
        print(f"job {one.job}: {one.call.name}{place}, {what[one.call].resources.in_words()}; log {one.log}")
    jobs = list(dict.fromkeys(one.job.split("_")[0] for one in submitted))
    print(f"{words.how_to_watch(chain)}; cancel: scancel {' '.join(jobs)}")


def _follow(submitted: "list[Submitted]") -> int:
    """One job after the other."""
    try:
        ended = [one.ended_well(follow(one.job, one.log)) for one in submitted]
    except KeyboardInterrupt:
        print("no longer following; the jobs go on", file=sys.stderr)
        return common.DONE
    return common.DONE if all(ended) else common.ERROR


if __name__ == "__main__":
    LINKS = arguments()
    from ofa.cluster import words
    from ofa.cluster.follow import follow  # after the arguments: submitit takes a while to import
    from ofa.cluster.here import check_here, meaningless_here, run_here
    from ofa.cluster.shares import fitting
    from ofa.cluster.submit import Link, Submitted, ask_slurm, check_chain, scripts, submit
    from ofa.cluster.verdict import Limits
    from ofa.slurm.snapshot import snapshot

    common.main_wrapper(main)
