"""Published numbers with their source: shown beneath our tables, never ranked with them."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from aimbench.errors import RecordError
from aimbench.results.tables import Table
from aimbench.wrong_fields import wrong_fields


class Reference(BaseModel):
    """One published number, as printed: a row of ``results/reference/*.csv``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: str = Field(min_length=1)
    dataset: str = Field(description="Name of a card; empty for what depends on no dataset, such as cost.")
    variant: str = Field(description="Variant of the card; empty if the dataset has only one.")
    backbone: str
    metric: str = Field(min_length=1, description="Such as 'accuracy', 'worst_group_accuracy' or 'epg'.")
    value: float = Field(description="In percent, unless the metric's name says otherwise.")
    std: float | None = Field(description="Spread over runs, where one was printed.")
    selector: str = Field(description="How the epoch was chosen; empty if the source does not say.")
    average: str = Field(
        description="Which accuracy: 'raw', 'reweighted' or 'group mean'; empty if the source does not say."
    )
    source: str = Field(min_length=1)
    confidence: Literal["read in the paper", "authors' code", "secondary source"]

    @field_validator("std", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value


def load_references(folder: Path) -> list[Reference]:
    """Reads every CSV of published numbers in a folder; a missing folder holds none.

    Raises:
        RecordError: If a row is malformed; names the file, the line and the column.
    """
    return [reference for path in sorted(folder.glob("*.csv")) for reference in _load(path)]


def references_for(tables: Iterable[Table], references: Iterable[Reference]) -> list[Reference]:
    """Returns the references on the datasets and variants of the tables, sorted.

    A mini set has none: it holds no photograph that anybody published a number on.
    """
    shown = {(table.dataset, table.variant) for table in tables if table.kind != "mini"}
    datasets = {dataset for dataset, _ in shown}
    chosen = [r for r in references if (r.dataset, r.variant) in shown or (not r.variant and r.dataset in datasets)]
    return sorted(chosen, key=lambda r: (r.dataset, r.variant, r.metric, r.method, r.source))


def _load(path: Path) -> Sequence[Reference]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_parse(row, path, line) for line, row in enumerate(csv.DictReader(file, strict=True), 2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"reference {path}: not readable as CSV ({error}); restore it") from error


def _parse(row: dict[str, Any], path: Path, line: int) -> Reference:
    try:
        return Reference.model_validate(row)
    except ValidationError as error:
        raise RecordError(f"reference {path}, row {line}: {wrong_fields(error, Reference, noun='column')}") from error
