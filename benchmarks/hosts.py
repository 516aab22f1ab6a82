"""Hosts on one machine: network namespaces with a name and an address each, joined by a cable whose rate can be limited
and whose bytes are counted. Needs root and Linux's `ip`, `nsenter` and `unshare`; leaves nothing behind.

Cores, memory and file system are shared, so times on them are those of one machine; what passes between them is not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

INTERFACE = "eth0"
"""Of each host, as programs are told by GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME."""

FRAME = 1514
"""Bytes of a full packet with its headers."""

BURST, LATENCY = 32 << 10, 0.4
"""Bytes that pass at once through a limited cable, and seconds that the others wait at most before some are lost."""

PREPARE = """
set -e
hostname "$1"
mount --bind "$2" /etc/hosts
mount -t tmpfs none /run
mkdir /run/sshd
ip link set lo up
echo ready
exec sleep infinity
"""
"""What a host does in namespaces of its own: its name and the names of all, and a place for an ssh server's files."""


def missing() -> str | None:
    """Why there can be no hosts here; None: there can."""
    absent = [tool for tool in ("ip", "tc", "nsenter", "unshare", "mount") if shutil.which(tool) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    if os.geteuid() != 0:
        return "network namespaces need root"
    done = subprocess.run(
        ["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, text=True, check=False
    )
    return f"no namespaces can be made: {done.stderr.strip()}" if done.returncode else None


@dataclass(frozen=True)
class Host:
    """One host."""

    name: str
    address: str
    pid: int
    """Of the process that keeps its namespaces."""

    def command(self, *words: object, cwd: Path, env: Mapping[str, str] | None = None) -> list[str]:
        """The command line that runs `words` there, in a folder, with more in its environment."""
        more = [f"{name}={value}" for name, value in (env or {}).items()]
        enter = ["nsenter", "--target", str(self.pid), "--net", "--uts", "--mount"]
        return [*enter, "env", "-C", str(cwd), *more, *map(str, words)]

    def limit(self, bits: float | None) -> None:
        """Let at most so many bits a second leave; None: as many as can."""
        if bits is None:
            self._run("tc", "qdisc", "del", "dev", INTERFACE, "root")
            return
        how = ["rate", f"{bits:.0f}bit", "burst", f"{BURST}", "latency", f"{LATENCY * 1e3:.0f}ms"]
        self._run("tc", "qdisc", "replace", "dev", INTERFACE, "root", "tbf", *how)

    def sent(self) -> int:
        """Bytes that have left so far, headers of Ethernet, IP and TCP included, but not what had to be sent again."""
        return sent_from(self._run("cat", "/proc/net/dev", "/proc/net/snmp"))

    def _run(self, *words: str) -> str:
        command = self.command(*words, cwd=Path("/"))
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def sent_from(tables: str) -> int:
    """Bytes that have left a host but for what TCP has sent again, from its /proc/net/dev and /proc/net/snmp.

    On busy cores packets come late or out of order, and up to a tenth of them is sent twice: no part of what a step
    costs. Which they were is not known; they count as full ones.
    """
    found: dict[str, list[list[str]]] = {}
    for line in tables.splitlines():
        name, _, rest = line.partition(":")
        found.setdefault(name.strip(), []).append(rest.split())
    if INTERFACE not in found or "Tcp" not in found:
        raise ValueError(f"no {INTERFACE}, or no counters of TCP, in {tables}")
    names, numbers = found["Tcp"]
    return int(found[INTERFACE][0][8]) - FRAME * int(numbers[names.index("RetransSegs")])


@contextmanager
def two_hosts(folder: Path, names: Sequence[str] = ("alpha", "beta")) -> Iterator[tuple[Host, Host]]:
    """Two hosts that reach each other by name, for as long as the context lasts.

    Args:
        folder: where their /etc/hosts is written.
        names: theirs.
    """
    addresses = [f"10.213.7.{number + 1}" for number in range(2)]
    table = folder / "hosts"
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for address, name in zip(addresses, names, strict=True))]
    table.write_text("".join(f"{line}\n" for line in lines))
    keepers: list[subprocess.Popen[str]] = []
    try:
        for name in names:
            command = ["unshare", "--net", "--uts", "--mount", "sh", "-c", PREPARE, "sh", name, str(table)]
            keeper = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            keepers.append(keeper)
            assert keeper.stdout is not None and keeper.stdout.readline() == "ready\n", f"host {name} did not come"
        first, second = (Host(*three) for three in zip(names, addresses, (k.pid for k in keepers), strict=True))
        _join(first, second)
        yield first, second
    finally:
        for keeper in keepers:  # a namespace, and the cable's end in it, goes with its last process
            keeper.kill()
            keeper.wait()


def _join(first: Host, second: Host) -> None:
    cable = [f"ofa{first.pid}", f"ofa{second.pid}"]
    _ip("link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
    for host, end in zip((first, second), cable, strict=True):
        _ip("link", "set", end, "netns", str(host.pid))
        inside = ["nsenter", "--target", str(host.pid), "--net", "ip"]
        for words in (
            ["link", "set", end, "name", INTERFACE],
            ["address", "add", f"{host.address}/24", "dev", INTERFACE],
            ["link", "set", INTERFACE, "gso_max_segs", "1"],  # a packet is counted as the wire would see it
            ["link", "set", INTERFACE, "up"],
        ):
            subprocess.run([*inside, *words], check=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
