"""The command that makes a record again."""

import shlex

from aimbench.method_cards import MethodCard
from aimbench.record import Record, with_later

# What `aimbench run` has an option for.
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
    "augment_on",
)
# What a plan may set and `aimbench run` has no option for, at the value that it has there.
_FIXED = {"warmup_epochs": 0.0, "grad_clip": None, "channels_last": True}


def rerun_command(record: Record, card: MethodCard | None) -> str | None:
    """Returns the `aimbench run` that has this record's definition, quoted for a shell.

    None where no run made it, or where none can (see `obstacle`).

    Weights of a file are named as the record names them, by the file's name alone.

    Args:
        record: the record.
        card: of its method, which names the settings that a definition leaves out.
    """
    # Nothing was selected of a model as it is, or of predictions made elsewhere.
    if not record.selected or obstacle(record, card) is not None:
        return None
    dataset = f"{record.dataset.name}@{record.dataset.variant}"
    words = ["aimbench", "run", "--method", record.method.name, "--dataset", dataset]
    words += ["--backbone", record.backbone.name, "--seed", str(record.seed), "--selector", record.selector]
    for name in _OPTIONS:
        if name in record.training:
            words += [f"--{name.replace('_', '-')}", str(record.training[name])]
    if (augment := record.training.get("augment")) is not None:
        words += ["--augment" if augment else "--no-augment"]
    if (origin := record.backbone.weights) == "none" or origin.startswith("file:"):
        words += ["--weights", origin.removeprefix("file:")]
    if (region := record.evaluation.get("epg_region")) is not None:
        words += ["--epg-region", region]
    if (samples := record.evaluation.get("epg_samples")) is not None:
        words += ["--epg-samples", str(samples)]
    if attributions := record.evaluation.get("attributions"):
        words += ["--attributions", ",".join(attributions)]
    for key, value in with_later(record.method.config, card.later if card is not None else {}).items():
        words += ["--set", f"{key}={_yaml_scalar(value)}"]
    return shlex.join(words)


def obstacle(record: Record, card: MethodCard | None) -> str | None:
    """Why no `aimbench run` of this version makes the record of a run again, in words; None if one does."""
    lacking = [name for name in (card.not_before if card is not None else ()) if name not in record.method.config]
    if lacking:
        return f"not by this version: revision {record.code.revision} had no {', '.join(lacking)}"
    planned = [name for name, value in _FIXED.items() if record.training.get(name, value) != value]
    if planned:
        return f"by a plan, whose training gives {', '.join(planned)} as above; 'run' has no option for it"
    return None


def _yaml_scalar(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
