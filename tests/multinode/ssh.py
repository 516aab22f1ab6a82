"""An ssh server on each host with a key of its own, and the client's settings that a user would have in ~/.ssh."""

import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

SERVER = """
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
"""

CLIENT = """
IdentityFile {folder}/key
UserKnownHostsFile {folder}/known_hosts
StrictHostKeyChecking accept-new
LogLevel ERROR
"""

WRAPPER = """#!/bin/sh
exec {ssh} -F {folder}/client "$@"
"""


def missing():
    """Why there can be no ssh here; None: there can."""
    absent = [tool for tool in ("sshd", "ssh", "ssh-keygen", "pdsh") if _which(tool) is None]
    return f"{', '.join(absent)} not installed" if absent else None


@contextmanager
def servers(hosts, folder):
    """Servers on all hosts; gives the folder whose `ssh` reaches them, for the front of PATH."""
    for name in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "server").write_text(SERVER.format(folder=folder))
    (folder / "client").write_text(CLIENT.format(folder=folder))
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(WRAPPER.format(ssh=_which("ssh"), folder=folder))
    wrapper.chmod(0o755)
    started = []
    try:
        for host in hosts:
            command = host.command(_which("sshd"), "-D", "-e", "-f", folder / "server", cwd=folder)
            with (folder / f"sshd-{host.name}.log").open("w") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log))
        for host in hosts:
            _wait_for(host, wrapper, folder)
        yield wrapper.parent
    finally:
        for server in started:
            server.terminate()
            server.wait()


def _wait_for(host, ssh, folder):
    """Until the server lets us in."""
    deadline = time.monotonic() + 30
    command = host.command(ssh, host.name, "hostname", cwd=folder)
    while (done := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
        log = (folder / f"sshd-{host.name}.log").read_text()
        assert time.monotonic() < deadline, f"{done.stderr}\n{log}"
        time.sleep(0.2)
    assert done.stdout.strip() == host.name


def _which(tool):
    found = shutil.which(tool, path="/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
    return None if found is None else Path(found)
