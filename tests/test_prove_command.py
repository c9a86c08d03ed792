"""The command `perfsuite prove`: the README's example from end to end, and bad input."""

import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from perfsuite.cli import main
from perfsuite.prove.run import EXIT_CODES

PERFSUITE = Path(sysconfig.get_path("scripts"), "perfsuite")
EXAMPLE = Path(__file__).parent / "data" / "my_rms_norm.py"


def test_the_example_from_end_to_end(tmp_path: Path) -> None:
    """Times are real, so that any word may come out; what was checked and what is said of it may not differ."""
    arguments = [EXAMPLE, "--op", "rms_norm", "--device", "cpu", "--scale", "tiny", "--case", "1024x128", "--budget",
                 "0", "--examples", "0", "--html", "page.html", "--json"]  # fmt: skip
    done = subprocess.run([PERFSUITE, "prove", *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    found = json.loads(done.stdout)
    assert done.returncode == EXIT_CODES[found["verdict"]], done.stderr
    right, faster, limit, training = found["steps"]
    assert right["result"] == "passed" and right["timed"][0]["calls"] >= 2
    assert {line["against"] for line in faster["overall"]} == {"eager", "compile", "perfsuite"}
    assert faster["rounds"] == 10 and len(faster["samples_ns"]["1024x128 float32"]["eager"]["backward"]) == 10
    if faster["result"] != "refuted":
        assert training["result"] == "not asked"
        assert any(row["theirs"] and row["share_of_ceiling"] for row in limit["rows"])
    assert found["verdict"].replace("_", " ") in (tmp_path / "page.html").read_text()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arguments, says", [
    (("nowhere.py", "--op", "rms_norm"), "there is no file nowhere.py"),
    (("mine.py", "--op", "rms_nrom"), "did you mean rms_norm?"),
    (("mine.py", "--op", "rms_norm"), "lacks the function rms_norm"),
    (("broken.py", "--op", "rms_norm"), "SyntaxError"),
    (("mine.py", "--op", "rms_norm", "--case", "77x77"), "no case of rms_norm has '77x77'"),
    (("mine.py", "--op", "rms_norm", "--html", "no/where.html"), "there is no folder no"),
    (("mine.py",), "Missing option '--op'"),
])  # fmt: skip
def test_bad_input_is_one_line(arguments: tuple[str, ...], says: str, tmp_path: Path, capsys: Any,
                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    (tmp_path / "mine.py").write_text("def other(): pass\n")
    (tmp_path / "broken.py").write_text("def rms_norm(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["perfsuite", "prove", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    lines = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2 and len(lines) == 1 and says in lines[0], lines
    assert not (tmp_path / "runs").exists()
