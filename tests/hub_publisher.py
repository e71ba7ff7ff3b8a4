"""Run in a process of its own: publish models of many families and forms, and note the logits their weights give.

python hub_publisher.py FOLDER
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from timm.utils import ModelEmaV3
from torch import nn

from alignmix_timm import AlignMixModel, save_for_timm
from alignmix_timm import __main__ as command
from alignmix_timm.publishing.upload import upload

LABELS = ["cat", "naïve: dog", "#3", "a\nb", "---"]
SIZE = (3, 64, 64)
FAMILIES: dict[str, dict[str, Any]] = {
    "test_byobnet": {},
    "test_convnext": {},
    "test_efficientnet": {},
    "test_mambaout": {},
    "test_nfnet": {},
    "test_resnet": {},
    "test_vit": {"img_size": 64},
    "mobilenetv3_small_050": {},
    "regnetx_002": {},
    "ghostnet_050": {},
    "edgenext_xx_small": {},
    "xcit_nano_12_p16_224": {},
}
FORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "wrapped": lambda net: AlignMixModel(net, input_size=SIZE),
    "average": ModelEmaV3,
    "compiled": lambda net: torch.compile(net, backend="eager"),  # type: ignore[dict-item]
    "channels_last": lambda net: net.to(memory_format=torch.channels_last),
    "bf16": lambda net: net.to(torch.bfloat16),
}


def preprocessing(number: int) -> dict[str, Any]:
    """Another one for each model."""
    return {
        "input_size": SIZE,
        "mean": (0.1 * number, 0.5, 0.4),
        "std": (0.2, 0.01 * number + 0.1, 0.3),
        "interpolation": ("bilinear", "bicubic")[number % 2],
        "crop_pct": 0.9 + 0.005 * number,
        "crop_mode": "center",
    }


def random_model(name: str, **args: Any) -> Any:
    """With no parameter at zero, so that every part reaches the logits."""
    net = timm.create_model(name, num_classes=len(LABELS), **args).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net


def main(folder: Path) -> None:
    torch.manual_seed(0)
    expected, images = {}, torch.randn(2, *SIZE)
    models = {name: (name, args, lambda net: net) for name, args in FAMILIES.items()}
    models |= {name: ("test_resnet", {}, form) for name, form in FORMS.items()}
    for number, (name, (architecture, args, form)) in enumerate(models.items()):
        model = form(random_model(architecture, **args))
        state = {key.removeprefix("_orig_mod."): value for key, value in model.state_dict().items()}
        state = {key.removeprefix("module."): value.float().contiguous() for key, value in state.items()}
        repo_id = f"alice/{name}"
        if name == "bf16":
            save_for_timm(model, folder / "run" / "model", LABELS, preprocessing(number), args)
            sys.argv[1:] = ["push", str(folder / "run"), repo_id, "--tag", "v1"]
            command.main()  # as alignmix-timm
        else:
            save_for_timm(model, folder / name, LABELS, preprocessing(number), args)
            print(upload(folder / name, repo_id, tag="v1"))
        if name == "test_vit":
            print(upload(folder / name, repo_id, branch="user/trial"))
            print(upload(folder / name, repo_id, tag="v2", branch="user/trial"))  # which is there now
        plain = timm.create_model(architecture, num_classes=len(LABELS), **args).eval()
        plain.load_state_dict(state)
        with torch.no_grad():
            expected[repo_id] = plain(images), preprocessing(number)
    torch.save({"images": images, "labels": LABELS, "expected": expected}, folder / "expected.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
