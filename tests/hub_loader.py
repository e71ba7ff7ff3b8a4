"""Run in a process of its own, where our package cannot be imported: load published models by plain timm, and compare.

python hub_loader.py EXPECTED.pt NAME ...
"""

import sys
from pathlib import Path

sys.modules["alignmix_timm"] = None  # type: ignore[assignment]

import timm  # noqa: E402
import torch  # noqa: E402


def load(name: str, **args: object) -> torch.nn.Module:
    return timm.create_model(f"hf-hub:{name}", pretrained=True, **args).eval()


def check_new_head(name: str, net: torch.nn.Module, images: torch.Tensor) -> None:
    """With another number of classes, all but the head are the published weights."""
    other = load(name, num_classes=7)
    assert other(images).shape == (2, 7), name
    before, after = net.state_dict(), other.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert changed <= {key for key, value in before.items() if value.shape[:1] == (net.num_classes,)}, name


def main(path: str, *names: str) -> None:
    try:
        import alignmix_timm
    except ImportError:
        alignmix_timm = None
    assert alignmix_timm is None
    noted = torch.load(path, weights_only=True)
    for name in names:
        logits, data = noted["expected"][name.partition("@")[0]]
        net = load(name)
        with torch.no_grad():
            assert torch.equal(net(noted["images"]), logits), name
        resolved = timm.data.resolve_model_data_config(net)
        found = {key: tuple(resolved[key]) if isinstance(resolved[key], list) else resolved[key] for key in data}
        assert found == data, name
        assert list(net.pretrained_cfg["label_names"]) == noted["labels"], name
        if "@" in name:
            check_new_head(name, net, noted["images"])
        print(f"loaded {name}")
    if Path("usage.py").exists():
        exec(Path("usage.py").read_text(), {})  # the code of a card, in a folder with an image


if __name__ == "__main__":
    main(*sys.argv[1:])
