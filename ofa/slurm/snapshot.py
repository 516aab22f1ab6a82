"""The code that a job runs: a copy of the commit that was checked out when it was submitted, so that work may go on in
the checkout while the job waits, and every attempt runs the same.

    <jobs>/code/<commit>/  ofa/  launch/  configs/  data_prep/  .commit

Changes that are not committed are refused, since nobody could find that code again; `--uncommitted` copies them.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from ofa.code_version import COMMIT_FILE
from ofa.files import flush, flush_folder, own_folder_beside, remove_left
from ofa.slurm.errors import SubmitError

CODE = ("ofa", "launch", "configs", "data_prep")
"""Folders of a checkout that commands run from."""

NO_CHECKOUT = "not a git repository"

NAMED = 5
"""Changed files that an error names."""

LEFT = 86400.0
"""Seconds after which a copy that is not whole is nobody's: to make one takes some."""


@dataclass(frozen=True)
class Code:
    """Code that jobs are to run."""

    path: Path
    """Where it is, or will be."""

    commit: str | None
    """None: it is the checkout itself, of which no commit can be told."""

    packed: bytes = b""
    """What is to be there, as a tar file."""

    def make(self) -> None:
        """Copy it, unless it is there; of several processes that do so at once, the first one's is kept."""
        if self.commit is None or self.path.is_dir():
            return
        with own_folder_beside(self.path) as building:
            try:
                with tarfile.open(fileobj=BytesIO(self.packed)) as archive:
                    archive.extractall(building, filter="data")
                (building / COMMIT_FILE).write_text(self.commit + "\n", encoding="utf-8")
                flush(building)
                building.rename(self.path)
            except OSError:
                if not self.path.is_dir():
                    raise
        remove_left(self.path.parent, LEFT)
        flush_folder(self.path.parent)


def snapshot(checkout: Path, folder: Path, *, uncommitted: bool = False) -> Code:
    """The code of a checkout as it is now; nothing is written yet.

    Args:
        checkout: holds `ofa/` and the other folders of `CODE`.
        folder: the copies', on a disk that all nodes see.
        uncommitted: copy the files as they are.

    Raises:
        SubmitError: files differ from the commit, or git refuses to speak of it.
    """
    if (checkout / COMMIT_FILE).is_file():  # a copy; git would speak of a checkout around it
        return Code(checkout, (checkout / COMMIT_FILE).read_text(encoding="utf-8").strip())
    commit = _commit(checkout)
    if commit is None:
        return Code(checkout, None)
    changed = _git(checkout, "status", "--porcelain", "--untracked-files=all", "--", *CODE).decode().splitlines()
    if not changed:
        existing = [name for name in CODE if (checkout / name).is_dir()]
        return Code(folder / commit, commit, _git(checkout, "archive", commit, "--", *existing))
    names = [line[3:] for line in changed]
    if not uncommitted:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise SubmitError(
            f"{checkout} has changes that are not committed: {', '.join(names[:NAMED])}{more}. Jobs run a commit's "
            "code: commit them, or say --uncommitted to run the files as they are now"
        )
    packed = _packed(checkout)
    return Code(folder / f"{commit}-{hashlib.sha256(packed).hexdigest()[:12]}", f"{commit}-dirty", packed)


def _commit(checkout: Path) -> str | None:
    """None: this is no checkout of git, or git is not installed."""
    try:
        return _git(checkout, "rev-parse", "HEAD").decode().strip()
    except FileNotFoundError:
        return None
    except SubmitError as error:
        if NO_CHECKOUT in str(error):
            return None
        raise


def _packed(checkout: Path) -> bytes:
    """The files that git knows, or would take, as they are."""
    listed = _git(checkout, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *CODE)
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in sorted(set(filter(None, listed.decode().split("\0")))):
            if (checkout / name).is_file():  # git lists deleted ones too
                archive.add(checkout / name, name)
    return packed.getvalue()


def _git(checkout: Path, *arguments: str) -> bytes:
    done = subprocess.run(
        ["git", "-C", str(checkout), *arguments], capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    if done.returncode:
        raise SubmitError(f"git {arguments[0]} in {checkout} says: {' '.join(done.stderr.decode().split())}")
    return done.stdout
