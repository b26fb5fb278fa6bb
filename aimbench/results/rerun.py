"""The command that makes a record again."""

import shlex

from aimbench.method_cards import MethodCard
from aimbench.record import Record

# What `aimbench run` has an option for; the other settings have one value only there.
_OPTIONS = (
    "train",
    "epochs",
    "batch_size",
    "lr",
    "backbone_lr",
    "weight_decay",
    "optimizer",
    "schedule",
    "image_size",
    "loader",
    "precision",
)


def rerun_command(record: Record, card: MethodCard | None) -> str:
    """Returns the `aimbench run` that has this record's definition, quoted for a shell.

    Args:
        record: the record.
        card: of its method, which names the settings that a definition leaves out.
    """
    dataset = f"{record.dataset.name}@{record.dataset.variant}"
    words = ["aimbench", "run", "--method", record.method.name, "--dataset", dataset]
    words += ["--backbone", record.backbone.name, "--seed", str(record.seed), "--selector", record.selector]
    for name in _OPTIONS:
        if name in record.training:
            words += [f"--{name.replace('_', '-')}", str(record.training[name])]
    words += ["--augment"] if record.training.get("augment") else []
    if (samples := record.evaluation.get("epg_samples")) is not None:
        words += ["--epg-samples", str(samples)]
    if attributions := record.evaluation.get("attributions"):
        words += ["--attributions", ",".join(attributions)]
    left_out = card.later if card is not None else {}
    for key, value in {**left_out, **record.method.config}.items():
        words += ["--set", f"{key}={_yaml_scalar(value)}"]
    return shlex.join(words)


def _yaml_scalar(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
