"""Run in a process of its own, where our package cannot be imported: load published models by plain timm, and compare.

python hub_loader.py EXPECTED.pt [NAME ...]
"""

import sys

sys.modules["alignmix_timm"] = None  # type: ignore[assignment]

import timm  # noqa: E402
import torch  # noqa: E402


def load(name: str, **args: object) -> torch.nn.Module:
    return timm.create_model(f"hf-hub:{name}", pretrained=True, **args).eval()


def main(path: str, *names: str) -> None:
    try:
        import alignmix_timm
    except ImportError:
        alignmix_timm = None
    assert alignmix_timm is None
    noted = torch.load(path, weights_only=True)
    for name in names or noted["expected"]:
        logits, data = noted["expected"][name.partition("@")[0]]
        net = load(name)
        with torch.no_grad():
            assert torch.equal(net(noted["images"]), logits), name
        resolved = timm.data.resolve_model_data_config(net)
        found = {key: tuple(resolved[key]) if isinstance(resolved[key], list) else resolved[key] for key in data}
        assert found == data, name
        assert list(net.pretrained_cfg["label_names"]) == noted["labels"], name
        other = load(name, num_classes=7)
        assert other(noted["images"]).shape == (2, 7), name
        same = [key for key, value in net.state_dict().items() if torch.equal(value, other.state_dict()[key])]
        head = {key for key in net.state_dict() if net.state_dict()[key].shape[:1] == (len(noted["labels"]),)}
        assert set(net.state_dict()) - set(same) <= head, name
        print(f"loaded {name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
