"""A real Slurm of two nodes on this machine: its daemons started in a folder of their own, and all ended with it.

Without systemd, accounting and hosts of its own; both nodes are this machine, which any node's lost daemons are not.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests import processes

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "sinfo", "scancel")
NODES = ("n1", "n2")
LIVE = ("PENDING", "RUNNING", "SIGNALING", "COMPLETING", "CONFIGURING", "SUSPENDED")
PATIENCE = 60.0
"""Seconds in which daemons come up, on a machine that has other work too."""

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobRequeue=1
MaxArraySize=16
KillWait=30
InactiveLimit=0
SlurmdTimeout=10
SlurmctldTimeout=30
MessageTimeout=20
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
GresTypes=gpu
NodeName=DEFAULT CPUs={cpus} Gres=gpu:2 State=UNKNOWN
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} RealMemory=3000
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=graceless Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=n1,n2 MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
"""
"""A node that is lost is noticed in seconds, and a job that was queued again may start at once. GPUs are files: what
Slurm makes of them does not depend on what they are."""


def missing():
    """Why there can be no Slurm here; None if there can."""
    if os.geteuid() != 0:
        return "a Slurm daemon needs root"
    lacks = [name for name in DAEMONS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    return f"the packages slurm-wlm and munge are not installed: no {', '.join(lacks)}" if lacks else None


class Cluster:
    """A running Slurm."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.config = self.folder / "slurm.conf"
        ports = [processes.free_port() for _ in range(3)]
        values = {"host": socket.gethostname(), "folder": self.folder, "cpus": os.cpu_count(), "ports": ports}
        self.config.write_text(CONFIG.format(**values))
        (self.folder / "state").mkdir()
        for number in range(2):
            (self.folder / f"gpu{number}").touch()
        (self.folder / "gres.conf").write_text(f"NodeName=n1,n2 Name=gpu File={self.folder}/gpu[0-1]\n")
        self._daemons = {}

    def start(self):
        """Begin: every node is idle when this returns."""
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        munged = ["munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", f"--key-file={key}"]
        munged += [f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log"]
        self._start("munged", *munged, f"--seed-file={self.folder}/munged.seed")
        self.until("munged", (self.folder / "munge.socket").exists)
        self._start_controller()
        for node in NODES:
            self.start_node(node)
        self.until("the nodes", self._is_idle)

    @contextlib.contextmanager
    def without(self, line):
        """A controller that is started anew with a configuration that lacks this line, and then as it was."""
        whole = self.config.read_text()
        assert line in whole.splitlines()
        try:
            self._restart_controller(whole.replace(f"{line}\n", ""))
            yield
        finally:
            self._restart_controller(whole)

    def start_node(self, node):
        """Start the daemon of a node."""
        self._start(node, "slurmd", "-D", "-N", node)

    def stop(self):
        """End every daemon, and whatever runs below them."""
        with contextlib.suppress(subprocess.SubprocessError):
            self.call("scancel", "--full", "--signal=KILL", "--user=root", check=False)
            self.call("scancel", "--user=root", check=False)
        for name in ("n2", "n1", "slurmctld", "munged"):
            process = self._daemons.pop(name, None)
            if process is not None:
                for pid in self.below(name, process):
                    _kill(pid)
                process.kill()
                process.wait()

    def kill_node(self, node):
        """Take a node away as a power cut does: its daemon and all that runs on it end at once."""
        process = self._daemons.pop(node)
        pids = [process.pid, *self.below(node, process)]
        for pid in pids:  # what is stopped starts nothing new
            _kill(pid, signal.SIGSTOP)
        for pid in [*pids, *self.below(node, process)]:
            _kill(pid)
        process.wait()

    def below(self, name, process):
        """What descends from a daemon, the steps that it has let go of included."""
        marks = (f"SLURMD_NODENAME={name}\0".encode(), f"SLURM_CONF={self.config}\0".encode())
        found = [pid for pid in _processes() if all(mark in _read(pid, "environ") for mark in marks)]
        steps = [pid for pid in _processes() if b"slurmstepd" in _read(pid, "comm")]
        log = f"{self.folder}/slurmd-{name}.log"
        found += [pid for pid in steps if log in _open_files(pid)]
        return sorted(set(found) - {process.pid, os.getpid()})

    def states(self):
        """State of each node."""
        lines = self.call("sinfo", "-N", "-h", "-p", "debug", "-o", "%N %T").stdout.split("\n")
        return {line.split()[0]: line.split()[1].upper() for line in lines if line}

    def environment(self, **extra):
        """Of a user's shell on this cluster."""
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        return processes.environment(PATH=path, SLURM_CONF=str(self.config), **extra)

    def call(self, *command, cwd=None, check=True):
        """Run a command of a user to its end."""
        done = subprocess.run(
            list(map(str, command)),
            env=self.environment(),
            cwd=cwd or self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE * 15,
            check=False,
        )
        return processes.checked(done, check)

    def job(self, number):
        """What Slurm says of a job, by its words: JobState, Reason, Restarts, NodeList."""
        text = self.call("scontrol", "show", "job", "-o", number).stdout
        return dict(part.split("=", 1) for part in text.split() if "=" in part)

    def wait(self, number, *states, patience=600.0):
        """Until a job is in one of the states; what Slurm says of it then."""
        until = time.monotonic() + patience
        while (job := self.job(number))["JobState"] not in states:
            assert job["JobState"] in LIVE and time.monotonic() < until, (job, self.said())
            time.sleep(0.3)
        return job

    def nodes(self, job):
        """Names of those that a job has."""
        return self.call("scontrol", "show", "hostnames", self.job(job)["NodeList"]).stdout.split()

    def ranks(self, job):
        """Processes that train for a job, or for a task of an array."""
        job = self.job(job)["JobId"]  # a number of its own, where it is a task
        return [pid for pid in self._of(job, b"\0RANK=") if b"launch/pretrain.py" in _read(pid, "cmdline")]

    def tasks(self, job):
        """Processes in which submitit begins the tasks of a job."""
        begins = sys.executable.encode() + b"\0-u\0-m\0submitit.core._submit\0"
        return [pid for pid in self._of(job, b"\0SLURM_PROCID=") if _read(pid, "cmdline").startswith(begins)]

    def seconds(self, job):
        """For how long it has run."""
        days, _, clock = self.job(job)["RunTime"].rpartition("-")
        hours, minutes, seconds = map(int, clock.split(":"))
        return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds

    def queue(self):
        """Numbers of all jobs that wait or run."""
        return self.call("squeue", "-h", "-o", "%i").stdout.split()

    def said(self):
        """The last words of its logs."""
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(self.folder.glob("*.log")))

    def _start_controller(self):
        self._start("slurmctld", "slurmctld", "-D")
        self.until("slurmctld", lambda: self.call("scontrol", "ping", check=False).returncode == 0)

    def _restart_controller(self, config):
        controller = self._daemons.pop("slurmctld")
        controller.terminate()
        controller.wait()
        self.config.write_text(config)
        self._start_controller()
        self.until("the nodes", self._is_idle)

    def _is_idle(self):
        return self.states() == dict.fromkeys(NODES, "IDLE")

    def _of(self, job, mark):
        """Processes of a job with this in their environment."""
        marks = (f"SLURM_JOB_ID={job}\0".encode(), b"\0SLURM_CONF=" + str(self.config).encode() + b"\0", mark)
        return [pid for pid in _processes() if all(one in _read(pid, "environ") for one in marks)]

    def _start(self, name, *command):
        with (self.folder / f"{name}.out").open("ab") as out:
            own = {"env": self.environment(), "cwd": self.folder, "stdout": out, "stderr": out, "process_group": 0}
            self._daemons[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, **own)

    def until(self, what, reached):
        """Wait for something that the daemons do."""
        last = time.monotonic() + PATIENCE
        while not reached():
            outs = "\n".join(path.read_text()[-1500:] for path in self.folder.glob("*.out"))
            alive = all(process.poll() is None for process in self._daemons.values())
            assert alive and time.monotonic() < last, f"{what} did not come up: {outs}\n{self.said()}"
            time.sleep(0.2)


def _processes():
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _read(pid, what):
    """A file of the kernel on a process; empty if that has ended."""
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""


def _open_files(pid):
    found = set()
    with contextlib.suppress(OSError):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(file))
    return found


def _kill(pid, number=signal.SIGKILL):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
