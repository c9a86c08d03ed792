"""Workloads are found by name or by path, and every mistake is one line that says how to mend it."""

import subprocess
import sys

import pytest

from perfsuite.workloads import registry

WORKLOAD = """
from dataclasses import dataclass
from perfsuite.workloads.contract import Basics, Schedule, Target

NAME, MLPERF = "mine", ""

@dataclass(frozen=True)
class Config(Basics):
    pass

CONFIGS = {"tiny": Config(Target("loss", "nats", 1.0, False), Schedule(8, 8, 64, 1.0), 8, 64, 8)}

def build(config, device, seed):
    return WHO
"""


def refused(name: str) -> str:
    with pytest.raises(ValueError) as caught:
        registry.load(name)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_built_in_names():
    assert registry.names() == ("llama", "resnet", "ncf", "dlrm", "transformer", "gnmt", "bert", "retinanet")
    for name in registry.names():
        assert registry.load(name).NAME == name
    assert (registry.data_folder() / "SOURCES.md").is_file()


def test_the_registry_imports_no_torch():
    code = "import sys; from perfsuite.workloads import registry; registry.names(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_files_of_one_stem_do_not_mix(tmp_path):
    modules = []
    for who in ("first", "second"):
        folder = tmp_path / who
        folder.mkdir()
        (folder / "json.py").write_text(WORKLOAD.replace("WHO", repr(who)))
        modules.append(registry.load(str(folder / "json.py")))
    assert [module.build(None, "cpu", 1) for module in modules] == ["first", "second"]
    import json

    assert hasattr(json, "loads")


def test_unknown_name_lists_what_there_is():
    names = ", ".join(registry.names())
    assert refused("lama") == f"no workload is called 'lama': give one of {names}, or the path of a .py file"


def test_missing_file(tmp_path):
    assert str(tmp_path / "none.py") in refused(str(tmp_path / "none.py"))


def test_file_that_does_not_import(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("def build(:\n")
    assert "cannot be imported: SyntaxError: invalid syntax" in refused(str(path))
    path.write_text("raise RuntimeError('two\\nlines')\n")
    assert "RuntimeError: two lines" in refused(str(path))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("NAME, MLPERF", "TITLE, MLPERF", "lacks NAME:"),
        ("CONFIGS =", "SCALES =", "lacks CONFIGS:"),
        ("def build(", "def make(", "lacks build:"),
        ("CONFIGS = {", "CONFIGS = {} or {", None),
        ("CONFIGS =", "CONFIGS = {}\nOTHERS =", "CONFIGS is not a dict with a Config for each scale"),
        ('{"tiny": Config', '{"tiny": None and Config', "CONFIGS['tiny'] is not a Config that inherits Basics"),
        ("def build(", "build = 1\ndef other(", "build is not a function"),
    ],
)
def test_file_that_breaks_its_promise(tmp_path, old, new, said):
    path = tmp_path / "mine.py"
    assert old in WORKLOAD
    path.write_text(WORKLOAD.replace(old, new))
    if said is None:
        assert registry.load(str(path)).NAME == "mine"
    else:
        assert said in refused(str(path))
