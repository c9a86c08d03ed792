"""Runs a workload at two revisions in turns, so that no drift of the machine lies between them."""

import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from perfsuite import record, revisions
from perfsuite.revisions import Tree

_RUN = "from perfsuite.cli import main; main()"


def split(text: str) -> tuple[str, str]:
    """("main", "HEAD") of "main..HEAD"; an empty side is HEAD, as in git. ValueError for anything else."""
    first, dots, second = text.partition("..")
    if not dots or second.startswith("."):
        raise ValueError(f"{text!r} is not REV..REV: give two revisions, e.g. main..HEAD, or two records")
    return first or "HEAD", second or "HEAD"


def interleave(
    pair: str, folder: Path, workload: str, arguments: list[str], runs: int, seed: int, ledger: bool,
    out: Path, say: Callable[[str], None],
) -> tuple[list[Path], list[Path]]:  # fmt: skip
    """Folders of the records of both sides: `runs` runs each, of the seeds from `seed` on, in turns in a drawn order.

    folder: somewhere in the repository. workload: a name, or a .py file in the repository, which is taken from each
    revision. arguments: more of `perfsuite run`. With `ledger` the first run of each side has a ledger pass as
    well. Records are kept in `out`. Raises ValueError where a revision cannot be built or a run cannot be done there.
    """
    names = split(pair)
    root = revisions.repository(folder)
    if workload.endswith(".py"):
        path = Path(workload).resolve()
        if not path.is_relative_to(root):
            raise ValueError(f"{workload} is not in the repository {root}: its revisions are not known")
        workload = str(path.relative_to(root))
    found: tuple[list[Path], list[Path]] = ([], [])
    with ExitStack() as stack:
        trees = []
        for name in names:
            say(f"building {name}")
            trees.append(stack.enter_context(revisions.built(name, root)))
        draw = random.Random(seed)
        for i in range(runs):
            for side in draw.sample((0, 1), 2):
                say(f"run {i + 1} of {runs} of {names[side]}")
                to = out / f"{'AB'[side]}-{trees[side].commit[:12]}"
                command = ["run", workload, "--runs", "1", "--seed", str(seed + i), *arguments,
                           *([] if ledger and i == 0 else ["--no-ledger"]), "--out", str(to.resolve())]  # fmt: skip
                found[side].append(_run(trees[side], names[side], command, to))
    return found


def _run(tree: Tree, name: str, command: list[str], out: Path) -> Path:
    before = set(record.list_folders(out))
    done: subprocess.CompletedProcess[Any] = tree.run("-P", "-c", _RUN, *command)
    made = set(record.list_folders(out)) - before
    if done.returncode not in (0, 1) or not made:
        said = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it said nothing")
        raise ValueError(f"{name} cannot run `{' '.join(command[:2])}`: {said.removeprefix('perfsuite: ')}")
    return made.pop()


def show(text: str) -> None:
    """A line of progress on standard error."""
    print(text, file=sys.stderr, flush=True)
