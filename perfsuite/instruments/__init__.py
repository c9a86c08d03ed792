"""Things that observe a run, one file each.

An instrument has NAME, available(), start() and stop(). stop() returns plain data; arithmetic on it is done elsewhere.
"""

from typing import NamedTuple


class Availability(NamedTuple):
    """Whether an instrument works on this machine, and why it does not."""

    available: bool
    reason: str | None


YES = Availability(True, None)


def no(reason: str) -> Availability:
    """Not available, for this reason: one line that says what is missing and, where possible, how to mend it."""
    return Availability(False, reason)


class Unavailable(RuntimeError):
    """An instrument cannot start here, though it might elsewhere or later: the message is the reason for no()."""
