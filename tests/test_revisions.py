"""Revisions are checked out, built and removed again; the user's own tree is not touched."""

import subprocess
from pathlib import Path

import pytest

from perfsuite import revisions


def git(folder: Path, *arguments: str) -> str:
    names = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", folder, *names, *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    git(root, "init", "-q")
    for version in ("1", "2"):
        (root / "thing.py").write_text(f"VERSION = {version}\n")
        git(root, "add", ".")
        git(root, "commit", "-qm", version)
    return root


PACKAGE = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "thing"
version = "1"
[tool.setuptools]
py-modules = ["thing"]
"""
SHOW = "import thing; print(thing.VERSION, thing.__file__)"


def test_both_revisions_at_once(project: Path) -> None:
    (project / "thing.py").write_text("VERSION = 'not committed'\n")
    with revisions.built("HEAD~1", project) as old, revisions.built("HEAD", project) as new:
        assert old.run("-c", SHOW).stdout.startswith("1 ") and new.run("-c", SHOW).stdout.startswith("2 ")
        assert len(git(project, "worktree", "list").splitlines()) == 3
        folders = old.path.parent, new.path.parent
    assert not any(folder.exists() for folder in folders)
    assert len(git(project, "worktree", "list").splitlines()) == 1
    assert "not committed" in (project / "thing.py").read_text()


def test_a_package_is_built_from_its_revision(project: Path) -> None:
    (project / "pyproject.toml").write_text(PACKAGE)
    (project / "thing.py").write_text("VERSION = 3\n")
    git(project, "add", ".")
    git(project, "commit", "-qm", "3")
    with revisions.built("HEAD", project) as tree:
        version, path = tree.run("-c", SHOW).stdout.split()
        assert version == "3" and Path(path).parent.name == "site"
        assert tree.commit == git(project, "rev-parse", "HEAD").strip()


def test_a_build_that_fails_says_so_and_leaves_nothing(project: Path) -> None:
    (project / "pyproject.toml").write_text(PACKAGE.replace("py-modules", "no-such-key"))
    git(project, "add", ".")
    git(project, "commit", "-qm", "broken")
    with pytest.raises(ValueError, match="revision HEAD cannot be built: ") as raised, \
            revisions.built("HEAD", project):  # fmt: skip
        pass
    assert "\n" not in str(raised.value)
    assert len(git(project, "worktree", "list").splitlines()) == 1


def test_removed_after_an_exception(project: Path) -> None:
    with pytest.raises(KeyboardInterrupt), revisions.built("HEAD", project):
        raise KeyboardInterrupt
    assert len(git(project, "worktree", "list").splitlines()) == 1


@pytest.mark.parametrize("revision", ["no-such-branch", "--help", ""])
def test_unknown_revisions(project: Path, revision: str) -> None:
    with pytest.raises(ValueError, match="revision"), revisions.built(revision, project):
        pass


def test_not_a_repository(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not in a git repository"), revisions.built("HEAD", tmp_path):
        pass
