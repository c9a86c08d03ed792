"""Whether two records may be compared at all, and what else differs between them. Pure functions of the records."""

from collections.abc import Mapping, Sequence
from typing import Any

Records = Sequence[Mapping[str, Any]]

_TASK = {
    "workload": lambda r: r["workload"],
    "scale": lambda r: r["scale"],
    "device": lambda r: r["device"],
    "target": lambda r: (r["target"] or {}).get("value"),
}
MACHINE = {
    "processor": lambda fp: fp["cpu"]["model"] or fp["cpu"]["architecture"],
    "processors available": lambda fp: fp["cpu"]["logical_available"],
    "processor quota": lambda fp: fp["cpu"]["quota_cpus"],
    "memory": lambda fp: fp["memory"]["total_bytes"],
    "GPUs": lambda fp: [gpu["name"] for gpu in fp["gpus"] or []],
    "GPU driver": lambda fp: fp["driver"],
    "power limit of the GPUs, W": lambda fp: [gpu["power_limit_w"] for gpu in fp["gpus"] or []],
}
_ASIDE = {
    "commit": lambda r: r["commit"],
    "perfsuite": lambda r: r["perfsuite_version"],
    "--ops": lambda r: r["ops"],
    "--use": lambda r: r["use"],
    "division": lambda r: r["division"],
    "torch": lambda r: r["machine"]["fingerprint"]["torch"],
    "Python": lambda r: r["machine"]["fingerprint"]["python"]["version"],
}


def obstacles(a: Records, b: Records) -> list[str]:
    """Why these cannot be compared, a sentence each: another task, another machine, or none of ours to compare."""
    found = []
    for what, of in _TASK.items():
        found += _unequal(what, a, b, of)
    for what, of in MACHINE.items():
        found += _unequal(what, a, b, lambda r, of=of: of(r["machine"]["fingerprint"]))
    for side, records in (("A", a), ("B", b)):
        for record in records:
            if record["kind"] != "run":
                found.append(f"{side} ({record['id']}) is an accounted loop, which has no target to reach")
    return found


def differences(a: Records, b: Records) -> list[str]:
    """What else differs: what was changed on purpose, and what may explain a verdict."""
    found = []
    for what, of in _ASIDE.items():
        found += _unequal(what, a, b, of)
    for key in sorted(set(a[0]["config"]) & set(b[0]["config"])):
        if key not in ("target", "schedule", "data_files"):
            found += _unequal(f"hyperparameter {key}", a, b, lambda r, key=key: r["config"].get(key))
    return found


def _unequal(what: str, a: Records, b: Records, of: Any) -> list[str]:
    values = [{str(of(record)): None for record in side} for side in (a, b)]
    if list(values[0]) == list(values[1]) and len(values[0]) == 1:
        return []
    return [f"{what}: A {_short(values[0])}, B {_short(values[1])}"]


def _short(values: Mapping[str, None]) -> str:
    return " and ".join(value if len(value) <= 60 else value[:57] + "..." for value in values)
