"""The commits of a repository in order, and whether a benchmark's own code changed between two of them."""

import ast
import subprocess
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

from perfsuite import revisions


class History:
    """Commits that HEAD contains, oldest first; empty outside a repository."""

    def __init__(self, root: Path | None, commits: Sequence[tuple[str, float]]) -> None:
        self.root = root
        self.position = {commit: i for i, (commit, _) in enumerate(commits)}
        self.time_s = dict(commits)
        self._sorted = sorted(self.position)

    def full(self, commit: str) -> str | None:
        """The full hash of a commit of this history, from 7 digits of it or more; None for another one."""
        if commit in self.position:
            return commit
        at = bisect_left(self._sorted, commit)
        known = len(commit) >= 7 and at < len(self._sorted) and self._sorted[at].startswith(commit)
        return self._sorted[at] if known else None

    def between(self, before: str, after: str) -> int | None:
        """How many commits lie after `before`, up to and with `after`; None where the history lacks one of them."""
        if before not in self.position or after not in self.position:
            return None
        return self.position[after] - self.position[before]

    def changed_code(self, before: str, after: str, path: str, function: str | None) -> list[str] | None:
        """Files that belong to the benchmark `function` in `path` and differ; None where the repository lacks them.

        Other tests of the file are not looked at, nor comments and layout: a commit that changes the code under test
        often adds a benchmark too. Fixtures are: every conftest.py above the file.
        """
        if self.root is None or before not in self.position or after not in self.position:
            return None
        names = self._names(after)
        own = _find(path, names)
        if own is None:
            return None
        folders = {str(parent) for parent in PurePosixPath(own).parents}
        fixtures = [n for n in names if PurePosixPath(n).name == "conftest.py" and _folder(n) in folders]
        found = []
        for name, wanted in ((own, function), *((name, None) for name in fixtures if function)):
            old, new = self._source(before, name), self._source(after, name)
            if old is not None and old != new and _relevant(old, wanted) != _relevant(new or "", wanted):
                found.append(name)
        return found

    def _names(self, commit: str) -> tuple[str, ...]:
        return _names(self.root, commit)

    def _source(self, commit: str, name: str) -> str | None:
        return _source(self.root, commit, name)


def around(folders: Iterable[Path], commits: Iterable[str]) -> History:
    """The history of the repository, around one of the folders, that knows most of the commits; the first of equals."""
    wanted = set(commits)
    best, most = History(None, []), 0
    seen = set()
    for folder in folders:
        try:
            root = revisions.repository(folder if folder.is_dir() else folder.parent)
        except ValueError:
            continue
        if root in seen:
            continue
        seen.add(root)
        history = History(root, _commits(root))
        known = sum(history.full(commit) is not None for commit in wanted)
        if known > most:
            best, most = history, known
    return best


def _commits(root: Path) -> list[tuple[str, float]]:
    text = _git(root, "log", "--topo-order", "--reverse", "--format=%H %ct", "HEAD") or ""
    return [(commit, float(time)) for commit, time in (line.split() for line in text.splitlines())]


@lru_cache(maxsize=256)
def _names(root: Path, commit: str) -> tuple[str, ...]:
    return tuple(filter(None, (_git(root, "ls-tree", "-r", "-z", "--name-only", commit) or "").split("\0")))


@lru_cache(maxsize=1024)
def _source(root: Path, commit: str, name: str) -> str | None:
    return _git(root, "show", f"{commit}:{name}")


def _git(root: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True)
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def _find(path: str, names: Sequence[str]) -> str | None:
    """The file that a stored path means: pytest's paths start at its own root, which may lie below the repository's."""
    ends = [name for name in names if name == path or name.endswith(f"/{path}") or path.endswith(f"/{name}")]
    return min(ends, key=lambda name: (name != path, len(name)), default=None)


def _folder(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _relevant(source: str, function: str | None) -> str:
    """What of a file's code matters to a test: all but the other tests. As it is where it is not Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return source
    if function is not None:
        wanted = function.split("::")
        tree.body = _without_others(tree.body, wanted)
    return ast.dump(tree)


def _without_others(body: list[ast.stmt], wanted: list[str]) -> list[ast.stmt]:
    kept = []
    for node in body:
        name = getattr(node, "name", "")
        if isinstance(node, ast.ClassDef) and name == wanted[0] and len(wanted) > 1:
            node.body = _without_others(node.body, wanted[1:])
        elif name != wanted[0] and isinstance(node, ast.ClassDef) and name.startswith("Test"):
            continue
        elif name != wanted[0] and isinstance(node, ast.FunctionDef) and name.startswith("test"):
            continue
        kept.append(node)
    return kept
