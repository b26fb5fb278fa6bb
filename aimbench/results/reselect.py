"""Another selector on a finished run: which epoch, and what it would have reported. Nothing is trained."""

import io
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from aimbench.errors import ConfigError, RecordError
from aimbench.metrics.groups import headline, split_metrics
from aimbench.metrics.selectors import SELECTORS, EpochScore, check_headline, selector_scores
from aimbench.record import Record, SelectorScore, SplitMetrics
from aimbench.results.predictions import read_table
from aimbench.results.store import Store

if TYPE_CHECKING:
    import pandas as pd


def selectors_of(store: Store, record: Record) -> dict[str, SelectorScore]:
    """What every selector reports, computed from the saved predictions of every epoch.

    Raises:
        RecordError: If the record is external, or predictions are missing or changed.
    """
    return selector_scores(epoch_scores(record, *_tables(store, record)))


def reselect(store: Store, record: Record, selector: str, *, select_regime: str) -> tuple[Record, dict[str, bytes]]:
    """The record that the run would have had under another selector.

    Accuracies are computed from the saved predictions. EPG, mask health, the
    method's further classifiers and the further test conditions were computed for
    the selected epoch alone: they are kept if the new selector chooses the same
    one, else left out.

    Args:
        store: Of the record.
        record: Of the run.
        selector: Name of the selector.
        select_regime: Labels that the method itself declares for selection; a selector that reads groups adds them.

    Returns:
        The new record and its Parquet files by content (``predictions``, ``epochs``).

    Raises:
        RecordError: If the selector is unknown, reads the test set or does not apply, the record is external, or
            predictions are missing or changed.
    """
    try:
        check_headline(selector)
    except ConfigError as error:
        raise RecordError(str(error)) from error
    predictions, epochs = _tables(store, record)
    selectors = selector_scores(epoch_scores(record, predictions, epochs))
    if selector not in selectors:
        raise RecordError(f"selector '{selector}' does not apply to record {record.id}: known: {', '.join(selectors)}")
    chosen = selectors[selector]
    selected = {"phase": chosen.phase, "epoch": chosen.epoch}
    rows = epochs[(epochs["phase"] == chosen.phase) & (epochs["epoch"] == chosen.epoch)]
    if selected == record.selected:
        table, metrics = predictions, dict(record.metrics)
    else:
        table = _at_epoch(predictions, rows)
        metrics = {str(split): _metrics(record, rows) for split, rows in table.groupby("split", sort=False)}
    # Settings that trials chose by the worst group have read groups, whatever chooses the epoch.
    by_groups = SELECTORS[selector].uses_groups or (
        record.search is not None and record.search.metric == "worst_group_accuracy"
    )
    regime = {**record.method.regime, "select": "val_groups" if by_groups else select_regime}
    method = record.method.model_copy(update={"regime": regime})
    changed = record.definition.model_copy(update={"selector": selector, "method": method})
    new = record.model_copy(
        update={
            "id": changed.id,
            "method": method,
            "selector": selector,
            "selected": selected,
            "metrics": metrics,
            "selectors": selectors,
            "probes": record.probes if selected == record.selected else {},
            "environment": {**record.environment, "reselected_from": record.id},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": {},
        }
    )
    return new, {"predictions": _to_bytes(table), "epochs": _to_bytes(epochs)}


def _tables(store: Store, record: Record) -> "tuple[pd.DataFrame, pd.DataFrame]":
    if not record.selected:
        raise RecordError(
            f"record {record.id} is of a model as it is or of predictions made elsewhere, which have no epochs to"
            " choose from"
        )
    return read_table(store, record, "predictions"), read_table(store, record, "epochs")


def epoch_scores(record: Record, predictions: "pd.DataFrame", epochs: "pd.DataFrame") -> list[EpochScore]:
    """Headline metrics of every epoch, in the order of training, which is the order of the file."""
    truth = {str(split): rows for split, rows in predictions.groupby("split", sort=False)}
    found = []
    for (phase, epoch), rows in epochs.groupby(["phase", "epoch"], sort=False):
        of_split, index, prediction = (rows[name].to_numpy() for name in ("split", "index", "prediction"))
        scores = {}
        for split in ("val", "test"):
            places = np.flatnonzero(of_split == split)
            if len(places) != len(truth[split]):
                raise RecordError(
                    f"record {record.id}: epoch {epoch} has {len(places)} predictions of '{split}', not"
                    f" {len(truth[split])}; run it again"
                )
            in_order = prediction[places[np.argsort(index[places], kind="stable")]]
            scores[split] = headline(truth[split]["label"].to_numpy(), in_order, truth[split]["group"].to_numpy())
        first = rows.iloc[0]
        found.append(
            EpochScore(str(phase), int(first["epoch"]), scores["val"], scores["test"], bool(first["candidate"]))
        )
    return found


def _at_epoch(predictions: "pd.DataFrame", rows: "pd.DataFrame") -> "pd.DataFrame":
    """The prediction table with an epoch's predictions; EPG was not computed there."""
    import pandas as pd

    table = predictions[["split", "key", "label", "group"]].copy()
    table["index"] = table.groupby("split", sort=False).cumcount()
    merged = pd.merge(
        table, rows[["split", "index", "prediction", "probability"]], on=["split", "index"], validate="1:1"
    )
    return merged.drop(columns="index")


def _metrics(record: Record, rows: "pd.DataFrame") -> SplitMetrics:
    evaluation: dict[str, Any] = record.evaluation
    return split_metrics(
        rows["label"].to_numpy(),
        rows["prediction"].to_numpy(),
        rows["group"].to_numpy(),
        evaluation["num_classes"],
        evaluation["groups"],
        evaluation["train_group_counts"],
    )


def _to_bytes(table: "pd.DataFrame") -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, compression="zstd", index=False)
    return buffer.getvalue()
