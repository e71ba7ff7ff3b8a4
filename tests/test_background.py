"""Uploads beside a run: real processes, of which none can stop it."""

import types
from pathlib import Path

import pytest

from alignmix_timm.publishing import background


def compiled(optimize: int) -> types.ModuleType:
    """The module as ``python`` and ``python -O`` have it."""
    module = types.ModuleType(background.__name__)
    module.__file__, module.__package__ = background.__file__, background.__package__
    text = Path(background.__file__).read_text()
    exec(compile(text, background.__file__, "exec", dont_inherit=True, optimize=optimize), vars(module))
    return module


@pytest.mark.parametrize("optimize", [0, 1])
def test_an_upload_that_fails_says_how_to_repeat_it(
    optimize: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch today')")  # the process ends at once
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folder, said = tmp_path / "my run", list[str]()
    folder.mkdir()
    uploads = compiled(optimize).Uploads(folder, "alice/net", True, said.append, "user/trial")
    uploads.start(folder / "model")
    uploads.wait()
    repeat = f"repeat with: alignmix-timm push '{folder}' alice/net --private --branch user/trial"
    assert len(said) == 1
    assert said[0].startswith("model was not pushed to alice/net; the run goes on. ImportError: no torch today")
    assert said[0].endswith(repeat)
    uploads.start(folder / "model")
    (folder / "push.log").unlink()
    uploads.wait()
    assert "No such file or directory" in said[1]
    assert said[1].endswith(repeat)
    assert not uploads.busy
