"""Publishing and loading over HTTP: the real client, plain timm, and a Hub on this machine that can fail."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_publisher import FAMILIES, FORMS
from hub_server import ALICE, BOB, Failure, Hub, Repository, running_hub
from huggingface_hub import ModelCard
from launcher import ROOT
from PIL import Image
from training import command, records, save_rows

TESTS = ROOT / "tests"


def run(line: list[Any], env: dict[str, str], code: int = 0, **options: Any) -> str:
    pipes = dict(capture_output=True, text=True, timeout=300)
    done = subprocess.run([sys.executable, *map(str, line)], env=env, **pipes, **options)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def published(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    printed = run([TESTS / "hub_publisher.py", folder], hub.environment(folder / "home"))
    assert "as trained (bfloat16, contiguous_format, cpu) by" in printed
    assert f"Published: {hub.url}/alice/bf16/commit/{hub.repositories['alice/bf16'].head}" in printed
    sent = hub.repositories["alice/bf16"].files["model.safetensors"]
    assert sent == (folder / "run" / "model" / "model.safetensors").read_bytes()
    return folder


def everything_said(hub: Hub, printed: str, *folders: Path) -> bytes:
    """All that was printed, sent as content, committed, and written."""
    parts = [printed.encode(), *hub.bodies]
    parts += [content for repo in hub.repositories.values() for _, files in repo.commits for content in files.values()]
    parts += [path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()]
    return b"\n".join(parts)


def test_a_dozen_families_and_all_forms_come_back_bit_by_bit(hub: Hub, published: Path, tmp_path: Path) -> None:
    names = {f"alice/{name}" for name in (*FAMILIES, *FORMS)}
    assert len(FAMILIES) == 12
    assert names <= set(hub.repositories)
    for name in names:
        assert set(hub.repositories[name].files) == {
            *(".gitattributes", "README.md", "config.json", "model.safetensors", "provenance.json")
        }
        assert len(hub.repositories[name].commits) == 2  # empty, and all files at once
    revision = hub.repositories["alice/bf16"].head
    expected = published / "expected.pt"
    online, offline = hub.environment(tmp_path), hub.environment(tmp_path) | {"HF_HUB_OFFLINE": "1"}
    usage = hub.repositories["alice/test_vit"].files["README.md"].decode().split("```")[1]
    (published / "usage.py").write_text(usage.removeprefix("python\n"))
    Image.new("L", (90, 70), 128).save(published / "image.jpg")
    few = ["alice/test_vit@v1", "alice/test_vit@user/trial", "alice/test_vit@v2", f"alice/bf16@{revision}"]
    trial = hub.repositories["alice/test_vit"].branches["user/trial"]
    assert len(trial) == 3  # the two of main, and one: the second push changed nothing
    assert 'timm.create_model("hf-hub:alice/test_vit@user/trial", ' in trial[-1][1]["README.md"].decode()
    printed = run([TESTS / "hub_loader.py", expected, *names, *few], online, cwd=published)
    assert "'naïve: dog': 0." in printed.splitlines()[-1]
    assert {line.removeprefix("loaded ") for line in printed.splitlines() if line.startswith("loaded")} >= names
    asked = len(hub.requests)
    run([TESTS / "hub_loader.py", expected, "alice/test_resnet", *few], offline, cwd=tmp_path)
    assert len(hub.requests) == asked


def case(repo_id: str, says: str, *, token: str | None = ALICE, fails: Any = None, **more: Any) -> dict[str, Any]:
    """A first push that goes wrong: what is said, and, if not the same again, the repository of the repeat."""
    return {"repo_id": repo_id, "says": says, "token": token, "fails": fails, **more}


WRONG = "hf_" + "wrongWrong" * 3
CASES = {
    "no token": case("alice/none", "there is no token", token=None),
    "wrong token": case("alice/wrong", "token was not accepted", token=WRONG),
    "somebody else's": case("bob/net", "may not write", then="alice/mine"),
    "illegal name": case("alice/a--b", "must be named USER/NAME", checked=True, then="alice/ab"),
    "no room": case("alice/put", "HTTP 507", fails=("put", 507)),
    "server error": case("alice/broken", "HTTP 500", fails=("commit", 500)),
    "dropped": case("alice/dropped", "could not upload the files", fails=("commit", "drop")),
    "answer lost": case("alice/lost", "could not upload the files", fails=("commit", "drop after")),
    "changed meanwhile": case("alice/race", "at the same time", fails=("batch", "race")),
    "card not read": case("alice/unread", "could not read the present card in alice/unread", fails=("resolve", 501)),
    "tag taken": case("alice/tagged", "could not set the tag v1", tag="v1"),
    "hiccup": case("alice/hiccup", "done", fails=("put", 503)),
}
MOVED = {"answer lost", "changed meanwhile", "tag taken", "hiccup"}  # by the lost commit; by another; before the tag


def test_what_goes_wrong_is_said_and_a_repeat_succeeds(hub: Hub, tmp_path: Path) -> None:
    for one in CASES.values():
        if one["fails"]:
            step, action = one["fails"]
            hub.failures[one["repo_id"], step] = Failure(action)
        hub.repositories[one["repo_id"]] = Repository()
        hub.repositories[one["repo_id"]].commit({".gitattributes": b"", "README.md": b"# Mine\n"})
    tagged = hub.repositories["alice/tagged"]
    tagged.tags["v1"] = tagged.head
    cases, work = tmp_path / "cases.json", tmp_path / "work"
    cases.write_text(json.dumps(CASES))
    work.mkdir()
    printed = run([TESTS / "hub_failures.py", work, hub.url, cases], hub.environment(tmp_path / "home"))
    told = json.loads(printed[printed.index('{"no token"') :].splitlines()[0])
    for name, one in CASES.items():
        assert one["says"] in told[name]["message"], told[name]
        assert told[name]["moved"] == (name in MOVED), name
        assert told[name]["repeat"].startswith("done"), told[name]
        repo = hub.repositories[one.get("then", one["repo_id"])]
        assert {"config.json", "model.safetensors", "provenance.json", "README.md"} <= set(repo.files), name
        assert all("model.safetensors" not in files or "config.json" in files for _, files in repo.commits), name
        if "then" not in one:
            assert repo.files["README.md"].decode().count("# Mine") == 1
    assert len(hub.repositories["bob/net"].commits) == 1
    assert len(hub.repositories["alice/lost"].commits) == 2  # the repeat found nothing to do
    for name in ("disk full", "no room to check"):
        assert told[name]["message"].startswith("OSError"), told[name]
        assert told[name]["repeat"].startswith("done"), told[name]
    assert "holds your token" in told["token in an option"]["message"]
    assert "alice/careless" not in hub.repositories or len(hub.repositories["alice/careless"].commits) == 1
    said = everything_said(hub, printed, work / "model", tmp_path / "home")
    assert not [token for token in (ALICE, BOB, WRONG) if token.encode() in said]


@pytest.mark.slow
def test_a_run_starts_from_the_hub_and_pushes_while_it_trains(hub: Hub, published: Path, tmp_path: Path) -> None:
    repo_id, output = "alice/run", tmp_path / "run"
    hub.failures[repo_id, "commit"] = Failure(500)
    line = command(
        save_rows(tmp_path / "rows", 96, 40),
        output,
        initial_checkpoint="hf-hub:alice/test_resnet@v1",
        push_to_hub=repo_id,
        push_every=1,
        mixers="alignmix",
        workers=1,
    )
    printed = run([*line[1:], "--hub-private"], hub.environment(tmp_path / "home"))
    repo = hub.repositories[repo_id]
    assert "step-00000003 was not pushed to alice/run; the run goes on. error: could not upload" in printed
    assert f"repeat with: alignmix-timm push {output} alice/run --private" in printed
    assert "Pushed model to alice/run." in printed
    assert repo.private
    assert len(repo.commits) == 2  # empty, and the model at the end
    assert repo.files["model.safetensors"] == (output / "model" / "model.safetensors").read_bytes()
    card = ModelCard(repo.files["README.md"].decode())
    last = records(output, "eval")[-1]
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert results["Top-1 accuracy, %"] == last["ema_top1"]
    assert results["Cross-entropy"] == last["ema_loss"]
    assert card.data.base_model == "alice/test_resnet"
    assert card.data.license == "unknown"  # that of its base, which states none
    assert "40 images of the split test of rows" in card.text
    assert "6 optimizer steps" in card.text
    assert "features at layer" in card.text
    assert str(tmp_path) not in repo.files["README.md"].decode() + repo.files["provenance.json"].decode()
    assert ALICE.encode() not in everything_said(hub, printed, output, tmp_path / "home")
    later = [*line[1:], "--resume", "auto", "--push-to-hub", "alice/later"]
    assert "finished: nothing to do" in run(later, hub.environment(tmp_path / "home"))
    assert hub.repositories["alice/later"].files["model.safetensors"] == repo.files["model.safetensors"]


@pytest.mark.slow
def test_every_family_is_checked_before_it_is_sent(hub: Hub, published: Path, tmp_path: Path) -> None:
    for name in FAMILIES:
        line = ["-m", "alignmix_timm.publishing.push", published / name, f"alice/again-{name.replace('_', '-')}"]
        printed = run(line, hub.environment(tmp_path))
        assert "logits bit-equal" in printed
        assert "Published: " in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "action"), [("put", 500), ("put", "drop"), ("batch", 502), ("preupload", "drop"), ("resolve", 503)]
)
def test_a_server_that_stays_broken(hub: Hub, published: Path, tmp_path: Path, step: str, action: int | str) -> None:
    repo_id = f"alice/broken-{step}-{action}"
    hub.failures[repo_id, step] = Failure(action, 1000)
    hub.repositories[repo_id] = Repository()
    hub.repositories[repo_id].commit({"README.md": b"# Mine\n"})
    line = ["-m", "alignmix_timm.publishing.push", published / "test_resnet", repo_id]
    printed = run(line, hub.environment(tmp_path), code=1)
    assert ("could not read the present card" if step == "resolve" else "could not upload the files") in printed
    assert "Traceback" not in printed
    assert len(hub.repositories[repo_id].commits) == 1
    del hub.failures[repo_id, step]
    assert "Published" in run(line, hub.environment(tmp_path))
    assert b"# Mine" in hub.repositories[repo_id].files["README.md"]
