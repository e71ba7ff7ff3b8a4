"""What the classes of a model are called, in pictures."""

from timm.data import ImageNetInfo, infer_imagenet_subset

from .context import Context


def class_names(context: Context) -> list[str]:
    """Names of all classes: the model's own; those of data with as many; ImageNet's for a model of timm; or numbers."""
    subject, data = context.subject, context.data
    own = getattr(data.rows.features.get(data.label), "names", [])
    for names in (subject.label_names, own):
        if names is not None and len(names) == subject.model.num_classes:
            return list(names)
    subset = infer_imagenet_subset(subject.model.net) if subject.folder is None else None
    if subset is None:
        return [f"class {number}" for number in range(subject.model.num_classes)]
    imagenet = ImageNetInfo(subset)
    return [imagenet.index_to_description(number) for number in range(subject.model.num_classes)]
