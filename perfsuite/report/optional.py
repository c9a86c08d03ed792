"""Blocks of an account that a record may lack: each is there, or says why not."""

from typing import Any


def block(account: dict[str, Any], *path: str) -> dict[str, Any]:
    """The block at this path: {"available", "reason", ...}. Where the account ends before it, it is not available."""
    found: Any = account
    for name in path:
        found = found.get(name)
        if found is None:
            return {"available": False, "reason": "no pass of this record has finished"}
    return found


def on_gpu(account: dict[str, Any]) -> bool:
    """Whether the run was on a GPU."""
    return account["device"].startswith("cuda")
