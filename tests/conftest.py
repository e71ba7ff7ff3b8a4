"""Two test processes, each on one thread: pytest's options are in pyproject.toml. Fixtures of several files."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in processes that tests start

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images in ``data``, eight of each class."""
    from batch_probe import write_images

    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "data", 8)
    return folder


@pytest.fixture
def launch(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Runs a training script on them, by :class:`script_runs.Launch`."""
    from script_runs import Launch

    (tmp_path / "data").symlink_to(images / "data")
    return Launch(tmp_path, capsys)
