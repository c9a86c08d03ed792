"""Does perfsuite give the official answers? Whole published rounds, log by log, folder by folder, score by score.

`python bench/mlperf_agreement.py 5.1=TREE 4.0=TREE hpc-3.0=TREE` takes checkouts of published rounds (none is kept
here). Official: mlperf-logging's compliance checker on each log, its package checker on each folder of results, its
result summarizer on each organisation, the last two on a copy, as they write into the tree. The answers take hours;
`--answers FOLDER` keeps them there as <round>.json, and takes them from there where they are. Ours: `perfsuite verify`
and `perfsuite score` of the tree. Writes mlperf_agreement.json to the results of this machine. Exit code 1: an answer
differs.
"""

import argparse
import contextlib
import csv
import io
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from perfsuite import conditions, machine, record
from perfsuite.mlperf import rounds
from perfsuite.mlperf.rounds import Round

RESULTS = Path(__file__).parents[1] / "bench" / "results"
PERFSUITE = (sys.executable, "-P", "-c", "from perfsuite.cli import main; main()")
CRASH = "ends with a traceback"
MOST_SHOWN = 20


def official(tree: Path, played: Round) -> dict[str, dict[str, Any]]:
    """logs: path to True, False or CRASH; folders: path to the same; scores: path of a folder to what is printed."""
    logging.disable(logging.CRITICAL)
    said: dict[str, dict[str, Any]] = {"logs": {}, "folders": {}, "scores": {}}
    with tempfile.TemporaryDirectory() as scratch, quiet():
        copy = Path(scratch, "tree")
        shutil.copytree(tree, copy, symlinks=True)
        for org in sorted(path for path in copy.iterdir() if (path / "results").is_dir()):
            for log in sorted(org.rglob("result_*.txt")):
                if log.is_file():
                    said["logs"][str(log.relative_to(copy))] = compliance(log, played)
            for folder in folders(org, played):
                said["folders"][str(folder.relative_to(copy))] = package(org, folder, Path(scratch), played)
            for place, score in summary(org, Path(scratch), played):
                said["scores"][f"{org.name}/results/{place}"] = score
    return said


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The official tools print a lot."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def compliance(log: Path, played: Round) -> bool | str:
    """The compliance checker's answer on one log."""
    from mlperf_logging.compliance_checker import mlp_compliance

    mlp_compliance.enqueued_configs.clear()
    checker = mlp_compliance.make_checker(played.usage, played.ruleset, False, False)
    try:
        return bool(mlp_compliance.main(str(log), f"{played.usage}_{played.ruleset}/common.yaml", checker)[0])
    except Exception:
        return CRASH


def folders(org: Path, played: Round) -> list[Path]:
    """Where the official tools look for results."""
    levels = "*/*/*" if played.usage == "hpc" else "*/*"
    return sorted(path for path in (org / "results").glob(levels) if path.is_dir())


def package(org: Path, folder: Path, scratch: Path, played: Round) -> bool | str:
    """The package checker's answer on one folder, which is given to it as a submission of its own."""
    from mlperf_logging.package_checker import package_checker

    root = Path(tempfile.mkdtemp(dir=scratch), org.name)
    place = root / folder.relative_to(org)
    place.mkdir(parents=True)
    for path in folder.iterdir():
        (place / path.name).symlink_to(path)
    params = folder.parent / "package_checker_params"
    if params.exists():
        (place.parent / params.name).symlink_to(params)
    if (org / "systems").is_dir():
        (root / "systems").symlink_to(org / "systems")
    flags = dict.fromkeys(("quiet", "werror", "rcp_bypass", "rcp_bert_train_samples", "seed_checker_bypass"), False)
    try:
        return bool(package_checker.check_training_result_files(
            str(root), played.usage, played.ruleset, *flags.values()))  # fmt: skip
    except Exception:
        return CRASH


def summary(org: Path, scratch: Path, played: Round) -> Iterator[tuple[str, str]]:
    """(system/benchmark, score as printed) of the summarizer's first call on an organisation; none where it crashes."""
    from mlperf_logging.result_summarizer import result_summarizer

    out = Path(tempfile.mkdtemp(dir=scratch), "summary.csv")
    given, sys.argv = sys.argv, ["x", str(org), played.usage, played.ruleset, "--csv", str(out)]
    try:
        result_summarizer.main()
    except (Exception, SystemExit):
        return
    finally:
        sys.argv = given
    head: list[str] = []
    for row in csv.reader(out.open(newline="")) if out.exists() else ():
        if row and row[0] == "division":
            head = row
            continue
        told = dict(zip(head, row, strict=True))
        system = told["details_url"].rpartition("/systems/")[2].removesuffix(".json")
        for name in [name for name in told if name.partition(":")[0] in rounds.NUM_RUNS and told[name]]:
            yield f"{system}/{name}", told[name]


def ours(verb: str, tree: Path, name: str) -> list[dict[str, Any]]:
    """What our command says of each folder."""
    done = subprocess.run([*PERFSUITE, verb, str(tree), "--round", name, "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"perfsuite {verb} {tree} ended with exit code {done.returncode}")
    return json.loads(done.stdout)["results"]


def compare(tree: Path, name: str, theirs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How many answers there are, and how many differ."""
    differ: list[str] = []
    verified, scored = ours("verify", tree, name), ours("score", tree, name)
    compared = {"logs": 0, "folders": 0, "scores": 0}

    def same(kind: str, place: str, mine: Any) -> None:
        wanted = theirs[kind].get(place)
        if wanted is None and mine is None:
            return
        compared[kind] += 1
        if mine != wanted:
            differ.append(f"{place}: ours {mine}, official {wanted}")

    for one in verified:
        place = str(Path(one["path"]).relative_to(tree))
        for log in one["logs"]:
            if f"{place}/{log['log']}" in theirs["logs"]:
                same("logs", f"{place}/{log['log']}", CRASH if log["official_crashed"] else log["official_valid"])
        if place in theirs["folders"]:
            said = one["official"]
            # The system description is looked at by another checker, which is not asked here.
            accepted = said["accepted"] or (said["system_right"] is False and len(said["why"]) == 1)
            same("folders", place, CRASH if said["crashed"] else accepted)
    # Where its traceback ends at one folder, it prints nothing of the organisation.
    silent = {one["organisation"] for one in scored if one["official"]["crashed"]}
    for one in scored:
        said, place = one["official"], Path(one["path"]).relative_to(tree)
        if str(place) in theirs["folders"] and not said["throughput"]:
            org, _, system, *_ = place.parts
            printed = said["score_min"] is not None and org not in silent
            benchmark = {"mask": "maskrcnn"}.get(place.name, place.name)
            same("scores", f"{org}/results/{system}/{benchmark}", repr(said["score_min"]) if printed else None)
    return {
        "round": rounds.parse(name).name,
        "logs": compared["logs"],
        "folders": compared["folders"],
        "scores": compared["scores"],
        "differ": len(differ),
        "differences": differ[:MOST_SHOWN],
        "results": len(verified),
        "valid_by_the_rules_text": sum(one["valid"] for one in verified),
        "accepted_officially": sum(answer is True for answer in theirs["folders"].values()),
    }


def main() -> int:
    """Compare every round that is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="+", metavar="ROUND=TREE")
    parser.add_argument("--answers", type=Path)
    args = parser.parse_args()
    if args.answers:
        args.answers.mkdir(parents=True, exist_ok=True)
    found = []
    for given in args.trees:
        name, _, tree = given.partition("=")
        kept = args.answers and args.answers / f"{name}.json"
        if kept and kept.exists():
            theirs = json.loads(kept.read_text())
        else:
            theirs = official(Path(tree), rounds.parse(name))
            if kept:
                record.write_json(kept, theirs)
        found.append(compare(Path(tree), name, theirs))
        print(json.dumps(found[-1], indent=1), flush=True)
    result = {
        "schema": 1,
        "command": "python bench/mlperf_agreement.py " + " ".join(f"{given.partition('=')[0]}=TREE"
                                                                 for given in args.trees),
        "created": conditions.now(),
        "commit": conditions.commit(),
        "machine": conditions.machine_part(),
        "rounds": found,
    }  # fmt: skip
    path = RESULTS / machine.machine_name() / "mlperf_agreement.json"
    record.write_json(path, result)
    print(path)
    return int(any(one["differ"] for one in found))


if __name__ == "__main__":
    sys.exit(main())
