"""The two sides of a comparison with a revision: it and the working tree, each built, with the same benchmarks.

The benchmarks are the working tree's on both sides, so that they are the code under test and not themselves compared:
the folder around each test whose name begins with test, bench or perf is copied into both checkouts, or else the test
file alone; and the conftest.py files and pytest's configuration on the way to it.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from perfsuite import revisions
from perfsuite.bench_plugin.children import Side
from perfsuite.revisions import Tree


@contextmanager
def sides(revision: str, rootdir: Path, folder: Path, tests: Iterable[Path], configuration: Path | None,
          arguments: tuple[str, ...]) -> Iterator[tuple[Side, Side]]:  # fmt: skip
    """(the revision, the working tree with what is not committed), built; removed afterwards.

    rootdir: pytest's. folder: where it was called. tests: the files of the benchmarks. Raises ValueError.
    """
    root = revisions.repository(rootdir)
    shared = _shared(root, set(tests), configuration)
    with ExitStack() as stack:
        both = []
        for name in (revision, _working_tree(root)):
            tree = stack.enter_context(revisions.built(name, root))
            _hide_installed(tree, shared)
            for path in shared:
                target = tree.path / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / path, target)
            label = "the working tree" if both else f"{revision} ({tree.commit[:9]})"
            where = [_moved(path, root, tree.path) for path in (rootdir, folder)]
            both.append(Side(label, *where, tree.environment, arguments))
        yield both[0], both[1]


def _moved(path: Path, root: Path, to: Path) -> Path:
    """The same place in another checkout; its top where the path is not in the repository or not there."""
    there = to / path.relative_to(root) if path.is_relative_to(root) else to
    return there if there.is_dir() else to


def _working_tree(root: Path) -> str:
    """A commit of the tree as it is, without touching index, branch or stash; HEAD where nothing is changed."""
    names = ["-c", "user.name=perfsuite", "-c", "user.email=perfsuite@localhost"]
    made = subprocess.run(["git", "-C", str(root), *names, "stash", "create"], capture_output=True, text=True)
    return made.stdout.strip() or "HEAD"


def _shared(root: Path, tests: set[Path], configuration: Path | None) -> list[Path]:
    """Files that both checkouts get from the working tree, relative to its top."""
    found: dict[Path, None] = {}
    for test in sorted(tests):
        if not test.is_relative_to(root):
            raise ValueError(f"{test} is not in the repository {root}: its revisions are not known")
        parents = [parent for parent in test.parents if parent.is_relative_to(root) and parent != root]
        named = [parent for parent in parents if parent.name.lower().startswith(("test", "bench", "perf"))]
        found[test.relative_to(root)] = None
        if named:
            found |= dict.fromkeys(_files(root, named[-1]))
        for parent in (*parents, root):
            if (parent / "conftest.py").is_file():
                found[(parent / "conftest.py").relative_to(root)] = None
    if configuration and configuration.is_relative_to(root):
        found[configuration.relative_to(root)] = None
    return list(found)


def _files(root: Path, folder: Path) -> list[Path]:
    """Those that git knows or would add."""
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard",
                             "--", str(folder)], capture_output=True, text=True).stdout  # fmt: skip
    return [Path(name) for name in listed.split("\0") if name and (root / name).is_file()]


def _hide_installed(tree: Tree, shared: list[Path]) -> None:
    """Take the sources of what was built out of the checkout: pytest may put its folder first on the path."""
    site = Path(tree.environment["PYTHONPATH"].split(os.pathsep)[0])
    if site.is_relative_to(tree.path):
        return  # not built: the checkout itself is what is imported
    for installed in site.iterdir():
        for place in (tree.path / installed.name, tree.path / "src" / installed.name):
            inside = any((tree.path / path).is_relative_to(place) for path in shared)
            if place.is_dir() and not inside:
                shutil.rmtree(place)
            elif place.is_file() and not inside:
                place.unlink()
