"""From records to a submission tree: what is in it, what both checkers will say of it, and where it goes.

    <org>/systems/<system>.json
    <org>/benchmarks/<benchmark>/implementations/<implementation>/   workload file, kernel files, README.md
    <org>/benchmarks/<benchmark>/<system>/                           description, README.md, scripts, UNVERIFIED.txt
    <org>/results/<system>/<benchmark>/result_<i>.txt

The tree is made in memory, checked in a temporary folder, and only then written. Source: submission rules, "Submission
structure".
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from perfsuite import machine, record
from perfsuite.mlperf import division as divisions
from perfsuite.mlperf import folder_score, results, rulebook, submission_texts, system_description, verify
from perfsuite.mlperf.rounds import Round
from perfsuite.record import Record
from perfsuite.workloads import registry

Tree = dict[str, bytes]
"""Path below <org> to content."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_LABELS = ("submission_org", "submission_platform", "submission_division")
_LARGEST_BYTES = 50 << 20
"""The official repository checker's limit for one file."""


@dataclass(frozen=True)
class Entry:
    """One record as a result of one benchmark."""

    made: Record
    benchmark: str
    implementation: str
    logs: tuple[bytes, ...]
    sources: dict[str, bytes]
    """Files of the implementation by name."""


@dataclass(frozen=True)
class Submission:
    """A tree that is not written yet, with what is said of it."""

    org: str
    system: str
    division: str
    entries: list[Entry]
    tree: Tree
    described: dict[str, str]
    said: dict[str, list[dict[str, Any]]]
    """For "closed" and "open", what both checkers say of each benchmark."""


def entry(folder: Path, played: Round) -> Entry:
    """One record. Raises ValueError, in one line, for one that cannot be packaged."""
    made = record.load(folder)
    if made.kind != "run":
        raise ValueError(f"{folder} holds an accounted loop, not a run: it has no MLPerf logs")
    clean = [p for p in made.passes if p["kind"] == "clean"]
    if len(clean) < made.num_runs:
        raise ValueError(f"{folder} has {len(clean)} of its {made.num_runs} runs: `perfsuite run --resume {made.id}`")
    logs = tuple(_content(folder / str(p.get("log") or f"result_{p['index']}.txt")) for p in clean)
    benchmark = _benchmark(logs[0], folder)
    if benchmark not in rulebook.of(played).benchmarks:
        known = ", ".join(sorted(rulebook.of(played).benchmarks))
        raise ValueError(f"{folder}: {benchmark} is no benchmark of {played.name}; it has {known}")
    implementation = "-".join([made.workload, made.scale, made.ops, *(
        f"{op}-{Path(impl).stem}" for op, impl in sorted(made.use.items()))])  # fmt: skip
    return Entry(made, benchmark, implementation, logs, _sources(made, folder))


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; a record has the log of each clean run") from error
    if len(data) > _LARGEST_BYTES:
        raise ValueError(f"{path} has {len(data) >> 20} MiB; the official repository checker allows 50")
    return data


def _benchmark(log: bytes, folder: Path) -> str:
    for line in log.splitlines():
        _, token, body = line.partition(b":::MLLOG ")
        if token and b"submission_benchmark" in body:
            return str(json.loads(body)["value"])
    raise ValueError(f"{folder}: its log names no benchmark")


def _sources(made: Record, folder: Path) -> dict[str, bytes]:
    """The workload's file, and kernels of the user's own as they were when the runs were made."""
    path = Path(made.workload_path) if made.workload_path else registry.data_folder().parent / f"{made.workload}.py"
    kernels = made.build.get("kernel_files", {})
    found = {}
    for one in (path, *map(Path, kernels)):
        if not one.is_file():
            raise ValueError(f"{folder}: {one}, which the runs used, is gone: a submission shows its code")
        found[one.name] = one.read_bytes()
    for one, digest in kernels.items():
        if hashlib.sha256(found[Path(one).name]).hexdigest() != digest:
            raise ValueError(f"{folder}: {one} has changed since the runs were made: restore it, or run again")
    return found


def prepare(
    folders: Sequence[Path], played: Round, *, org: str, system: str | None, told: dict[str, str], asked: str | None
) -> Submission:
    """Make the tree and let both checkers look at it, in both divisions. Writes nothing that stays.

    asked: the division that the user wants, or None: closed where the runs are closed and both checkers accept them.
    Raises ValueError, in one line, for records that cannot be packaged together, and for closed where it may not be.
    """
    for what, name in (("--org", org), ("--system", system)):
        if name is not None and not _NAME.fullmatch(name):
            raise ValueError(f"{what} {name!r}: give letters, digits and any of - _ . +, as it names a folder")
    system_description.refuse(told)
    entries = [entry(folder, played) for folder in folders]
    for i, one in enumerate(entries):
        for other, where in zip(entries[:i], folders, strict=False):
            if one.benchmark == other.benchmark:
                raise ValueError(f"{folders[i]} and {where} are both of {one.benchmark}: give one record a benchmark")
    first = entries[0].made
    system = system or default_system(first)
    described = {}
    for one, folder in zip(entries, folders, strict=True):
        mine = system_description.describe(one.made.machine, one.made.device, submitter=org, division="open",
                                           system=system, told=told)  # fmt: skip
        other = next((field for field in mine if described and mine[field] != described[field]), None)
        if other:
            raise ValueError(f"{folder} and {folders[0]} are not of one system: {other} is {mine[other]!r} and "
                             f"{described[other]!r}")  # fmt: skip
        described = mine
    said, trees = {}, {}
    for division in ("closed", "open"):
        said[division], trees[division] = _look(entries, played, org, system, division, described)
    division = asked or ("closed" if _closed_refused(entries, said["closed"]) is None else "open")
    refused = _closed_refused(entries, said["closed"])
    if division == "closed" and refused:
        raise ValueError(f"--division closed: {refused}; leave it out to package the runs in the open division")
    return Submission(org, system, division, entries, trees[division], described | {"division": division}, said)


def default_system(made: Record) -> str:
    """The machine's name; with what the runs were on where it has accelerators that they did not use."""
    name = machine.machine_name(made.machine["fingerprint"])
    return f"{name}-cpu" if made.device == "cpu" and made.machine["fingerprint"]["gpus"] else name


def _closed_refused(entries: list[Entry], said: list[dict[str, Any]]) -> str | None:
    """Why the runs are no closed submission; None where they are one."""
    for one, verdict in zip(entries, said, strict=True):
        if one.made.division != "closed":
            return f"{one.made.id} was run in the open division"
        if not verdict["valid"]:
            return f"{one.benchmark}: not valid by the rules text: {verdict['errors'][0]}"
        if not verdict["official"]["accepted"]:
            return f"{one.benchmark}: the official package checker refuses it: {verdict['official']['why'][0]}"
    return None


def _look(entries: list[Entry], played: Round, org: str, system: str, division: str,
          described: dict[str, str]) -> tuple[list[dict[str, Any]], Tree]:  # fmt: skip
    """(what both checkers say of each entry in this division, the whole tree with its scores)."""
    tree: Tree = {f"systems/{system}.json": _json(described | {"division": division})}
    for one in entries:
        for i, log in enumerate(one.logs):
            labels = dict(zip(_LABELS, (org, system, division), strict=True))
            tree[f"results/{system}/{one.benchmark}/result_{i}.txt"] = relabelled(log, labels)
    said = []
    with TemporaryDirectory() as scratch:
        write(tree, Path(scratch, org))
        by_name = {folder.benchmark: folder for folder in results.find(Path(scratch, org))}
        for one in entries:
            folder = by_name[one.benchmark]
            about = {"benchmark": one.benchmark, "system": system, "implementation": one.implementation,
                     "division": division, "round": played.name, "logs": one.logs, "quality": _quality(one.made),
                     "score_min": folder_score.score(folder, played)["score_min"]}  # fmt: skip
            shown = {name: about[name] for name in ("benchmark", "score_min", "quality")}
            said.append(_verdict(verify.verify(folder, played)) | shown | {"record": one.made.id})
            tree |= _beside(one, about)
    return said, tree


def _quality(made: Record) -> str | None:
    """What an open run reached on the closed metric, or why that is not known."""
    found = divisions.closed_quality(vars(made))
    if found is None or found["why"]:
        return found and f"not known: {found['why']}"
    return f"{', '.join(f'{q:.6g}' for q in found['qualities'] if q is not None)} ({found['metric']})"


def _beside(one: Entry, about: dict[str, Any]) -> Tree:
    """The files of one entry besides its logs."""
    implementation = f"benchmarks/{one.benchmark}/implementations/{one.implementation}"
    here = f"benchmarks/{one.benchmark}/{about['system']}"
    texts = submission_texts
    found = {
        f"{implementation}/README.md": texts.implementation_readme(one.made, one.implementation),
        f"{here}/{about['system']}_{one.implementation}.json": texts.entry_json(one.made, about),
        f"{here}/README.md": texts.system_readme(one.made, about),
        f"{here}/setup.sh": texts.setup_script(one.made),
        f"{here}/init_datasets.sh": texts.data_script(one.made),
        f"{here}/run_and_time.sh": texts.run_script(one.made, one.implementation),
        f"{here}/UNVERIFIED.txt": texts.footnote(about),
    }
    files = {f"{implementation}/{name}": data for name, data in one.sources.items()}
    return files | {name: text.encode() for name, text in found.items()}


def relabelled(log: bytes, labels: dict[str, str]) -> bytes:
    """A log of ours whose lines of these keys have other values; every other byte as it was."""
    lines = []
    for line in log.splitlines(keepends=True):
        before, token, body = line.partition(b":::MLLOG ")
        if token and any(f'"{key}"'.encode() in body for key in labels):
            event = json.loads(body)
            if event["key"] in labels:
                event["value"] = labels[event["key"]]
                line = before + token + json.dumps(event).encode() + b"\n"
        lines.append(line)
    return b"".join(lines)


def _verdict(found: dict[str, Any]) -> dict[str, Any]:
    """What both checkers say of a folder, in short."""
    official = found["official"]
    passed_over = official["passed_over"]  # without an error, but that is no acceptance
    why = [*official["why"], *([f"it passes the folder over: {passed_over}"] if passed_over else [])]
    return {"valid": found["valid"], "errors": verify.errors(found), "official": {"accepted": not why, "why": why}}


def refuse_conflicts(submission: Submission, root: Path) -> None:
    """Raise ValueError, in one line, where the tree at `root` has one of these runs, or would lose something."""
    identities = {_identity(log): one.made.id for one in submission.entries for log in one.logs}
    for path in sorted((root / "results").rglob("result_*.txt")):
        same = identities.get(_identity(path.read_bytes()))
        if same:
            raise ValueError(f"{same} is in the tree already: {path} is one of its logs")
    for one in submission.entries:
        if (root / "results" / submission.system / one.benchmark).exists():
            raise ValueError(f"{root} has a result of {one.benchmark} on {submission.system} already: give --system")
    for name, data in submission.tree.items():
        path = root / name
        if path.exists() and (not path.is_file() or path.read_bytes() != data):
            hint = _difference(path, data) if name.startswith("systems/") else "give another --out"
            raise ValueError(f"{path} is there and would be overwritten: {hint}")


def _difference(path: Path, data: bytes) -> str:
    try:
        there, mine = json.loads(path.read_text(encoding="utf-8")), json.loads(data)
        field = next(field for field in mine if there.get(field) != mine[field])
        return f"{field} is {there.get(field)!r} there and {mine[field]!r} here; give --system or --set"
    except (ValueError, AttributeError, StopIteration):
        return "give --system"


def _identity(log: bytes) -> str:
    """Of a run, whatever its submission is called."""
    lines = [line for line in log.splitlines() if b'"key": "submission_' not in line]
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def write(tree: Tree, root: Path) -> None:
    """Write the files that are not there yet; scripts may be executed. Raises RecordError where that cannot be done."""
    for name, data in tree.items():
        path = root / name
        if path.exists():
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise record.RecordError(f"cannot write {path.parent}: {error.strerror}; give another --out") from error
        record.write_atomically(path, data)
        if path.suffix == ".sh":
            path.chmod(0o755)


def _json(described: dict[str, str]) -> bytes:
    return (json.dumps(described, indent=2) + "\n").encode()
