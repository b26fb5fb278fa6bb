"""All that a method's author imports, in one place."""

from aimbench.data.batch import Batch
from aimbench.errors import ConfigError
from aimbench.models.backbones import STAGES, FeaturePyramid
from aimbench.models.classifier import Classifier, Head, LinearHead, Output, Standardize
from aimbench.needs import GroupCounts
from aimbench.train.balance import balanced_subset, inverse_frequency
from aimbench.train.config import TrainConfig
from aimbench.train.method import Loss, Method, MethodConfig, Regime
from aimbench.train.phase import Fitted, Phase, Progress
from aimbench.train.predictions import Embeddings, Predictions
from aimbench.train.registry import register_method
from aimbench.train.run import Run
from aimbench.train.whole_batch import batch_mean, batch_sum, uniform_like

__all__ = [
    "STAGES",
    "Batch",
    "Classifier",
    "ConfigError",
    "Embeddings",
    "FeaturePyramid",
    "Fitted",
    "GroupCounts",
    "Head",
    "LinearHead",
    "Loss",
    "Method",
    "MethodConfig",
    "Output",
    "Phase",
    "Predictions",
    "Progress",
    "Regime",
    "Run",
    "Standardize",
    "TrainConfig",
    "balanced_subset",
    "batch_mean",
    "batch_sum",
    "inverse_frequency",
    "register_method",
    "uniform_like",
]
