"""One log against the rules text. Each check is a function of the log; together they say whether the run is valid.

Sources: training_policies, training_rules ("Run Results", "Quality measure", "Data state at start of run", "Random
numbers") and the logging rules. What the official checker finds too is taken from official_check and marked so.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

from perfsuite.mlperf import official_check, restricted, rounds
from perfsuite.mlperf.case import Case
from perfsuite.mlperf.check_quality import quality, schedule
from perfsuite.mlperf.finding import CONTRARY, ERROR, NOT_CHECKED, SAME, WARNING, Finding

LOGGING = "logging rules"
RESULTS = "training_rules, Run Results"
STATE = "training_rules, Data state at start of run"
RANDOM = "training_rules, Random numbers"
HYPERPARAMETERS = "training_rules, Hyperparameters and optimizer"
_BACK_MS = 1000.0
"""Lines of several processes may be written a moment after one another."""
_PAIRS = {f"{name}_start": f"{name}_stop" for name in ("block", "epoch", "eval", "init", "run")}
_SHOWN = 3
_INIT_TIME = "ll.timestamp - s['first_init_start']"
"""How the official test of the time that initialisation took begins."""


def check(case: Case) -> list[Finding]:
    """All findings on one log, in the order of the checks."""
    return [finding for one in CHECKS for finding in one(case)]


def readable(case: Case) -> Iterator[Finding]:
    """Every log line can be read."""
    faults = case.log.faults
    agrees = case.official("Log lines had parsing errors.", "No log lines detected")
    for fault in faults[:_SHOWN]:
        yield Finding("reading", ERROR, f"a log line cannot be read: {fault.why}", fault.line, LOGGING, agrees)
    if len(faults) > _SHOWN:
        yield Finding("reading", ERROR, f"{len(faults) - _SHOWN} more lines cannot be read", None, LOGGING, agrees)
    if not case.log.entries:
        yield Finding("reading", ERROR, "there is no log line that can be read", None, LOGGING, agrees)


def official(case: Case) -> Iterator[Finding]:
    """What the official checker says, but for what the rules text contradicts."""
    if case.answer is None or not case.log.entries:
        return
    if case.answer.crashed:
        # It met a value that a log may not have, and none of its other rules was asked.
        yield Finding("official", ERROR, f"the official checker ends with a traceback: {case.answer.crashed}",
                      None, LOGGING, CONTRARY)  # fmt: skip
    wrong = {one.key: one for one in case.rules.corrections(case.run.benchmark, case.division)}
    for message in case.answer.messages:
        if message == "Log lines had parsing errors.":
            continue
        told, failed = official_check.parts(message)
        if failed.startswith(_INIT_TIME) and _exceeds_init_limit(case):  # another check says what the rules make of it
            continue
        correction = next((one for key, one in wrong.items() if key in told or key in failed), None)
        if correction is None:
            yield Finding("keys", ERROR, told + (f"; wanted: {failed}" if failed else ""), _line_of(case, message),
                          LOGGING, SAME)  # fmt: skip
        else:
            yield Finding("keys", WARNING, f"the official checker refuses {correction.key}: {correction.why}", None,
                          f"training_rules, {correction.rule}", CONTRARY)  # fmt: skip


def _line_of(case: Case, message: str) -> int | None:
    """Line of the file that an official message is about; the official checker counts log lines only, from 0."""
    _, _, rest = message.partition(" failed in line ")
    number = rest.partition(":")[0]
    if not number.isdigit() or case.log.faults or int(number) >= len(case.log.entries):
        return None
    return case.log.entries[int(number)].line


def order(case: Case) -> Iterator[Finding]:
    """init_start, init_stop, run_start, run_stop: in this order in the file, and in time.

    A clock that starts before the initialisation is over costs time, and is no breach.
    """
    names = [name for name in ("init_start", "init_stop", "run_start", "run_stop") if case.first(name)]
    for before, after in pairwise(names):
        a, b = case.first(before), case.last(after) if after == "run_stop" else case.first(after)
        if b.line < a.line or b.time_ms < a.time_ms:
            told = f"{after} (line {b.line}) comes before {before} (line {a.line})"
            yield Finding("order", WARNING if after == "run_start" else ERROR, told, b.line, RESULTS, NOT_CHECKED)
    time_s = case.run.time_to_train_s
    if time_s is not None and time_s <= 0:
        line = case.last("run_stop") or case.last("run_final")
        yield Finding("order", ERROR, f"the run took {time_s:g} s: a time to train is above 0", line and line.line,
                      RESULTS, NOT_CHECKED)  # fmt: skip
    for name in ("run_start", "run_stop"):
        if case.log.entries and case.first(name) is None and not (name == "run_stop" and case.run.stop_ms is not None):
            yield Finding("order", ERROR, f"there is no {name}", None, RESULTS, case.official(f"'{name}'"))


def required(case: Case) -> Iterator[Finding]:
    """Keys that rules of our own ask for; those of a round are the official checker's to miss."""
    for key in case.rules.required:
        if case.first(key) is None and key not in ("run_start", "run_stop", "seed"):  # other checks ask for these
            yield Finding("keys", ERROR, f"there is no {key}", None, LOGGING)


def clock(case: Case) -> Iterator[Finding]:
    """Time does not run backwards from line to line."""
    latest = None
    backwards = []
    for entry in case.log.entries:
        if latest is not None and entry.time_ms < latest.time_ms - _BACK_MS:
            backwards.append((entry, latest.time_ms - entry.time_ms))
        if latest is None or entry.time_ms > latest.time_ms:
            latest = entry
    for entry, by_ms in backwards[:_SHOWN]:
        text = f"{entry.key} is {by_ms / 1e3:.1f} s before a line above it"
        yield Finding("clock", WARNING, text, entry.line, LOGGING)
    if len(backwards) > _SHOWN:
        yield Finding("clock", WARNING, f"{len(backwards) - _SHOWN} more lines go back in time", None, LOGGING)


def intervals(case: Case) -> Iterator[Finding]:
    """What is started is stopped: at most one interval of a kind is open, and none is stopped that was not started."""
    open_lines: dict[str, int] = {}
    stops = {stop: start for start, stop in _PAIRS.items()}
    ended = case.last("run_stop")
    for entry in case.log.entries:
        if entry.key in _PAIRS:
            if entry.key in open_lines and entry.key != "init_start":
                text = f"{entry.key} again, without {_PAIRS[entry.key]} since line {open_lines[entry.key]}"
                yield Finding("intervals", WARNING, text, entry.line, LOGGING)
            open_lines[entry.key] = entry.line
        elif entry.key in stops and open_lines.pop(stops[entry.key], None) is None:
            yield Finding("intervals", WARNING, f"{entry.key} without {stops[entry.key]}", entry.line, LOGGING)
        wanted = "INTERVAL_START" if entry.key in _PAIRS else "INTERVAL_END" if entry.key in stops else None
        if wanted and entry.event not in (None, wanted):
            yield Finding("intervals", WARNING, f"{entry.key} is logged as {entry.event}", entry.line, LOGGING)
    for start, line in open_lines.items():
        # An evaluation that reaches the target may end the run from within its block (logging rules).
        if start in ("eval_start", "run_start") or (ended is None and case.run.stop_ms is None):
            yield Finding("intervals", WARNING, f"{start} has no {_PAIRS[start]}", line, LOGGING)


def status(case: Case) -> Iterator[Finding]:
    """The run says that it reached its target."""
    stop = case.last("run_stop") or case.last("run_final") or case.last("eval_result")
    if stop is None or case.run.status == "success":
        return
    said = f"status is {case.run.status!r}" if case.run.status else "there is no status"
    yield Finding("status", ERROR, f"the run did not succeed: {said}", stop.line, RESULTS, case.official("'run_stop'"))


def initialisation(case: Case) -> Iterator[Finding]:
    """What initialisation takes beyond its limit is run time."""
    if not _exceeds_init_limit(case):
        return
    init_s, limit_s = case.run.init_s, case.rules.init_limit_s[case.division]
    text = (f"initialisation took {init_s / 60:.1f} min, the limit is {limit_s / 60:g} min: the rest counts as run "
            "time, and the run stays valid")  # fmt: skip
    yield Finding("init", WARNING, text, None, RESULTS, CONTRARY if case.official(_INIT_TIME) == SAME else NOT_CHECKED)


def _exceeds_init_limit(case: Case) -> bool:
    limit_s, init_s = case.rules.init_limit_s.get(case.division), case.run.init_s
    return init_s is not None and limit_s is not None and init_s >= limit_s


def cache(case: Case) -> Iterator[Finding]:
    """Caches were cleared before the run. A line without a value, of a round whose rules want none, says that too."""
    cleared = [entry for entry in case.log.entries if entry.key == "cache_clear"]
    if cleared and not any(entry.value is None or str(entry.value).casefold() in ("true", "1") for entry in cleared):
        text = f"caches were not cleared: cache_clear is {cleared[-1].value!r:.80}"
        yield Finding("cache", ERROR if case.division == "closed" else WARNING, text, cleared[-1].line, STATE,
                      case.official("'cache_clear'"))  # fmt: skip
    start = case.first("run_start")
    late = [entry for entry in cleared if start and entry.line > start.line and entry.time_ms > start.time_ms]
    if cleared and len(late) == len(cleared):
        yield Finding("cache", WARNING, "caches were cleared after run_start", late[0].line, STATE)


def seed(case: Case) -> Iterator[Finding]:
    """A run of the closed division logs its seed, a whole number."""
    if case.division != "closed" or not case.rules.wants_seed:
        return
    if not case.run.seeds:
        yield Finding("seed", ERROR, "no seed is logged", None, RANDOM, SAME)  # of the official seed checker
    for value in case.run.seeds:
        if isinstance(value, bool) or not _is_whole(value):
            yield Finding("seed", ERROR, f"the seed {value!r:.80} is not a whole number", None, RANDOM, SAME)
            return


def _is_whole(value: object) -> bool:
    try:
        return int(value) == int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return False


def hyperparameters(case: Case) -> Iterator[Finding]:
    """Values that the rules fix and the official checker does not look at."""
    benchmark = case.benchmark
    if benchmark is None or case.division != "closed":
        return
    values = {entry.key: entry.value for entry in case.log.entries}
    source = case.rules.source if case.rules.round.is_own else HYPERPARAMETERS
    for key, wanted in benchmark.hyperparameters.items():
        if key not in values:
            if case.rules.round.is_own:
                yield Finding("hyperparameters", ERROR, f"{key} is not logged", None, source)
            continue
        try:
            good = restricted.expression(wanted)({"value": values[key], "log": values, "math": math})
        except Exception:
            good = False
        if not good:
            text = f"{key} is {values[key]!r:.80}; the rules have {wanted}"
            yield Finding("hyperparameters", ERROR, text, case.last(key).line, source)


def batch_size(case: Case) -> Iterator[Finding]:
    """A batch is of one sample or more."""
    logged = case.last("global_batch_size")
    if logged and case.run.batch_size is None:
        yield Finding("batch size", ERROR, f"global_batch_size is {str(logged.value)[:40]}", logged.line, LOGGING,
                      case.official("'global_batch_size'"))  # fmt: skip


def division(case: Case) -> Iterator[Finding]:
    """The benchmark and the division are ones of the round."""
    name = case.run.benchmark
    if case.run.division is not None and rounds.division(case.run.division) is None:
        yield Finding("division", ERROR, f"{case.run.division!r} is no division", None, LOGGING,
                      case.official("'submission_division'"))  # fmt: skip
    if name is not None and name not in case.rules.benchmarks:
        text = f"{name!r} is no benchmark of {case.rules.round.name}"
        yield Finding("benchmark", ERROR, text, None, "training_rules, Benchmarks",
                      case.official("'submission_benchmark'"))  # fmt: skip


CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    readable, official, required, division, order, clock, intervals, status, quality, schedule, initialisation, cache,
    seed, batch_size, hyperparameters,
)  # fmt: skip
