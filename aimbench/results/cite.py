"""What to cite for a record or a table: aimbench, the dataset and what it is made of, the methods, the metrics."""

import hashlib
import re
from collections.abc import Callable, Iterable

from aimbench import __version__
from aimbench.cards import Card
from aimbench.errors import RecordError
from aimbench.method_cards import MethodCard
from aimbench.record import Record
from aimbench.results.metric_sources import ATTRIBUTIONS, EPG
from aimbench.results.store import Store
from aimbench.results.tables import make_tables

_SOFTWARE = """@software{{{key},
  title   = {{aimbench: a benchmark suite for spurious correlations}},
  author  = {{{{The aimbench authors}}}},
  version = {{{version}}},
  year    = {{{year}}},
  note    = {{{note}}}
}}"""
_OF_SHA256 = (
    "% sha256 of the runs' ids and times: 'aimbench results cite {name}' prints the same where the records are the same"
)


def find_cited(store: Store, name: str) -> tuple[str, list[Record]]:
    """Returns the whole id that ``name`` begins, and its records: one run, or all runs of a table.

    Raises:
        RecordError: If no record or table has the id.
    """
    if not name.startswith("table-"):
        record = store.get(name)
        return record.id, [record]
    records = store.find()
    tables = [table for table in make_tables(records) if table.id.startswith(name)]
    if len(tables) != 1:
        reason = "is ambiguous" if tables else "is not known"
        raise RecordError(f"table '{name}' {reason} in {store.records}; 'aimbench results table' shows the ids")
    members = {run for row in tables[0].rows for run in row.records}
    return tables[0].id, [record for record in records if record.id in members]


def bibtex(
    name: str,
    records: Iterable[Record],
    dataset_card: Callable[[str], Card | None],
    method_card: Callable[[str], MethodCard | None],
) -> str:
    """Returns BibTeX for aimbench, the datasets, the methods and what EPG was read from, each entry once.

    Backbones have no card; a comment names them. A mini is aimbench's own, whatever it is named after.

    Args:
        name: The id that is cited; it stands in aimbench's own entry, with the datasets and a hash of the runs.
        records: The runs behind it.
        dataset_card: Card of a dataset by name, None if it has none here.
        method_card: Card of a method by name, None if it has none here.
    """
    records = list(records)
    versions = sorted({record.code.version for record in records}) or [__version__]
    # A table keeps its id when runs are added, so the runs that are meant are pinned as well.
    pin = hashlib.sha256("".join(sorted(f"{record.id} {record.created}\n" for record in records)).encode())
    datasets = sorted({(data.name, data.variant, data.kind) for data in (record.dataset for record in records)})
    of = [f"{dataset}@{variant} ({kind})" for dataset, variant, kind in datasets]
    runs = f"{len(records)} run{'s' * (len(records) != 1)}"
    note = ", ".join([name, *of, runs, f"sha256 {pin.hexdigest()[:12]}"]).replace("_", r"\_")
    year = max((record.created[:4] for record in records), default="")
    # Two tables in one paper are two entries.
    entries = [
        _OF_SHA256.format(name=name),
        _SOFTWARE.format(key=f"aimbench-{name}", version=", ".join(versions), year=year, note=note),
    ]
    for dataset, variant, kind in datasets:
        if kind == "mini":
            # Outside an entry all but an '@' is a comment.
            entries.append(f"% dataset {dataset}, variant {variant}: drawn by aimbench; it holds no image of {dataset}")
            continue
        if (card := dataset_card(dataset)) is None:
            entries.append(f"% dataset {dataset}: no card here; cite its authors")
            continue
        of_variant = card.variants[variant].citation if variant in card.variants else ""
        entries += [entry for text in (card.citation, of_variant) for entry in _entries(text)]
    for method in sorted({record.method.name for record in records}):
        found = method_card(method)
        entries += _entries(found.bibtex) if found else [f"% method {method}: no card here; cite its authors"]
    scored = {name for record in records for metrics in record.metrics.values() for name in metrics.epg}
    entries += [EPG] if scored else []
    entries += [entry for name, entry in ATTRIBUTIONS.items() if name in scored]
    entries += [f"% backbone {name}: cite its authors" for name in sorted({record.backbone.name for record in records})]
    return "\n\n".join(dict.fromkeys(entry.strip() for entry in entries)) + "\n"


def _entries(text: str) -> list[str]:
    """The entries of a card's BibTeX, of which another card may hold some too."""
    return [entry for entry in re.split(r"^(?=@)", text.strip(), flags=re.MULTILINE) if entry.strip()]
