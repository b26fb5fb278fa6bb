"""A classifier: a backbone's feature pyramid and the head that a method puts on it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from aimbench.data.batch import Batch
from aimbench.models.backbones import EMBEDDING, STAGES, FeaturePyramid


@dataclass
class Output:
    """What a head says of a batch.

    Attributes:
        logits: ``(N, K)``, the method's prediction.
        stage_logits: further classifiers' logits by name, each ``(N, K)``.
        masks: the method's own spatial masks by stage name, ``(N, 1, h, w)`` in {0, 1},
            coarse to fine. Empty where a method masks nothing.
        mask_probabilities: probability that a position is open, shaped like ``masks``, where masks are learned.
        embedding: ``(N, D)``, what the last linear layer saw.
        last_map: the map that the classifier pools, where the head makes it and it is not the last of the
            features; GradCAM reads it then.
    """

    logits: Tensor
    stage_logits: dict[str, Tensor] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    mask_probabilities: dict[str, Tensor] = field(default_factory=dict)
    embedding: Tensor | None = None
    last_map: Tensor | None = None


class Head(nn.Module):
    """What a method builds on the pyramid. Subclasses implement ``forward``.

    Attributes:
        stages: indices of the pyramid's entries that the head reads, so that frozen features of
            others need not be kept.
        embedding_only: the head reads nothing but ``pyramid.embed(features)``. With a frozen backbone it is then
            handed that vector alone, ``features[EMBEDDING]``, and an epoch takes a moment.
        reads_mask: the head is handed the ground-truth mask (its method's regime must say ``masks``).
    """

    stages: tuple[int, ...] = (STAGES - 1,)
    embedding_only: bool = False
    reads_mask: bool = False

    @property
    def cached_entries(self) -> tuple[int, ...]:
        """Entries that are kept of a frozen backbone's features."""
        return (EMBEDDING,) if self.embedding_only else self.stages

    def forward(self, features: list[Tensor], mask: Tensor | None = None) -> Output:
        """Classifies a pyramid; entries outside ``stages`` may be empty."""
        raise NotImplementedError


class Classifier(nn.Module):
    """Backbone and head as one module. ``model(batch)`` is the one way through it in training."""

    def __init__(self, pyramid: FeaturePyramid, head: Head) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.head = head

    def forward(self, batch: Batch) -> Output:
        """Predicts a batch from its images, or from its cached features where it carries them."""
        features = batch.features if batch.features is not None else self.features(batch.image)
        return self.predict(features, batch.mask if self.head.reads_mask else None)

    def features(self, image: Tensor) -> list[Tensor]:
        """What the head reads of the pyramid of normalised images ``(N, 3, H, W)``; see ``FeaturePyramid.forward``."""
        features: list[Tensor] = self.pyramid(image, self.head.stages)
        return features

    def predict(self, features: list[Tensor], mask: Tensor | None = None) -> Output:
        """What the head says of a pyramid. ``mask`` goes to heads that read ground truth only."""
        output: Output = self.head(features, mask) if self.head.reads_mask else self.head(features)
        return output


class Standardize(nn.Module):
    """Per-channel standardisation by running statistics, without learned scale or shift.

    A linear head on frozen features trains poorly when their scales differ by
    orders of magnitude; this is what a feature scaler before logistic
    regression does. Works on ``(N, C)`` and ``(N, C, h, w)``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, affine=False)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and scale ``(C,)`` that ``x`` is standardised by in evaluation: ``(x - mean) / scale``."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert variance is not None
        return mean, (variance + self.norm.eps).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x`` standardised per channel, same shape."""
        flat = x.flatten(2) if x.dim() > 2 else x
        standardised: Tensor = self.norm(flat)
        return standardised.reshape(x.shape)


class LinearHead(Head):
    """The ordinary classifier: the network's own pooled embedding, then a linear layer."""

    embedding_only = True

    def __init__(self, pyramid: FeaturePyramid, num_classes: int, *, standardize: bool = False) -> None:
        super().__init__()
        self.stages = (STAGES,) if pyramid.is_token_grid else (STAGES - 1,)
        self._embed = pyramid.embed  # a bound method, so that the pyramid is not registered twice
        self.standardize = Standardize(pyramid.embed_dim) if standardize else nn.Identity()
        self.classifier = nn.Linear(pyramid.embed_dim, num_classes)

    def forward(self, features: list[Tensor], mask: Tensor | None = None) -> Output:
        """Classifies the pooled embedding of S3 (of the class token for a plain ViT)."""
        embedding = self._embed(features)
        return Output(logits=self.classifier(self.standardize(embedding)), embedding=embedding)

    @torch.no_grad()
    def set_linear(self, weight: Tensor, bias: Tensor) -> None:
        """Sets the head so that logits are ``weight @ embedding + bias``, whether it standardises or not.

        Args:
            weight: ``(K, D)``.
            bias: ``(K,)``.
        """
        if isinstance(self.standardize, Standardize):
            # The layer sees (e - mean) / scale, so the scale and the shift are undone in its parameters.
            mean, scale = self.standardize.statistics()
            bias = bias + weight @ mean.to(weight)
            weight = weight * scale.to(weight)
        self.classifier.weight.copy_(weight)
        self.classifier.bias.copy_(bias)
