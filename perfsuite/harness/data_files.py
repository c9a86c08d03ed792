"""The files that a config names, in a folder: which of them are missing, and which files they stand for."""

from pathlib import Path

from perfsuite.workloads.contract import Basics

NAMED = 5


def missing(config: Basics, folder: Path) -> str | None:
    """One line that says what of the config's data `folder` lacks and how to get it; None where nothing is missing."""
    lacking = [name for name in config.data_files if not _is_there(folder, name)]
    if not lacking:
        return None
    many = f"{len(lacking)} of {len(config.data_files)} data files: " if len(lacking) > NAMED else ""
    more = f" and {len(lacking) - NAMED} more up to {lacking[-1]}" if len(lacking) > NAMED else ""
    how = f"{config.data_from}; " if config.data_from else ""
    return f"{folder} lacks {many}{', '.join(lacking[:NAMED])}{more}; {how}give the folder that holds them with --data"


def files(config: Basics, folder: Path) -> list[Path]:
    """Every file that the config names, those of a named folder one by one."""
    named: list[Path] = []
    for name in config.data_files:
        path = folder / name
        named += sorted(p for p in path.rglob("*") if p.is_file()) if name.endswith("/") else [path]
    return named


def _is_there(folder: Path, name: str) -> bool:
    path = folder / name
    return path.is_dir() and any(path.iterdir()) if name.endswith("/") else path.is_file()
