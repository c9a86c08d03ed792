"""Other revisions of a repository, checked out and built beside it, so that two of them can be run in turns.

A revision gets a git worktree in a temporary folder; the user's own working tree, index and branches are not touched.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tree:
    """A revision that can be run."""

    path: Path
    """The checkout."""
    commit: str
    """Its full hash."""
    environment: dict[str, str]
    """For subprocesses: with it the revision's own code is imported, not what is installed."""

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """This interpreter with these arguments, in the checkout, with its environment; text is captured."""
        return subprocess.run(
            [sys.executable, *arguments], cwd=self.path, env=self.environment, capture_output=True, text=True, **options
        )


def repository(folder: Path) -> Path:
    """The top folder of the git repository around `folder`. ValueError where there is none, or no git."""
    return Path(_git(folder, "rev-parse", "--show-toplevel", what=f"{folder} is not in a git repository"))


def commit_of(revision: str, folder: Path) -> str:
    """The full hash that a revision (branch, tag, abbreviated hash, HEAD~3) names. ValueError where it names none."""
    if revision.startswith("-"):
        raise ValueError(f"{revision!r} is not a revision: give a branch, a tag or a commit")
    return _git(folder, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}",
                what=f"{folder} has no revision {revision!r}; `git log --oneline` lists some")  # fmt: skip


@contextmanager
def built(revision: str, folder: Path) -> Iterator[Tree]:
    """Check out and, where it has a build, build `revision` of the repository around `folder`; removed afterwards.

    A project with a pyproject.toml or setup.py is installed from the checkout into a folder of its own, without its
    dependencies and without a network: they are those of the running interpreter. Other repositories are put on the
    path as they are. Raises ValueError, one line, for an unknown revision and where the build fails.
    """
    root = repository(folder)
    commit = commit_of(revision, root)
    scratch = Path(tempfile.mkdtemp(prefix="perfsuite-revision-"))
    checkout = scratch / commit[:12]
    with _interruptible():
        try:
            _git(root, "worktree", "add", "--detach", "--force", str(checkout), commit,
                 what=f"{revision} cannot be checked out")  # fmt: skip
            yield Tree(checkout, commit, _environment(checkout, scratch, revision))
        finally:
            subprocess.run(["git", "-C", str(root), "worktree", "remove", "--force", str(checkout)],
                           capture_output=True)  # fmt: skip
            shutil.rmtree(scratch, ignore_errors=True)
            subprocess.run(["git", "-C", str(root), "worktree", "prune"], capture_output=True)


def _environment(checkout: Path, scratch: Path, revision: str) -> dict[str, str]:
    paths = [checkout / "src"] if (checkout / "src").is_dir() else [checkout]
    if (checkout / "pyproject.toml").exists() or (checkout / "setup.py").exists():
        target = scratch / "site"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation",
                   "--no-warn-conflicts", "--target", str(target), str(checkout)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
        if done.returncode:
            lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            last = next((line.strip() for line in reversed(lines) if "error" in line.lower()), "pip said nothing")
            raise ValueError(f"revision {revision} cannot be built: {last} (its build needs what pyproject.toml's "
                             "[build-system] names, installed here)")  # fmt: skip
        paths = [target]
    before = os.environ.get("PYTHONPATH")
    joined = os.pathsep.join([*map(str, paths), *([before] if before else [])])
    # Without a safe path Python would put the checkout itself first, with its unbuilt sources.
    return {**os.environ, "PYTHONPATH": joined, "PYTHONSAFEPATH": "1"}


@contextmanager
def _interruptible() -> Iterator[None]:
    """A termination becomes an exception, so that the worktree goes then too. Off the main thread nothing changes."""
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _git(folder: Path, *arguments: str, what: str) -> str:
    """What git prints; ValueError that begins with `what` where it fails."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise ValueError("git is not installed: revisions cannot be compared without it") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [""])[-1]
        raise ValueError(f"{what}" + (f" ({said})" if said and said not in what else ""))
    return done.stdout.strip()
