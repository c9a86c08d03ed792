"""Measures again and again until every benchmark has its verdict or its time is spent; in a fixed number of looks.

A look judges what there is. What cannot be told then is measured more, up to the next look: at most LOOKS of them, so
that the false-alarm rate is known beforehand (perfsuite.bench_plugin.decide pays for each). Time alone ends it earlier.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from perfsuite.bench_plugin.decide import Rounds, decide_all
from perfsuite.verdict import CANNOT_TELL, Verdict

BLOCKS = (5, 15)
"""Blocks of processes that have been run when a look is taken: each look more would have to be paid for by all. Five
are a minute of processes that load torch."""
LOOKS = len(BLOCKS)
Key = tuple[str, str]
"""A test and a quantity: "time" or "energy"."""


def judge(tests: Sequence[str], more: Callable[[Sequence[str]], Any], rounds: Callable[[], Mapping[Key, Rounds]],
          budget_s: float, say: Callable[[str], None]) -> dict[Key, Verdict]:  # fmt: skip
    """The verdicts on all quantities of all tests.

    more: runs one block of processes with these tests. rounds: what there is so far. budget_s: for each test; a process
    costs each of the tests in it an equal share. At least one block is run.
    """
    spent = dict.fromkeys(tests, 0.0)
    open_, verdicts, done = list(tests), {}, 0
    for look, size in enumerate(BLOCKS, 1):
        while done < size:
            running = [test for test in open_ if spent[test] < budget_s or not done]
            if not running:
                break
            done += 1
            say(f"block {done} of {size}, look {look} of at most {LOOKS}, {len(running)} of {len(tests)} benchmarks")
            began = time.monotonic()
            more(running)
            share = (time.monotonic() - began) / len(running)
            for test in running:
                spent[test] += share
        found = rounds()
        verdicts = decide_all(found, LOOKS)
        open_ = [test for test in tests if spent[test] < budget_s and any(
            verdicts[key].word == CANNOT_TELL and not found[key].obstacle for key in verdicts if key[0] == test)]
        if not open_:
            break
    return verdicts
