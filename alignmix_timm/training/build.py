"""Model, loss, optimizer and learning-rate schedule of a run: timm's, by its options."""

import textwrap
from dataclasses import replace
from typing import Any

import timm
import torch
from timm.layers import convert_sync_batchnorm
from timm.loss import BinaryCrossEntropy
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import Optimizer

from ..attaching import AttachOptions
from ..mixers import Mixer
from ..model import AlignMixModel
from ..nearest import nearest
from ..networks.autoencoder import Autoencoder
from ..targets import SoftmaxBinaryCrossEntropy
from .config import TrainConfig
from .data.transforms import check_augmentation
from .weights import check_weights, with_weights

_GRAPHS = 32  # of a compiled model, at most: one for each layer that is mixed and a few more, at two batch sizes


def check_names(config: TrainConfig) -> None:
    """Raise ValueError for a model, optimizer, augmentation or interpolation that timm does not know."""
    check_model(config.model)
    build_optimizer(nn.Linear(1, 1), replace(config, layer_decay=None, body_lr_scale=1.0), {})
    check_augmentation(config)


def check_model(name: str) -> None:
    """Raise ValueError if timm has no such architecture or pretrained tag; names the nearest."""
    if ":" in name:
        return  # on the Hub, or in a folder
    if not timm.is_model(name):
        raise ValueError(
            f"model {name!r} cannot be built: timm has none of this name.{nearest(name, timm.list_models())} "
            "See timm.list_models()."
        )
    try:
        timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ValueError(f"model {name!r} cannot be built: {error} See timm.list_pretrained().") from error


def build_model(config: TrainConfig, num_classes: int) -> Any:
    """The timm model.

    Raises:
        ValueError: timm cannot build it, or its weights cannot be had; the message says why.
    """
    name = architecture(config)
    net: Any
    options: dict[str, Any] = dict(num_classes=num_classes, in_chans=config.in_chans, pretrained=config.pretrained)
    if config.embedding != "none":
        options["pretrained_backbone"] = options.pop("pretrained")
    if config.drop is not None:
        options["drop_rate"] = config.drop
    if config.drop_path is not None:
        options["drop_path_rate"] = config.drop_path
    if config.initial_checkpoint is not None:
        check_weights(config.initial_checkpoint)
    try:
        options = dict(**options, **model_args(config))  # none twice
        if config.initial_checkpoint is None:
            net = timm.create_model(name, **options)
        else:
            net = with_weights(config.initial_checkpoint, name, options)
        if config.grad_checkpointing:
            net.set_grad_checkpointing(True)
    except Exception as error:  # timm, the Hub's client and torch raise many kinds
        reason = textwrap.shorten(str(error), 500).rstrip(".") or type(error).__name__
        raise ValueError(
            f"model {config.model!r} cannot be built: {reason}. See timm.list_models(), and --pretrained, "
            "--initial-checkpoint, --model-args."
        ) from error
    built, asked = net.pretrained_cfg["architecture"], architecture(config)
    if config.initial_checkpoint and ":" not in asked and asked.partition(".")[0] != built:
        raise ValueError(f"model must be that of initial_checkpoint, {built!r}, got {asked!r}.")
    if config.sync_bn:
        net = convert_sync_batchnorm(net)
    return net


def without_weights(config: TrainConfig) -> TrainConfig:
    """The options of a model whose weights come from a checkpoint of its run."""
    return replace(config, pretrained=False, initial_checkpoint=None)


def architecture(config: TrainConfig) -> str:
    """Name of the network in timm's registry."""
    return config.model if config.embedding == "none" else "alignmix_encoder"


def model_args(config: TrainConfig) -> dict[str, Any]:
    """Arguments of ``timm.create_model`` that the architecture needs to be built again."""
    known = timm.models.get_pretrained_cfg(config.model)
    if config.embedding == "none":
        sized = {"img_size": config.image_size} if config.image_size and known and known.fixed_input_size else {}
        return {**sized, **config.model_args}
    return {
        "backbone": config.model,
        "embedding": config.embedding,
        "embed_dim": config.embed_dim,
        "grid": config.grid,
        "img_size": config.image_size or (known.input_size[-1] if known else 224),
        "backbone_args": dict(config.model_args),
    }


def build_criterion(config: TrainConfig) -> nn.Module:
    """The loss, on float targets [B, C]; label smoothing is in the targets."""
    if config.loss == "bce":
        return BinaryCrossEntropy(smoothing=0.0, target_threshold=config.bce_target_thresh)
    return SoftmaxBinaryCrossEntropy() if config.loss == "bce_softmax" else nn.CrossEntropyLoss()


def wrap_model(net: Any, config: TrainConfig, data: dict[str, Any], mixer: Mixer) -> AlignMixModel | Autoencoder:
    """The model with AlignMix attached, and with a decoder if the method has one; compiled if asked for.

    Raises:
        ValueError: the model has no usable mixing point, or the images no size that can be decoded.
    """
    options: dict[str, Any] = {
        name: getattr(config, name) for name in AttachOptions.__annotations__ if hasattr(config, name)
    }
    options |= dict(criterion=build_criterion(config), mixer=mixer, label_smoothing=config.smoothing)
    wrapped: AlignMixModel | Autoencoder
    if config.method == "alignmix":
        wrapped = classifier = AlignMixModel(net, **options | {"input_size": data["input_size"]})
    else:
        wrapped = Autoencoder(
            net,
            data["input_size"],
            variational=config.method == "alignmix_vae",
            decoder_width=config.decoder_width,
            reconstruction_weight=config.reconstruction_weight,
            kl_weight=config.kl_weight,
            mean=data["mean"],
            std=data["std"],
            **options,
        )
        classifier = wrapped.classifier
        if config.sync_bn:
            wrapped.decoder = convert_sync_batchnorm(wrapped.decoder)
    if config.compile:
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _GRAPHS)
        classifier.model.compile()
    return wrapped


def build_ema(net: nn.Module, config: TrainConfig) -> ModelEmaV3 | None:
    """The EMA weights, timm's, in fp32; made before AlignMix is attached, so it never mixes."""
    if not config.model_ema:
        return None
    return ModelEmaV3(net, decay=config.model_ema_decay, use_warmup=config.model_ema_warmup)


def learning_rate(config: TrainConfig) -> float:
    """The peak learning rate: as given, or in proportion to the images of an optimizer step."""
    return config.lr if config.lr is not None else config.lr_base * config.batch_size / config.lr_base_size


def build_optimizer(net: Any, config: TrainConfig, beside: dict[str, nn.Parameter]) -> Optimizer:
    """timm's optimizer, for the net and what is trained beside it; no weight decay for biases and norms.

    Raises:
        ValueError: unknown to timm, or wrong arguments.
    """
    parameters: Any = net
    if config.body_lr_scale != 1:
        if config.layer_decay is not None:
            raise ValueError(
                "body_lr_scale and layer_decay must not both be given: each sets the learning rate of parts."
            )
        parameters = _two_rates(net, config)
    try:
        optimizer = create_optimizer_v2(
            parameters,
            opt=config.opt,
            lr=learning_rate(config),
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            layer_decay=config.layer_decay,
            **config.opt_args,
        )
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"opt {config.opt!r} with opt_args {config.opt_args} cannot be built: {error}") from error
    for parameter in beside.values():
        decay = config.weight_decay if parameter.ndim > 1 else 0.0  # as timm's optimizers have it
        optimizer.add_param_group({"params": [parameter], "weight_decay": decay, "lr_scale": config.body_lr_scale})
    return optimizer


def trained_beside(net: nn.Module, wrapped: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained beside the net and not published: the decoder, the standard deviation of the VAE."""
    published = {id(parameter) for parameter in net.parameters()}
    return {name: parameter for name, parameter in wrapped.named_parameters() if id(parameter) not in published}


def build_lr_schedule(optimizer: Optimizer, config: TrainConfig, steps_per_epoch: int) -> Any:
    """timm's learning-rate schedule, a function of the number of optimizer steps; None if there is none."""
    if config.sched == "none":
        for group in optimizer.param_groups:  # as timm's schedules do
            group["lr"] *= group.get("lr_scale", 1.0)
        return None
    lr_schedule, _ = create_scheduler_v2(
        optimizer,
        sched=config.sched,
        num_epochs=config.epochs,
        decay_epochs=config.decay_epochs,
        decay_milestones=config.decay_milestones,
        decay_rate=config.decay_rate,
        min_lr=config.min_lr,
        warmup_lr=config.warmup_lr,
        warmup_epochs=config.warmup_epochs,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return lr_schedule


def _two_rates(net: Any, config: TrainConfig) -> list[dict[str, Any]]:
    """Groups for classifier and rest, each with and without weight decay; timm's schedules know ``lr_scale``."""
    heads = net.get_classifier()
    heads = heads if isinstance(heads, tuple | list) else [heads]
    classifier = {id(parameter) for head in heads for parameter in head.parameters()}
    skipped = net.no_weight_decay() if hasattr(net, "no_weight_decay") else ()
    groups = []
    for group in param_groups_weight_decay(net, config.weight_decay, no_weight_decay_list=skipped):
        head: list[nn.Parameter] = []
        body: list[nn.Parameter] = []
        for parameter in group["params"]:
            (head if id(parameter) in classifier else body).append(parameter)
        for scale, parameters in ((1.0, head), (config.body_lr_scale, body)):
            if parameters:
                groups.append({"params": parameters, "lr_scale": scale, "weight_decay": group["weight_decay"]})
    return groups
