"""One training step in each of two processes; run by test_distributed.py under ``accelerate launch``.

    distributed_step.py OUT ddp|fsdp MODE [MODE ...]

Each process mixes its own batch and writes its parameters and, in the first, the reduced gradients.
"""

import sys
from pathlib import Path

import timm
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from alignmix_timm import AlignMixCollator, AlignMixModel

BATCH, CLASSES, SIZE = 6, 4, 64


def build(architecture: str) -> AlignMixModel:
    torch.manual_seed(0)
    options = {"img_size": SIZE} if "vit" in architecture else {}
    return AlignMixModel(timm.create_model(architecture, num_classes=CLASSES, **options), input_size=(3, SIZE, SIZE))


def examples(rank: int, step: int) -> list[tuple[torch.Tensor, int]]:
    generator = torch.Generator().manual_seed(100 * step + rank)
    return [(torch.randn(3, SIZE, SIZE, generator=generator), row % CLASSES) for row in range(BATCH)]


def main() -> None:
    out, kind, modes = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = build("test_vit" if kind == "fsdp" else "test_resnet").train()
    if kind == "fsdp":
        mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
        for block in model.model.blocks:
            fully_shard(block, mesh=mesh)
        wrapped = fully_shard(model, mesh=mesh)
    else:
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
    collators = [AlignMixCollator(seed=0, modes=(mode,)) for mode in modes]
    for step, collator in enumerate(collators):
        batch = collator(examples(rank, step))
        wrapped.zero_grad()
        loss = wrapped(**batch).loss
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.model.named_parameters()}
        gradients = {
            name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in gradients.items()
        }
        record = {"mix": batch["mix"], "loss": loss.detach(), "gradients": gradients}
        torch.save(record, out / f"{modes[step]}_{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
