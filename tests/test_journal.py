"""The lines that a run writes, over all the times that it was resumed."""

import json
from pathlib import Path

import pytest
from accelerate import Accelerator

from alignmix_timm.training.journal import Journal, read_journal

WRITTEN = [("effect", 0), ("train", 2), ("train", 4), ("eval", 4), ("train", 6), ("eval", 6), ("effect", 6)]


@pytest.mark.parametrize(
    ("start", "total", "kept"),
    [
        (0, 6, []),  # killed before the first checkpoint: it begins again
        (4, 6, WRITTEN[:4]),
        (6, 6, WRITTEN[:6]),  # killed at the very end: the effect is measured again
        (6, 9, WRITTEN),  # finished, and extended
    ],
)
def test_what_is_written_again_is_dropped(start: int, total: int, kept: list[tuple[str, int]], tmp_path: Path) -> None:
    lines = [json.dumps({"kind": kind, "step": step}) for kind, step in WRITTEN]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"kind": "tra']))
    Journal(tmp_path, Accelerator(cpu=True), total, start).close()
    found = read_journal(tmp_path / "metrics.jsonl")
    assert [(record["kind"], record["step"]) for record in found] == kept
