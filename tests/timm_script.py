"""A training script of timm's public parts, put together as timm's own train.py; test_timm_train.py runs it."""

import argparse
import contextlib
import multiprocessing
from pathlib import Path

import numpy as np
import timm
import torch
import yaml
from timm import utils
from timm.data import FastCollateMixup, Mixup, create_dataset, create_loader
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models import create_model, resume_checkpoint
from timm.optim import create_optimizer_v2
from torch.nn.parallel import DistributedDataParallel

config_parser = argparse.ArgumentParser(add_help=False)
config_parser.add_argument("-c", "--config", default="")
parser = argparse.ArgumentParser()
parser.add_argument("data", nargs="?")
parser.add_argument("--model", default="test_resnet")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--workers", type=int, default=0)
parser.add_argument("--start-method", default="fork")
parser.add_argument("--device", default="cpu")
parser.add_argument("--seed", type=int, default=42)
parser.add_argument("--smoothing", type=float, default=0.1)
parser.add_argument("--grad-accum-steps", type=int, default=1)
parser.add_argument("--batch-size", type=int, default=8)
parser.add_argument("--train-img-sizes", type=int, nargs="+")
parser.add_argument("--resume", default="")
parser.add_argument("--output", default="output")
parser.add_argument("--torchcompile")
parser.add_argument("--aug-splits", type=int, default=0)
parser.add_argument("--kd-model-name")
for name in ("amp", "channels-last", "model-ema", "grad-checkpointing", "bce-loss", "no-prefetcher"):
    parser.add_argument(f"--{name}", action="store_true")
for name in ("naflex-loader", "torchscript", "jsd-loss", "split-bn"):
    parser.add_argument(f"--{name}", action="store_true")
group = parser.add_argument_group("Mixup")
group.add_argument("--mixup", type=float, default=0.0, help="mixup alpha")
group.add_argument("--cutmix", type=float, default=0.0)
group.add_argument("--cutmix-minmax", type=float, nargs="+")
group.add_argument("--mixup-prob", type=float, default=1.0)
group.add_argument("--mixup-switch-prob", type=float, default=0.5)
group.add_argument("--mixup-mode", default="batch")
group.add_argument("--mixup-off-epoch", type=int, default=0)


def main() -> None:
    config, remaining = config_parser.parse_known_args()
    if config.config:
        parser.set_defaults(**yaml.safe_load(Path(config.config).read_text()))
    args = parser.parse_args(remaining)
    text = yaml.safe_dump(vars(args))
    device = utils.init_distributed_device(args)
    utils.random_seed(args.seed, args.rank)
    multiprocessing.set_start_method(args.start_method, force=True)
    model = create_model(args.model, num_classes=4)
    model.set_grad_checkpointing(args.grad_checkpointing)
    if args.channels_last:
        model.to(memory_format=torch.channels_last)
    mixup_active = args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None
    collate_fn, mixup_fn = None, None
    if mixup_active:
        settings = dict(
            mixup_alpha=args.mixup,
            cutmix_alpha=args.cutmix,
            cutmix_minmax=args.cutmix_minmax,
            prob=args.mixup_prob,
            switch_prob=args.mixup_switch_prob,
            mode=args.mixup_mode,
            label_smoothing=args.smoothing,
            num_classes=4,
        )
        if args.no_prefetcher:
            mixup_fn = Mixup(**settings)
        else:
            collate_fn = FastCollateMixup(**settings)
    loader = create_loader(
        create_dataset("", root=args.data, split="train"),
        (3, 64, 64),
        args.batch_size,
        is_training=True,
        no_aug=True,
        collate_fn=collate_fn,
        use_prefetcher=not args.no_prefetcher,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        distributed=args.distributed,
        device=device,
        **({"input_size_choices": args.train_img_sizes} if args.train_img_sizes else {}),
    )
    if args.bce_loss:
        criterion = BinaryCrossEntropy(target_threshold=0.2)
    elif mixup_active:
        criterion = SoftTargetCrossEntropy()
    else:
        criterion = LabelSmoothingCrossEntropy(args.smoothing)
    task = None
    if args.kd_model_name:
        from timm.task import LogitDistillationTask  # not in the oldest timm

        teacher = timm.create_model(args.kd_model_name, num_classes=4)
        task = LogitDistillationTask(model, teacher, criterion, device=device, verbose=False)
    optimizer = create_optimizer_v2(model, "sgd", lr=0.05, momentum=0.9)
    start = resume_checkpoint(model, args.resume, optimizer) if args.resume else 0
    ema = utils.ModelEmaV3(model, decay=0.5) if args.model_ema else None
    net = DistributedDataParallel(model) if args.distributed else model
    if args.torchcompile:
        net = torch.compile(net, backend=args.torchcompile)
    saver = None
    if args.rank == 0:
        Path(args.output).mkdir(parents=True, exist_ok=True)
        (Path(args.output) / "args.yaml").write_text(text)
        saver = utils.CheckpointSaver(model, optimizer, args, ema, checkpoint_dir=args.output, max_history=9)
    autocast = torch.autocast("cpu", torch.bfloat16) if args.amp else contextlib.nullcontext()
    for epoch in range(start, args.epochs):
        if args.mixup_off_epoch and epoch >= args.mixup_off_epoch:
            if not args.no_prefetcher and loader.mixup_enabled:
                loader.mixup_enabled = False
            elif mixup_fn is not None:
                mixup_fn.mixup_enabled = False
        net.train()
        for batch, (images, labels) in enumerate(loader):
            if mixup_fn is not None:
                images, labels = mixup_fn(images, labels)
            if args.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with autocast:
                loss = criterion(net(images), labels) if task is None else task(images, labels)["loss"]
            (loss / args.grad_accum_steps).backward()
            if (batch + 1) % args.grad_accum_steps == 0:
                optimizer.step()
                optimizer.zero_grad()
                if ema is not None:
                    ema.update(model)
            print(f"epoch {epoch} batch {batch} loss {loss.item()!r}")
        if saver is not None:
            saver.save_checkpoint(epoch, metric=float(epoch))
    print("generators", torch.rand(1).item(), np.random.rand())
    weights = sum(parameter.double().abs().sum().item() for parameter in model.parameters())
    print(f"rank {args.rank} weights {weights!r}")
    if args.distributed:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
