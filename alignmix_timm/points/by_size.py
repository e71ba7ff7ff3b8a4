"""The points of one model at each size of its images."""

import logging
from collections.abc import Sequence

from torch import nn

from . import ImageSize, MixingPoint, choose_points
from .stages import stage_module

_logger = logging.getLogger(__name__)

Layer = str | int | None  # name of a module, number of a stage, or the mixing point


class PointsBySize:
    """Chooses the mixing point and the points of further layers, once for each size.

    Args:
        model: A timm classifier.
        feature_module: Of the mixing point, by name or index; None is the automatic choice.
        layers: Where features or embeddings are mixed: None is the mixing point. Of images alone, which are mixed
            anywhere, there are none, and the mixing point may be missing.
        classifier: Of a model without ``get_classifier()``, by name.

    Attributes:
        names: Name of the module of each further layer.

    Raises:
        ValueError: a layer that the model does not have.
    """

    def __init__(
        self,
        model: nn.Module,
        feature_module: str | int | None,
        layers: Sequence[Layer],
        classifier: str | Sequence[str] | None = None,
    ) -> None:
        self.model, self.feature_module, self.classifier = model, feature_module, classifier
        self.names = {
            layer: stage_module(model, layer) if isinstance(layer, int) else layer
            for layer in layers
            if layer is not None
        }
        self._needed = bool(layers) or feature_module is not None
        self._points: dict[ImageSize, dict[Layer, MixingPoint]] = {}

    def at(self, image_size: ImageSize) -> dict[Layer, MixingPoint]:
        """The mixing point, under None, and those of the layers, for images (C, H, W), if there are any.

        Raises:
            ValueError: see :func:`alignmix_timm.choose_point`.
        """
        if image_size not in self._points:
            names = [self.feature_module, *self.names.values()]
            try:
                points = choose_points(self.model, image_size, names, self.classifier)
            except ValueError:
                if self._needed:
                    raise
                self._points[image_size] = {}
                return {}
            self._points[image_size] = dict(zip((None, *self.names), points, strict=True))
            _logger.info("AlignMix mixes %s at images of %s.", points[0], image_size)
        return self._points[image_size]

    def forget(self) -> None:
        """Choose anew: the model has changed."""
        self._points.clear()

    def describe(self, image_size: ImageSize, layers: Sequence[Layer]) -> str:
        """Say in words where batches are mixed at some of the layers."""
        parts = [str(self.at(image_size)[None])] if None in layers else []
        if named := [name for layer, name in self.names.items() if layer in layers]:
            parts.append(f"features in place at {', '.join(named)}")
        return "; ".join(parts) or "images"
