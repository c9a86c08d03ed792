"""Accounts for a training loop that exists already: three lines, no harness, the same record and report.

    with perfsuite.account_for("my run", model=model) as run:      # 1
        for batch in loader:
            run.step()                                             # 2
            with run.phase("forward"):                             # 3, and so on for each part
                loss = model(batch)
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import perfsuite
from perfsuite import conditions, machine, record
from perfsuite.record import Record
from perfsuite.watch import Watch


class Run:
    """What the loop marks its steps and phases with."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.folder: Path | None = None
        """Where the record is, after the with block."""

    def step(self) -> None:
        """A new step begins here."""
        self._watch.begin_step()

    def phase(self, name: str) -> AbstractContextManager[Any]:
        """Time inside belongs to this phase, e.g. "data", "forward"; time in none of them is shown as unattributed."""
        return self._watch.phase(name)


@contextmanager
def account_for(
    name: str, model: Any = None, out: str | Path = "runs", device: str = "cpu", optimizer: Any = None
) -> Iterator[Run]:
    """Watch the block, then keep a record of it in `out`, also where the block raises.

    `model` (a torch.nn.Module, or None) gives ops the names of its modules; with `optimizer` (a torch.optim.Optimizer,
    or None) it tells what holds the memory.
    """
    if not name or any(c in name for c in "/\0"):
        raise ValueError(f"{name!r} cannot name a record: give a name without slashes")
    watch = Watch("watch", model, optimizer)
    run = Run(watch)
    error: str | None = None
    watch.start()
    try:
        yield run
    except BaseException as raised:
        error = f"{type(raised).__name__}: {raised}"
        raise
    finally:
        watch.stop()
        run.folder = _keep(name, Path(out), device, watch, error)


def _keep(name: str, out: Path, device: str, watch: Watch, error: str | None) -> Path:
    folder = record.new_folder(out, f"{name.replace(' ', '-')}-{machine.machine_name()}")
    result = {"kind": "watch", "index": 0, "seed": None, "state": "failed" if error else "done", "error": error}
    result |= watch.data()
    record.save_arrays(folder, result, watch.arrays())
    made = Record(
        id=folder.name,
        kind="watch",
        created=conditions.now(),
        command=list(sys.argv),
        commit=conditions.commit(),
        perfsuite_version=perfsuite.__version__,
        workload=name,
        workload_path=None,
        scale="own",
        device=device,
        division="open",
        use={},
        config={},
        target=None,
        schedule=None,
        num_runs=1,
        seeds=[],
        data_folder=None,
        wanted={},
        machine=conditions.machine_part(),
        passes=[result],
    )
    record.save(made, folder)
    return folder
