"""The card: what it says, that it can be read back, that text stays text, and what a person wrote."""

import builtins
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from launcher import ROOT

from alignmix_timm.publishing.card import BEGIN, END, card_data, make_card, merge_card
from alignmix_timm.publishing.evaluation import evaluation_folder, sha256_of
from alignmix_timm.publishing.provenance import Base, Dataset, Provenance, find_dataset
from alignmix_timm.publishing.save import save_for_timm

DATA = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}
RESULTS = {"top1": 86.55, "top5": 99.333333333333329, "loss": 0.1 + 0.2, "ece": 1 / 3}
RUN = Provenance(
    Dataset("alice/flowers", True, "small", "abc123", "cc-by-4.0", 2500, 500, "test"),
    RESULTS,
    seed=3,
    mixing="features at layer2.0 (NCHW, 4 x 4), deepest",
    epochs=4,
    updates=100,
    seconds=90.0,
    base=Base("timm/resnet10t.c3_in1k", True, "cc-by-nc-4.0"),
    options={"lr": 0.1},
    hardware="CPU",
    versions={"torch": "2.9"},
)
# What breaks YAML, Markdown and HTML, and our own marks, if it is not treated as text.
ODD = (
    "line\n---\nlicense: stolen\n",
    "a: b # c",
    "- x\n- y",
    "{{ repo_id }} {% for x in y %}",
    "quote \" ' ` ``` [link](javascript:alert(1)) <script>alert(1)</script>",
    f"{END}\n# mine\n{BEGIN}",
    "bell\x07 null\x00 next\x85line \u2028sep\u2029 \u202ereversed \ud800 \ufeffbom \r\rcr",
    "!!python/object/apply:os.system ['true']",
    "*anchor &ref %TAG | > @ , ?",
    "",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    save_for_timm(timm.create_model("test_resnet", num_classes=3), folder, ["a", "b", "c"], DATA, provenance=RUN)
    return folder


def with_run(folder: Path, target: Path, run: Provenance | None, labels: list[str] | None = None) -> Path:
    """A folder of the same model with another provenance or other labels; weights do not matter to a card."""
    target.mkdir(exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | ({"label_names": labels} if labels else {})))
    (target / "provenance.json").write_text(json.dumps({"run": run and run.to_dict()}))
    return target


def test_the_card_shows_results_of_these_weights_alone(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    metric = {"key": "ece", "label": "ECE %", "better": "lower", "definition": "Mean of |a - b|."}
    part = {"values": {"ece": 3.25, "noise/ece": None}, "metrics": {"ece": metric}}
    content: dict[str, Any] = {"parts": {"calibration": part}}
    content["data"] = {"name": "<b>flowers</b>", "split": "the split test", "rows": 7}
    content["model"] = {"sha256": sha256_of(model / "model.safetensors")}
    results = evaluation_folder(model) / "evaluation.json"
    results.parent.mkdir()
    results.write_text(json.dumps(content))
    text = make_card(model, "alice/net").text
    assert "on 7 images, the split test of &lt;b&gt;flowers&lt;/b&gt;:" in text
    assert "| measure | value |\n|---|---|\n| ECE % | 3.25 |\n| noise: ECE % | - |\n" in text
    assert text.count("- ECE %: Mean of \\|a - b\\|.") == 1
    content["model"]["sha256"] = "0" * 64
    results.write_text(json.dumps(content))
    assert "## Evaluation" not in make_card(model, "alice/net").text


def found(data: Any, path: str) -> list[Any]:
    """The values at a path of hub/required_metadata.yaml."""
    values = [data]
    for part in path.split("."):
        name, _, _ = part.partition("[]")
        values = [value[name] for value in values]
        if part.endswith("[]"):
            values = [one for value in values for one in value]
    return values


def test_the_card_says_what_the_run_says(folder: Path) -> None:
    card = make_card(folder, "alice/net")
    assert card.data.to_dict() | {"model-index": None} == {
        "license": "cc-by-nc-4.0",
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "alignmix", "mixup"],
        "base_model": "timm/resnet10t.c3_in1k",
        "datasets": ["alice/flowers"],
        "metrics": ["accuracy", "loss", "ece"],
        "model-index": None,
    }
    for said in (
        'timm.create_model("hf-hub:alice/net", pretrained=True)',
        "Top-1 accuracy: 86.55 %",
        "500 images of the split test of alice/flowers",
        "revision abc123, 2500 images. Licence of the data: cc-by-4.0",
        "features at layer2.0 (NCHW, 4 x 4), deepest",
        "timm/resnet10t.c3\\_in1k, licence cc-by-nc-4.0",
        "Seed 3, 4 epochs, 100 optimizer steps, 1.5 minutes of training, on CPU",
        "| lr | 0.1 |",
        "@inproceedings",
    ):
        assert said in card.text, said
    assert "import alignmix_timm" not in card.text
    assert "{{" not in card.text


def test_metadata_survives_being_loaded_and_has_the_required_keys(folder: Path, tmp_path: Path) -> None:
    made = make_card(folder, "alice/net")
    made.save(tmp_path / "README.md")
    loaded = ModelCard.load(tmp_path / "README.md")
    assert loaded.data.to_dict() == made.data.to_dict()
    assert loaded.text == made.text
    assert ModelCardData(**yaml.safe_load(loaded.data.to_yaml())).to_dict() == made.data.to_dict()
    values = {(result.metric_type, result.metric_name): result.metric_value for result in loaded.data.eval_results}
    assert sorted(values.values()) == sorted(RESULTS.values())
    assert values["accuracy", "Top-1 accuracy, %"] == RESULTS["top1"]
    required = yaml.safe_load((ROOT / "hub" / "required_metadata.yaml").read_text())
    data = yaml.safe_load((tmp_path / "README.md").read_text().split("---\n")[1])
    for path, kind in required.items():
        assert found(data, path), path
        assert all(type(value) is getattr(builtins, kind) for value in found(data, path)), path


@pytest.mark.parametrize("odd", ODD)
def test_text_from_outside_stays_text(odd: str, folder: Path, tmp_path: Path) -> None:
    run = replace(
        RUN,
        dataset=replace(RUN.dataset, name=odd, config=odd, revision=odd, license=odd, eval_split=odd),
        base=Base(odd, True, odd),
        mixing=odd,
        command=odd,
        hardware=odd,
        options={odd: odd, "list": [odd]},
        versions={odd: odd},
    )
    made = make_card(with_run(folder, tmp_path, run, [odd, "b", odd]), "alice/net")
    card = ModelCard(str(made).encode().decode())  # a surrogate would not encode
    plain = make_card(folder, "alice/net")
    assert set(card.data.to_dict()) <= {*plain.data.to_dict(), "license_name"}
    assert card.data.to_dict() == made.data.to_dict()
    assert card.data.license in ("other", "unknown")
    assert card.data.datasets is None  # not a legal name
    assert [result.metric_value for result in card.data.eval_results] == list(RESULTS.values())
    assert (card.text.count(BEGIN), card.text.count(END)) == (1, 1)
    headings = [re.findall(r"^#+ .*$", text, re.MULTILINE) for text in (card.text, plain.text)]
    assert headings[0] == headings[1]
    assert card.text.count("```") == plain.text.count("```")
    assert "<script" not in card.text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e\ufeff]", card.text)


def test_a_card_without_a_run_only_says_how_to_use_the_model(folder: Path, tmp_path: Path) -> None:
    card = make_card(with_run(folder, tmp_path, None), "alice/net")
    assert card.data.license == "unknown"
    assert "model-index" not in card.data.to_dict()
    assert "hf-hub:alice/net" in card.text
    assert "Results" not in card.text


def test_what_a_person_wrote_stays(folder: Path) -> None:
    first = make_card(folder, "alice/net")
    theirs = ModelCard(str(first).replace(BEGIN, f"Mine above.\n\n{BEGIN}").replace(END, f"{END}\n\n## Mine below\n"))
    theirs.data.license, theirs.data.language = "mit", ["en"]
    theirs.data.tags.append("flowers")
    theirs.data.datasets.append("alice/more")
    other = EvalResult("image-classification", "bob/set", "Bob's", "accuracy", 12.5, metric_name="Top-1")
    theirs.data.eval_results.append(other)
    theirs.data["extra"] = {"a": [1, {"b": "c: d"}]}
    again = replace(RUN, results={**RESULTS, "top1": 90.0}, seed=4)
    config = json.loads((folder / "config.json").read_text())
    new = make_card(folder, "alice/net")
    new.data = card_data(config, again, "alice/net")
    new.text = new.text.replace("Seed 3", "Seed 4")
    merged = ModelCard(merge_card(str(theirs), new))
    assert merged.text.startswith("Mine above.\n")
    assert merged.text.rstrip().endswith("## Mine below")
    assert "Seed 4" in merged.text
    assert "Seed 3" not in merged.text
    data = merged.data
    assert (data.license, data.language, data.extra) == ("mit", ["en"], {"a": [1, {"b": "c: d"}]})
    assert data.tags == ["image-classification", "timm", "alignmix", "mixup", "flowers"]
    assert data.datasets == ["alice/flowers", "alice/more"]
    assert other in data.eval_results
    assert [result.metric_value for result in data.eval_results] == [90.0, *list(RESULTS.values())[1:], 12.5]
    assert merge_card(str(merged), new) == str(merged)


def test_metadata_of_the_former_push_is_replaced(folder: Path, tmp_path: Path) -> None:
    odd = replace(RUN, base=Base("timm/old", True, 'mine --> <!-- "'), dataset=replace(RUN.dataset, name="alice/old"))
    first = make_card(with_run(folder, tmp_path / "first", odd), "alice/net")
    assert first.data.license == "other"
    assert first.text.count("-->") == 3  # the two marks, and the note
    published = merge_card("---\ntags:\n- flowers\ndatasets: alice/more\n---\n# Mine\n", first)
    fresh = replace(RUN, base=None, mixing=None, results={"top1": 50.0})
    second = make_card(with_run(folder, tmp_path / "second", fresh), "alice/net")
    merged = ModelCard(merge_card(published, second)).data
    assert (merged.license, merged.license_name, merged.base_model) == ("apache-2.0", None, None)
    assert merged.tags == ["image-classification", "timm", "flowers"]
    assert merged.datasets == ["alice/flowers", "alice/more"]
    assert merged.metrics == ["accuracy"]
    edited = ModelCard(published)
    edited.data.license, edited.data.license_name, edited.data.base_model = "mit", None, ["bob/a", "bob/b"]
    edited.data.pipeline_tag = "image-feature-extraction"
    kept = ModelCard(merge_card(merge_card(str(edited), second), second)).data
    assert (kept.license, kept.license_name, kept.base_model) == ("mit", None, ["bob/a", "bob/b"])
    assert kept.pipeline_tag == "image-feature-extraction"
    assert kept.metrics == ["accuracy"]


@pytest.mark.parametrize(
    "text", ["# By hand\n\nText.", f"# By hand\n{BEGIN}\nhalf", f"# By hand\n{END}", "\r\n# By hand\r\n"]
)
def test_a_card_that_was_not_generated_is_kept_whole(text: str, folder: Path) -> None:
    made = make_card(folder, "alice/net")
    merged = merge_card(f"---\nlicense: mit\n---\n{text}", made)
    card = ModelCard(merged)
    assert "# By hand" in card.text
    assert (card.text.count(BEGIN), card.text.count(END)) == (1, 1)
    assert card.text.index("# By hand") < card.text.index(BEGIN)
    assert card.data.license == "mit"


def test_metadata_that_cannot_be_read_is_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"existing README\.md cannot be read"):
        merge_card("---\na: [\n---\n", make_card(folder, "alice/net"))


def test_the_licence_of_a_local_dataset_is_that_of_its_card(tmp_path: Path) -> None:
    embedded = find_dataset(ROOT / "recipes" / "data" / "fashion_mnist")
    assert (embedded.license, embedded.on_hub) == ("mit", False)
    assert find_dataset(tmp_path) == Dataset(tmp_path.name)


def test_the_template_of_the_hub_folder_is_the_one_in_use() -> None:
    assert (ROOT / "hub" / "card_template.md").samefile(ROOT / "alignmix_timm" / "publishing" / "card_template.md")
