"""Steps in the file system that a kill or a power cut leaves done or not done, never half done."""

import os
import shutil
from pathlib import Path

DELETED = ".deleted"


def delete_folder(folder: Path) -> None:
    """Rename first: a folder that is half deleted must not look like a whole one."""
    doomed = folder.with_name(f"{DELETED}-{folder.name}")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def replace_link(link: Path, target: Path) -> None:
    """Let a symbolic link point to a path in its own folder or below, also if it pointed elsewhere before."""
    temporary = link.with_name(f".{link.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent))
    temporary.replace(link)
    sync_folder(link.parent)


def sync_tree(folder: Path) -> None:
    """Bring the files of a folder to disk, and then the folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Bring the entries of a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Write a file that is at any time the old one or the new one."""
    partial = path.with_name(f".{path.name}")
    try:
        with partial.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)
