"""The mode of files that others are to read: what is trained by one is loaded by a group."""

from pathlib import Path


def follow_umask(folder: Path) -> None:
    """Give every file in a folder that was just made the mode that the umask gives, as the folder itself has it.

    safetensors creates its files for their owner alone.
    """
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
