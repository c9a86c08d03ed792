"""perfsuite package: trees that the official checkers accept, system descriptions without guesses, nothing lost."""

import hashlib
import importlib.util
import json
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from perfsuite.cli import cli
from perfsuite.mlperf import package, results, rounds, system_description, verify
from perfsuite.mlperf.score import FOOTNOTE
from perfsuite.mlperf.system_fields import FIELDS

pytest.importorskip("mlperf_logging")


def neighbour(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


logs, records = neighbour("mlperf_logs"), neighbour("mlperf_records")


def big(folder, *, division="closed", count=10, first_seed=0, **changed):
    """A record of a whole closed result of llama31_8b, as a run of scale mlperf would leave it."""
    made = records.new()
    made.scale, made.division = "mlperf", division
    runs = [logs.run(seed=first_seed + i, minutes=60 + i, division=division, **changed) for i in range(count)]
    texts = [logs.text(events) for events in runs]
    return records.save(folder, made, texts, quality=3.29)


def tiny(folder, count=10, **request):
    made = records.new(**request)
    folder.parent.mkdir(parents=True, exist_ok=True)
    texts = [records.own_log(folder.parent, made, evals=9, seed=i) for i in range(count)]
    return records.save(folder, made, texts, quality=made.target["value"])


def invoke(*arguments):
    return CliRunner().invoke(cli, ["package", *map(str, arguments)], standalone_mode=False)


def packaged(tmp_path, *folders, round_="6.1", code=0, more=()):
    out = tmp_path / "out"
    done = invoke(*folders, "--round", round_, "--org", "Acme", "--out", out, "--json", *more)
    assert done.exception is None, done.exception
    said = json.loads(done.stdout)
    assert done.return_value == code and said["tree"] == str(out / "Acme")
    return out / "Acme", said


def repository_check(root, caplog):
    from mlperf_logging.repo_checker import repo_checker

    with caplog.at_level(logging.INFO):
        repo_checker.run_checks(str(root))
    return "ALL CHECKS PASSED." in caplog.text


def test_a_closed_result_is_accepted_by_all_checkers(tmp_path, caplog):
    root, said = packaged(tmp_path, big(tmp_path / "0001-x"))
    assert said["division"] == "closed" and said["valid"]
    from mlperf_logging.system_desc_checker import system_desc_checker

    assert records.package_check(root, "6.1.0") == (True, [])
    assert repository_check(root, caplog)
    (description,) = (root / "systems").iterdir()
    assert system_desc_checker.check_system_desc(str(description), "training", "6.1.0")[0]
    (folder,) = results.find(root)
    assert verify.verify(folder, rounds.parse("6.1"))["valid"]
    system = said["system"]
    assert (description.stem, folder.system, folder.organisation) == (system, system, "Acme")
    here = root / "benchmarks" / "llama31_8b" / system
    assert {path.name for path in here.iterdir()} == {
        f"{system}_llama-mlperf-eager.json", "README.md", "setup.sh", "init_datasets.sh", "run_and_time.sh",
        "UNVERIFIED.txt"}  # fmt: skip
    implementation = root / "benchmarks" / "llama31_8b" / "implementations" / "llama-mlperf-eager"
    assert {path.name for path in implementation.iterdir()} == {"llama.py", "README.md"}
    assert "perfsuite run llama" in (implementation / "README.md").read_text()
    assert all(path.stat().st_mode & 0o111 for path in here.glob("*.sh"))
    note = (here / "UNVERIFIED.txt").read_text()
    assert FOOTNOTE in note and "(unverified)" in note and said["footnote"] == FOOTNOTE


def test_logs_are_as_they_were_but_for_three_labels(tmp_path):
    folder = big(tmp_path / "0001-x")
    root, _ = packaged(tmp_path, folder, more=["--division", "open"])
    before = (folder / "result_3.txt").read_text().splitlines()
    after = next(root.rglob("result_3.txt")).read_text().splitlines()
    changed = [json.loads(b.partition("LOG ")[2]) for a, b in zip(before, after, strict=True) if a != b]
    labels = {event["key"]: event["value"] for event in changed}
    assert labels.keys() == {"submission_division", "submission_platform"}  # the organisation is Acme in these logs
    assert labels["submission_division"] == "open"


def test_a_tiny_record_goes_to_the_open_division_and_both_checkers_answers_come_first(tmp_path):
    """The official rule for the open division wants a log perplexity below 1, so it refuses what the rules allow."""
    folder = tiny(tmp_path / "runs" / "0001-x", division="closed")
    out = tmp_path / "out"
    done = invoke(folder, "--round", "6.1", "--org", "Acme", "--out", out)
    text = " ".join(done.output.split())
    before, _, after = text.partition("Packaged in the open division")
    assert done.return_value == 0 and after and FOOTNOTE in after and "(unverified)" in after
    for line in ("closed division: llama31_8b, perfsuite verify: REFUSES it",
                 "10 of 10 logs do not comply: CHECK for 'max_sequence_length' failed",
                 "Missing RCP, please submit RCP with BS = 8",
                 "open division: llama31_8b, perfsuite verify: accepts it",
                 "official package checker: REFUSES it",
                 "10 of 10 logs do not comply: Failed checks for eval_accuracy"):  # fmt: skip
        assert line in before, line
    accepted, errors = records.package_check(out / "Acme", "6.1.0")
    assert not accepted and errors == [" 10 files do not comply, directory cannot be accepted"]
    again = invoke(folder, "--round", "6.1", "--org", "Acme", "--out", tmp_path / "other", "--division", "closed")
    assert "--division closed: llama31_8b: not valid by the rules text" in str(again.exception)
    assert "\n" not in str(again.exception) and not (tmp_path / "other").exists()


def test_an_open_round_that_both_accept(tmp_path):
    root, said = packaged(tmp_path, tiny(tmp_path / "runs" / "0001-x", 5, workload="resnet"), round_="4.0")
    assert said["division"] == "open" and said["checkers"]["open"][0]["official"]["accepted"]
    assert records.package_check(root, "4.0.0") == (True, [])
    assert "top-1 accuracy" in next(root.rglob("UNVERIFIED.txt")).read_text()


@pytest.mark.parametrize(
    ("changed", "count"),
    [({}, 10), ({}, 9), ({"opt_adamw_beta_2": 0.999}, 10), ({"qualities": [3.2]}, 10), ({"status": "aborted"}, 10)],
    ids=["good", "too few", "beta", "too fast", "aborted"],
)
@pytest.mark.parametrize("division", ["closed", "open"])
def test_what_the_official_checker_will_say_is_what_it_says(tmp_path, changed, count, division):
    made = package.prepare([big(tmp_path / "0001-x", count=count, **changed)], rounds.parse("6.1"), org="Acme",
                           system="box", told={}, asked=None)  # fmt: skip
    entries, described = made.entries, made.described
    _, tree = package._look(entries, rounds.parse("6.1"), "Acme", "box", division, described)
    package.write(tree, tmp_path / "Acme")
    accepted, errors = records.package_check(tmp_path / "Acme", "6.1.0")
    (said,) = made.said[division]
    assert said["official"]["accepted"] == accepted, (said, errors)
    assert bool(said["official"]["why"]) == bool(errors)


def test_exit_code_1_where_our_own_verify_does_not_accept_it(tmp_path):
    _, said = packaged(tmp_path, tiny(tmp_path / "runs" / "0001-x", 5), code=1)
    assert not said["valid"] and "5 runs; a result of llama31_8b has 10" in said["checkers"]["open"][0]["errors"]


def test_an_existing_tree_is_added_to_and_never_overwritten(tmp_path):
    first = tiny(tmp_path / "runs" / "0001-x", 5, workload="resnet")
    root, _ = packaged(tmp_path, first, round_="4.0")
    before = logs.contents(root)
    arguments = ["--round", "4.0", "--org", "Acme", "--out", tmp_path / "out"]
    for more, says in (
        ([first, *arguments], "0001-x is in the tree already"),
        ([first, *arguments, "--system", "other"], "0001-x is in the tree already"),
    ):
        assert says in str(invoke(*more).exception)
    changed = tiny(tmp_path / "runs" / "0002-x", 5, workload="resnet", num_runs=6)
    for path in changed.glob("result_*.txt"):
        path.write_text(path.read_text().replace('"seed", "value": ', '"seed", "value": 77'))
    assert "has a result of resnet on" in str(invoke(changed, *arguments).exception)
    done = invoke(changed, *arguments, "--system", "other", "--set", "cooling=air")
    assert done.return_value == 0, done.exception
    after = logs.contents(root)
    assert before.items() <= after.items() and "systems/other.json" in after
    third = tiny(tmp_path / "runs" / "0003-x", 5, workload="resnet", num_runs=7)
    for path in third.glob("result_*.txt"):
        path.write_text(path.read_text().replace('"seed", "value": ', '"seed", "value": 88').replace("resnet", "ssd"))
    refused = invoke(third, *arguments, "--system", "other")
    assert "systems/other.json is there and would be overwritten: cooling is 'air' there" in str(refused.exception)
    assert logs.contents(root) == after


def test_several_records_of_one_machine(tmp_path):
    """Two benchmarks of a round in one tree; a second machine is refused."""
    one = tiny(tmp_path / "runs" / "0001-x", 5, workload="resnet")
    other = records.new()
    texts = [logs.text(logs.run(seed=i, benchmark="bert", division="open")) for i in range(10)]
    two = records.save(tmp_path / "runs" / "0002-x", other, texts)
    root, said = packaged(tmp_path, one, two, round_="4.0", code=1)  # the second one's logs lack bert's keys
    assert [entry["valid"] for entry in said["checkers"]["open"]] == [True, False]
    assert [entry["benchmark"] for entry in said["checkers"]["open"]] == ["resnet", "bert"]
    assert {folder.benchmark for folder in results.find(root)} == {"resnet", "bert"}
    record = json.loads((two / "record.json").read_text())
    record["machine"]["fingerprint"]["cpu"]["model"] = "Another CPU"
    (two / "record.json").write_text(json.dumps(record))
    refused = invoke(one, two, "--round", "4.0", "--org", "A", "--out", tmp_path / "x")
    assert "are not of one system: host_processor_model_name is 'Another CPU'" in str(refused.exception)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--set", "colour=red"], "no field of that name"),
        (["--set", "cooler=red"], "did you mean cooling?"),
        (["--set", "division=closed"], "--division says it"),
        (["--set", "status=sold"], "it is one of Available on-premise"),
        (["--set", "cooling"], "is not FIELD=VALUE"),
        (["--set", "cooling=air", "--set", "cooling=water"], "cooling is 'air' and 'water'"),
        (["--org", "A B"], "names a folder"),
        (["--system", ".box"], "names a folder"),
        (["--round", "9.9"], "no rules of training 9.9.0"),
        (["--round", "4.0"], "llama31_8b is no benchmark of training 4.0.0"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, more, says):
    folder = big(tmp_path / "0001-x")
    done = invoke(folder, "--round", "6.1", "--org", "Acme", "--out", tmp_path / "out", *more)
    assert says in str(done.exception) and "\n" not in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_records_that_cannot_be_packaged(tmp_path):
    folder = big(tmp_path / "0001-x")
    arguments = ["--round", "6.1", "--org", "Acme", "--out", tmp_path / "out"]
    assert "is given twice" in str(invoke(folder, folder, *arguments).exception)
    other = big(tmp_path / "0002-x", first_seed=50)
    assert "are both of llama31_8b" in str(invoke(folder, other, *arguments).exception)
    record = json.loads((other / "record.json").read_text())
    record["passes"] = record["passes"][:4]
    (other / "record.json").write_text(json.dumps(record))
    assert "has 4 of its 10 runs: `perfsuite run --resume" in str(invoke(other, *arguments).exception)
    (folder / "result_2.txt").unlink()
    assert "cannot read" in str(invoke(folder, *arguments).exception)
    assert "no record '12'" in str(invoke("12", *arguments).exception)


def test_the_users_own_files_are_in_the_tree_as_they_were(tmp_path):
    kernel, workload = tmp_path / "my_norm.py", tmp_path / "mine.py"
    kernel.write_text("x = 1\n")
    workload.write_text("y = 1\n")
    made = records.new()
    made.workload_path, made.use = str(workload), {"rms_norm": str(kernel)}
    made.build = {"kernel_files": {str(kernel): hashlib.sha256(b"x = 1\n").hexdigest()}}
    made.command = ["perfsuite", "run", str(workload), "--use", f"rms_norm={kernel}"]
    texts = [logs.text(logs.run(seed=i, division="open")) for i in range(10)]
    folder = records.save(tmp_path / "0001-x", made, texts)
    root, said = packaged(tmp_path, folder)
    name = "llama-tiny-eager-rms_norm-my_norm"
    implementation = root / "benchmarks/llama31_8b/implementations" / name
    assert (implementation / "mine.py").read_text() == "y = 1\n" and (implementation / "my_norm.py").is_file()
    script = next(root.rglob("run_and_time.sh")).read_text()
    there = f"../implementations/{name}"
    assert f"perfsuite run {there}/mine.py --use rms_norm={there}/my_norm.py" in script
    assert "not known: there are no rules of a closed division" in said["checkers"]["open"][0]["quality"]
    kernel.write_text("x = 2\n")
    refused = invoke(folder, "--round", "6.1", "--org", "B", "--out", tmp_path / "out")
    assert "my_norm.py has changed since the runs were made" in str(refused.exception)
    kernel.unlink()
    assert "is gone" in str(invoke(folder, "--round", "6.1", "--org", "B", "--out", tmp_path / "out").exception)


def described(device="cpu", told=None, **changed):
    machine = json.loads(json.dumps(records.new().machine))
    for path, value in changed.items():
        *inner, last = path.split("__")
        where = machine["fingerprint"]
        for part in inner:
            where = where[part]
        where[last] = value
    return system_description.describe(machine, device, submitter="Acme", division="open", system="box",
                                       told=told or {})  # fmt: skip


def test_a_description_guesses_nothing():
    found = described(
        cpu__model=None, cpu__model_reason="no model name", memory__total_bytes=None,
        memory__total_bytes_reason="hidden", frequency__max_hz=None, frequency__governor_reason="no cpufreq",
        caches=[], caches_reason="no cache", cpu__physical_available=None,
        cpu__physical_available_reason="no topology", torch=None, torch_reason="no torch",
    )  # fmt: skip
    assert tuple(found) == FIELDS and all(isinstance(value, str) for value in found.values())
    for field, reason in {
        "host_processor_model_name": "no model name", "host_memory_capacity": "hidden", "framework": "no torch",
        "host_processor_frequency": "no cpufreq", "host_processor_caches": "no cache",
        "host_processor_core_count": "no topology", "cooling": "records do not hold it",
    }.items():  # fmt: skip
        assert found[field] == f"not known: {reason}"
    assert found["accelerators_per_node"] == "0" and found["accelerator_model_name"] == "none: the run was on the CPU"
    assert "cooling" in system_description.unknown(found)
    assert described(told={"cooling": "air"})["cooling"] == "air"


def test_a_description_says_what_is_known():
    gpu = {"name": "NVIDIA X", "memory_bytes": 80 * 2**30, "power_limit_w": 700.0, "power_limit_w_reason": None}
    cache = {"level": 2, "size_bytes": 2**20, "line_bytes": 64, "shared_by": 1, "instances": 8}
    found = described("cuda", gpus=[gpu, gpu], driver="580.1", cpu__model="AMD X", cpu__physical_available=8,
                      cpu__logical_available=16, cpu__logical_total=16, frequency__max_hz=3_700_000_000,
                      memory__total_bytes=64 * 2**30, caches=[cache])  # fmt: skip
    wanted = {
        "host_processor_model_name": "AMD X", "host_processor_core_count": "8, of all processors together",
        "host_processor_vcpu_count": "16, of all processors together", "host_processor_frequency": "3.70 GHz at most",
        "host_processor_caches": "L2: 1024 KiB (8 instances)", "host_memory_capacity": "64.0 GiB",
        "accelerators_per_node": "1", "accelerator_model_name": "NVIDIA X", "accelerator_memory_capacity": "80.0 GiB",
        "status": "Research, Development, or Internal (RDI)", "number_of_nodes": "1", "submitter": "Acme",
    }  # fmt: skip
    assert {field: found[field] for field in wanted} == wanted
    assert "2 accelerators in the machine, of which a run uses one" in found["hw_notes"]
    assert "power limit 700 W" in found["hw_notes"] and "driver 580.1" in found["other_software_stack"]
    parts = {"max_sm_clock_hz": 1980 * 10**6, "max_memory_clock_hz": 2619 * 10**6, "pcie_generation": 5,
             "pcie_lanes": 16, "memory_bus_bits": 5120}  # fmt: skip
    one = described("cuda", gpus=[gpu | {"parts": parts}])
    assert one["accelerator_host_interconnect"] == "PCIe generation 5, 16 lanes"
    assert one["accelerator_frequency"] == "1980 MHz at most"
    assert one["accelerator_memory_configuration"] == "bus of 5120 bits, 2619 MHz at most"
    one = described("cuda", gpus=[gpu | {"parts": dict.fromkeys(parts)}])
    assert one["accelerator_frequency"] == one["accelerator_host_interconnect"] == "not known: NVML does not say"
    disks = [{"type": "NVMe SSD", "size_bytes": 3_840_000_000_000}] * 2 + [{"type": "SSD", "size_bytes": 480 * 10**9}]
    links = [{"type": "Ethernet", "speed_bps": 25 * 10**9}, {"type": "Ethernet", "speed_bps": None}]
    two = described(parts={"sockets": 2, "disks": disks, "networks": links})
    assert two["host_processors_per_node"] == "2"
    assert two["host_processor_interconnect"].startswith("not known")
    assert two["host_storage_type"] == "2x NVMe SSD, 1x SSD"
    assert two["host_storage_capacity"] == "2x 3.84 TB, 1x 480 GB"
    assert two["host_networking"].startswith("1x Ethernet, 25 Gb/s, 1x Ethernet, its driver does not say how fast; ")
    older = described(parts=None)
    assert older["host_storage_type"] == "not known: records do not hold it"
    part = described(cpu__physical_available=4, cpu__logical_available=4, cpu__logical_total=64)
    assert part["host_processor_core_count"] == "not known: the runs might use 4 cores of the machine's"
