"""A finished or stopped run, opened again with one of its checkpoints."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError

from aimbench.errors import ConfigError
from aimbench.record import ROUNDING_TIPS, Definition, Record, with_later
from aimbench.train import checkpoint
from aimbench.train.attributions import DEFAULT
from aimbench.train.evaluate import BATCH, evaluated_positions
from aimbench.train.experiment import Experiment, Request
from aimbench.train.loop import Trainer
from aimbench.train.progress import Reporter
from aimbench.train.registry import later_settings
from aimbench.train.run_folder import run_folder

_COMPARED = 256
"""Test samples that tell one training from another."""


def open_run(run: str, *, data_root: Path, runs_root: Path, cards: Path | None = None) -> tuple[Experiment, Trainer]:
    """Opens a finished (or stopped) run with the model that its selector chose.

    Args:
        run: record id, or its beginning.
        data_root: of shards.
        runs_root: of checkpoints.
        cards: folder of further cards.

    Raises:
        ConfigError: no run, or more than one, has the id.
    """
    file = run_folder(run, runs_root) / "selected.pt"
    return open_checkpoint(file, data_root=data_root, cards=cards)


def open_checkpoint(file: Path, *, data_root: Path, cards: Path | None = None) -> tuple[Experiment, Trainer]:
    """Opens a run by one of its checkpoints, with the model that it holds.

    Args:
        file: ``selected.pt`` or ``last.pt`` in the run's folder, beside its ``definition.json``.
        data_root: of shards; the dataset that the run was trained on must be there.
        cards: folder of further cards.

    Raises:
        ConfigError: the folder is no run's, or the checkpoint is missing, damaged, of another run or network, or
            would run code when loaded.
    """
    folder = file.resolve().parent
    if not file.exists():
        raise ConfigError(f"checkpoint {file} does not exist; those of a run lie in its folder under --runs")
    try:
        definition = Definition.model_validate_json((folder / "definition.json").read_bytes())
        local = json.loads((folder / "request.json").read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder} is no run's folder: it holds no {Path(error.filename).name}; a checkpoint of"
            " another program's is evaluated with --timm or --torchvision, predictions with --predictions"
        ) from None
    except (ValidationError, ValueError) as error:
        raise ConfigError(f"{folder}: its definition.json or request.json is damaged; run it again") from error
    state = checkpoint.load(file, definition.id)
    if "model" not in state:
        raise ConfigError(f"checkpoint {file} is none of this run's; give selected.pt or last.pt of its folder")
    experiment = Experiment(
        Request(
            method=definition.method.name,
            dataset=f"{definition.dataset.name}@{definition.dataset.variant}",
            backbone=definition.backbone.name,
            weights=local["weights"],
            seed=definition.seed,
            data_root=data_root,
            runs_root=folder.parents[1],
            selector=definition.selector,
            settings=with_later(definition.method.config, later_settings(definition.method.name)),
            training=definition.training,
            epg_samples=definition.evaluation["epg_samples"],
            epg_region=definition.evaluation.get("epg_region", "mask"),
            attributions=tuple(definition.evaluation.get("attributions", DEFAULT)),
            cards=cards or (Path(local["cards"]) if local["cards"] else None),
            workers=0,
        ),
        Reporter(),
    )
    built = experiment.dataset.manifest.fingerprint
    if built != definition.dataset.fingerprint:
        raise ConfigError(
            f"run {definition.id} was trained on a build of {experiment.request.dataset} with fingerprint"
            f" {definition.dataset.fingerprint[:12]}, but {data_root} holds {built[:12]}; name its data with --data"
        )
    for part in ("backbone", "training", "evaluation"):
        if getattr(experiment.definition, part) != getattr(definition, part):
            raise ConfigError(
                f"run {definition.id}: its {part} is no longer what it was trained with (weights, or the card's"
                f" transforms, have changed since); put the earlier back, or run it again"
            )
    if experiment.method.defining() != definition.method.config:
        raise ConfigError(
            f"run {definition.id}: method '{definition.method.name}' has other settings than it was trained with;"
            " open it with the version that made it, or run it again"
        )
    # A method's source or regime may be worded anew; the run stays the one that was opened.
    experiment.definition = definition
    experiment.folder = folder
    trainer = experiment.trainer(opened=True)
    try:
        trainer.load_state(state["model"])
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:300]
        raise ConfigError(f"checkpoint {file} does not fit run {definition.id}: {problem}") from error
    trainer.model.eval()
    return experiment, trainer


def check_tells_of(record: Record, said: Mapping[str, int], experiment: Experiment, trainer: Trainer) -> None:
    """Checks that an opened run is the very one that a record tells of, before the two are used together.

    A run that was made again has the same id, and may have come out otherwise on another machine.

    Args:
        record: of the registry.
        said: class index that the record holds for each test sample, by key.
        experiment: the run.
        trainer: with the model that its selector chose.

    Raises:
        ConfigError: the run is just being made again, kept another epoch, or answers otherwise.
    """
    mend = "name the registry that has this run's own record with --results"
    if experiment.is_rerun:
        raise ConfigError(f"run {record.id} is being made again in {experiment.folder}; finish 'run --rerun' first")
    chosen = trainer.chosen()
    if record.selected and any(chosen[key] != record.selected[key] for key in ("phase", "epoch")):
        raise ConfigError(
            f"run {record.id} in {experiment.folder} kept epoch {chosen['epoch'] + 1}, but its record tells of epoch"
            f" {record.selected['epoch'] + 1}; {mend}"
        )
    data, fabric = trainer.data, trainer.fabric
    source = data.photographs("test", BATCH, region=True)
    order = evaluated_positions(len(source), _COMPARED)
    keys = data.dataset.split("test").keys
    others = 0
    with torch.no_grad(), fabric.autocast():
        for batch in source.epoch(order, seed=0):
            predicted = trainer.model(batch.to(fabric.device, channels_last=True)).logits.argmax(dim=1)
            others += sum(said.get(keys[i]) != p for i, p in zip(batch.index.tolist(), predicted.tolist(), strict=True))
    if others > ROUNDING_TIPS * len(order):
        raise ConfigError(
            f"run {record.id} in {experiment.folder} predicts another class than its record on {others} of"
            f" {len(order)} test samples, so the record tells of another training; {mend}"
        )
