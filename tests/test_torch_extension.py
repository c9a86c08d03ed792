"""Building perfsuite._torch: what is built, when, where, and what is said where it cannot be."""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import run

import pytest

from perfsuite import build_cache, torch_extension
from perfsuite.torch_extension import TorchExtensionError

SOURCE = '#include "answer.h"\n#include <Python.h>\nextern "C" int answer() { return ANSWER; }\n'


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small library in place of the real sources, and an empty cache."""
    root = tmp_path / "csrc"
    for folder in ("torch", "ops/cpu", "native"):
        (root / folder).mkdir(parents=True)
    (root / "torch" / "one.cpp").write_text(SOURCE)
    (root / "torch" / "answer.h").write_text("#define ANSWER 1\n")
    (root / "ops" / "cpu" / "one.cpp").write_text("int one() { return 1; }\n")
    monkeypatch.setattr(build_cache, "source_root", lambda: root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return root


def test_status_does_not_build_and_build_happens_once(sources: Path, tmp_path: Path):
    before = torch_extension.status()
    assert before.available and not before.built and before.path is not None and not before.path.exists()
    lines: list[str] = []
    path = torch_extension.build(lines.append)
    assert path == before.path and path.is_relative_to(tmp_path / "cache" / "perfsuite")
    assert len(lines) == 2  # files of the same name in two folders do not collide
    assert torch_extension.build(lines.append) == path
    assert len(lines) == 2
    assert torch_extension.status() == (True, None, True, path, None)
    assert not list(path.parent.parent.glob("build-*"))


@pytest.mark.parametrize("changed", ["torch/one.cpp", "torch/answer.h", "ops/cpu/two.cpp"])
def test_a_changed_source_is_another_library(sources: Path, changed: str):
    before = torch_extension.status().path
    path = sources / changed
    path.write_text((path.read_text() if path.exists() else "") + "// changed\n")
    assert torch_extension.status().path != before


def test_a_change_compiles_only_what_it_touches(sources: Path, tmp_path: Path):
    torch_extension.build()
    objects = tmp_path / "cache" / "perfsuite" / "objects"
    before = set(objects.iterdir())
    (sources / "torch" / "answer.h").write_text("#define ANSWER 2\n")
    torch_extension.build()
    (new,) = {path for path in set(objects.iterdir()) - before if path.suffix == ".o"}
    assert new.name.startswith("torch-one-")


def test_processes_at_once_build_once(sources: Path):
    lines: list[str] = []
    with ThreadPoolExecutor(4) as pool:  # each call takes the lock on a file of its own opening, as processes do
        paths = set(pool.map(lambda _: torch_extension.build(lines.append), range(4)))
    assert len(paths) == 1 and len(lines) == 2


def test_a_build_that_fails_says_the_first_error_then_and_later(sources: Path):
    (sources / "torch" / "answer.h").write_text("#error no such luck\n")
    with pytest.raises(TorchExtensionError, match=r"compiling one\.cpp failed: .*no such luck") as caught:
        torch_extension.build()
    assert "\n" not in str(caught.value)
    status = torch_extension.status()
    assert not status.available and status.reason == str(caught.value)
    (sources / "torch" / "answer.h").write_text("#define ANSWER 2\n")
    assert torch_extension.status().available


def test_no_compiler(sources: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(sources))
    status = torch_extension.status()
    assert not status.available and "install g++" in str(status.reason)
    monkeypatch.setenv("CXX", "no-such-compiler -x")
    assert "no-such-compiler" in str(torch_extension.status().reason)
    with pytest.raises(TorchExtensionError, match="no-such-compiler"):
        torch_extension.build()


def test_a_cache_that_cannot_be_written_is_replaced_and_said(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    path = torch_extension.build()
    assert path.is_relative_to(tmp_path / "tmp")
    status = torch_extension.status()
    assert status.built and "XDG_CACHE_HOME" in str(status.note)
    folder = tmp_path / "tmp" / f"perfsuite-{os.getuid()}"
    folder.chmod(0o777)
    with pytest.raises(TorchExtensionError, match="belongs to somebody else"):
        torch_extension.build()


def test_status_does_not_import_torch():
    code = "import sys, perfsuite.torch_extension as t; t.status(); assert 'torch' not in sys.modules"
    assert run([sys.executable, "-c", code]).returncode == 0


def test_the_real_library_loads_and_is_one():
    module = torch_extension.load()
    assert torch_extension.load() is module is sys.modules["perfsuite._torch"]
