"""One training step for each mode, in each of two processes; run by test_distributed.py under ``accelerate launch``.

    distributed_step.py OUT ddp|vit|fsdp|alignmix_ae|alignmix_vae MODE [MODE ...]  # or a mixer, but for AlignMix

Each process mixes its own batch and writes its mixing parameters, its loss, the reduced gradients, and the names of the
parameters that an optimizer with momentum and weight decay then leaves as they are. Every step starts from the same
weights, but with the momenta of those before it.
"""

import sys
from pathlib import Path

import timm
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from style import Identity
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from alignmix_timm import AlignMixCollator, AlignMixModel, Autoencoder
from alignmix_timm.mixers import (
    AlignMixup,
    CoMixup,
    CutMix,
    Cutout,
    InputMixup,
    ManifoldMixup,
    Mixer,
    OneOf,
    PuzzleMix,
    SaliencyMix,
    StyleCutMix,
    StyleMix,
)

BATCH, CLASSES, SIZE = 6, 4, 64
OTHERS: tuple[Mixer, ...] = (
    ManifoldMixup((2,), per_example=True),
    InputMixup(),
    CutMix(per_example=True),
    SaliencyMix(),
    PuzzleMix(),
    CoMixup(part=3),
    Cutout(),
    StyleMix(codec=Identity(), size=None, prob=1.0),
    StyleCutMix(codec=Identity(), size=None, prob=1.0, per_example=True),
)
MIXER = OneOf((AlignMixup(), *OTHERS))


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    image = (3, SIZE, SIZE)
    if kind == "ddp":
        return AlignMixModel(timm.create_model("test_resnet", num_classes=CLASSES), mixer=MIXER, input_size=image)
    if kind in ("vit", "fsdp"):
        net = timm.create_model("test_vit", num_classes=CLASSES, img_size=SIZE)
        return AlignMixModel(net, mixer=MIXER, input_size=image)
    options = dict(backbone="preact_resnet18", img_size=SIZE, embed_dim=16, backbone_args={"width": 4})
    net = timm.create_model("alignmix_encoder", num_classes=CLASSES, **options)
    return Autoencoder(net, image, variational=kind == "alignmix_vae", decoder_width=4)


def examples(rank: int, step: int) -> list[tuple[torch.Tensor, int]]:
    generator = torch.Generator().manual_seed(100 * step + rank)
    return [(torch.randn(3, SIZE, SIZE, generator=generator), row % CLASSES) for row in range(BATCH)]


def collator(word: str) -> AlignMixCollator:
    """For a mode of AlignMix, or the mixer of this name."""
    other = next((mixer for mixer in OTHERS if mixer.name == word), None)
    return AlignMixCollator(modes=(word,)) if other is None else AlignMixCollator(mixer=other)


def forward(model: nn.Module, batch: dict[str, object], rank: int, step: int) -> torch.Tensor:
    """The loss; a variational encoder draws the same noise wherever this is computed."""
    torch.manual_seed(100 * step + rank)
    return model(**batch).loss


def main() -> None:
    out, kind, modes = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = build(kind).train()
    if kind == "fsdp":
        mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
        for block in model.model.blocks:
            fully_shard(block, mesh=mesh)
        wrapped = fully_shard(model, mesh=mesh)
    else:
        wrapped = DistributedDataParallel(model, find_unused_parameters=kind != "ddp")
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for step, mode in enumerate(modes):
        batch = collator(mode)(examples(rank, step))
        optimizer.zero_grad()
        loss = forward(wrapped, batch, rank, step)
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        optimizer.step()
        kept = {name for name, parameter in model.named_parameters() if bool((parameter == before[name]).all())}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(before[name])
        gradients = {
            name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in gradients.items()
        }
        record = {"mix": batch["mix"], "loss": loss.detach(), "gradients": gradients, "kept": kept}
        torch.save(record, out / f"{step}_{rank}.pt")
    if kind == "fsdp":
        weights, state = get_state_dict(model, optimizer)
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=out / "checkpoint")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
