"""Time-to-train with every second, byte and joule of it accounted for.

Importing this package loads neither torch nor triton.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "account_for":  # imported when it is asked for: it needs numpy and the native module
        from perfsuite.loop import account_for

        return account_for
    raise AttributeError(f"module 'perfsuite' has no attribute {name!r}")
