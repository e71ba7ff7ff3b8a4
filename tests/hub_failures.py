"""Run in a process of its own: publish where something goes wrong, and again; print what happened as JSON.

python hub_failures.py FOLDER ENDPOINT CASES.json
"""

import contextlib
import hashlib
import json
import os
import resource
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm

from alignmix_timm import push_to_hub, save_for_timm
from alignmix_timm.publishing.provenance import Dataset, Provenance
from alignmix_timm.publishing.upload import upload

DATA = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}


def head(endpoint: str, repo_id: str, token: str) -> str | None:
    """The newest commit, asked without the client."""
    request = urllib.request.Request(f"{endpoint}/api/models/{repo_id}", headers={"Authorization": f"Bearer {token}"})
    try:
        return json.load(urllib.request.urlopen(request))["sha"]
    except urllib.error.HTTPError:
        return None


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@contextlib.contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """As on a full disk: no file grows beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def attempt(do: Any) -> str:
    try:
        return f"done: {do()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main(folder: Path, endpoint: str, cases: Path) -> None:
    net = timm.create_model("test_resnet", num_classes=3)
    names, model = ["a", "b", "c"], folder / "model"
    save_for_timm(net, model, names, DATA)
    before, token, told = digest(model), os.environ["HF_TOKEN"], {}
    for name, case in json.loads(cases.read_text()).items():
        os.environ.pop("HF_TOKEN")
        if case["token"]:
            os.environ["HF_TOKEN"] = case["token"]
        first = head(endpoint, case["repo_id"], token)
        send = push_to_hub if case.get("checked") else upload
        message = attempt(lambda send=send, case=case: send(model, case["repo_id"], tag=case.get("tag")))
        os.environ["HF_TOKEN"] = token
        told[name] = {"message": message, "moved": head(endpoint, case["repo_id"], token) != first}
        told[name]["repeat"] = attempt(lambda case=case: upload(model, case.get("then", case["repo_id"])))
        assert digest(model) == before
    with file_size_limit(50_000):
        told["disk full"] = {"message": attempt(lambda: save_for_timm(net, model, names, DATA)), "moved": False}
    assert digest(model) == before
    assert sorted(path.name for path in folder.glob("*")) == ["model"]
    told["disk full"]["repeat"] = attempt(lambda: save_for_timm(net, model, names, DATA))
    with file_size_limit(50_000):
        told["no room to check"] = {"message": attempt(lambda: push_to_hub(model, "alice/room")), "moved": False}
    assert head(endpoint, "alice/room", token) is None
    told["no room to check"]["repeat"] = attempt(lambda: upload(model, "alice/room"))
    careless = Provenance(Dataset("d"), {"top1": 1.0}, 0, options={"project": f"mine {token}"})
    save_for_timm(net, folder / "careless", names, DATA, provenance=careless)
    told["token in an option"] = {"message": attempt(lambda: upload(folder / "careless", "alice/careless"))}
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
