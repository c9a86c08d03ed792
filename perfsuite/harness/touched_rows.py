"""Rows of embedding tables that training looks up: how many bytes of a table too large for a cache are really used.

After run_stop, outside the clock, batches are taken on from where training stopped and asked which rows they look up.
What the optimizer does with a row does not matter, nor whether a row was trained on before.
"""

import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

MOST_BATCHES = 64
BUDGET_S = 20.0


def measure(job: Any, batches: Iterator[Any]) -> dict[str, Any] | None:
    """{"batches", "tables": [{"name", "row_bytes", "lookups", "rows_by_batch", "rows"}]}; None where the job has none.

    lookups: of all batches; rows_by_batch: different rows of each batch; rows: of all of them together. As many batches
    as BUDGET_S allows, MOST_BATCHES at most. Raises ValueError where rows(batch) does not give what it promises.
    """
    if not hasattr(job, "rows"):
        return None
    import torch

    tables: dict[str, dict[str, Any]] = {}
    seen: dict[str, torch.Tensor] = {}
    count, end_s = 0, time.monotonic() + BUDGET_S
    for batch in islice(batches, MOST_BATCHES):
        for name, (ids, row_bytes) in _checked(job.rows(batch)).items():
            table = tables.setdefault(name, {"name": name, "row_bytes": row_bytes, "lookups": 0, "rows_by_batch": []})
            rows = torch.unique(ids)
            table["lookups"] += len(ids)
            table["rows_by_batch"].append(len(rows))
            seen[name] = torch.unique(torch.cat((seen[name], rows))) if name in seen else rows
        count += 1
        if time.monotonic() > end_s:
            break
    return {"batches": count, "tables": [table | {"rows": len(seen[name])} for name, table in tables.items()]}


def _checked(rows: Any) -> Mapping[str, Any]:
    import torch

    if not isinstance(rows, Mapping):
        raise ValueError(f"rows(batch) gave {type(rows).__name__}, not {{table: (ids, bytes of a row)}}")
    for name, entry in rows.items():
        ids = entry[0] if isinstance(entry, tuple) and len(entry) == 2 else None
        if not isinstance(ids, torch.Tensor) or ids.dim() != 1 or ids.is_floating_point():
            raise ValueError(f"rows(batch)[{name!r}] is not (ids, bytes of a row) with ids a 1-D tensor of integers")
    return rows
