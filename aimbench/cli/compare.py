"""``aimbench results compare`` and ``reselect``: what saved predictions say beyond one record."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aimbench.cli.options import Cards, DataRoot, RegistryRoot, parse_names, png_name
from aimbench.cli.output import write_bytes, write_text

if TYPE_CHECKING:
    from aimbench.data.dataset import ShardDataset
    from aimbench.record import Record
    from aimbench.results.compare import Comparison
    from aimbench.results.store import Store

_SIDE = "Id of a record, or ids of several seeds separated by commas."


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help=_SIDE)],
    second: Annotated[str, typer.Argument(metavar="B", help=_SIDE)],
    split: Annotated[str, typer.Option(help="Split or test condition.", metavar="NAME")] = "test",
    all_seeds: Annotated[
        bool, typer.Option("--all-seeds", help="Each side with every seed of its definition that is recorded.")
    ] = False,
    max_groups: Annotated[int, typer.Option(help="Groups shown.")] = 10,
    max_samples: Annotated[int, typer.Option(help="Differing samples listed and drawn.")] = 10,
    csv: Annotated[Path | None, typer.Option(help="Write all differing samples to this file.", metavar="FILE")] = None,
    draw: Annotated[
        Path | None,
        typer.Option(
            help="Draw the listed samples to this PNG; needs the built dataset.", metavar="FILE", callback=png_name
        ),
    ] = None,
    results: RegistryRoot = None,
    data: DataRoot = None,
    cards: Cards = None,
) -> None:
    """Say by how much A and B differ, and whether it is more than noise.

    Paired tests on the saved predictions: by how much, on which groups, on which samples.
    """
    from aimbench import paths
    from aimbench.results.compare import compare as compare_records
    from aimbench.results.compare_text import comparison_lines
    from aimbench.results.store import Store

    store = Store(paths.results_root(results))
    one, other = _side(store, first, all_seeds), _side(store, second, all_seeds)
    # Opened before the tests, which take long, though it is needed after them.
    dataset = None if draw is None else _dataset_of(one[0], paths.data_root(data), cards)
    comparison = compare_records(store, one, other, split)
    typer.echo("\n".join(comparison_lines(comparison, max_groups=max_groups, max_samples=max_samples)))
    if csv is not None:
        write_text(csv, comparison.samples.to_csv(), "--csv")
    if draw is not None and dataset is not None:
        drawn, differing = _draw(comparison, max_samples, draw, dataset), len(comparison.samples)
        some = f": {drawn} of {differing} samples that differ; --max-samples sets how many"
        typer.echo(f"{draw}{some if drawn < differing else ''}")


def reselect(
    record_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a record, or its unique beginning.")],
    selector: Annotated[
        str | None, typer.Option(help="Write the record that this selector would have given.", metavar="NAME")
    ] = None,
    results: RegistryRoot = None,
) -> None:
    """Apply selectors to a finished run's saved predictions; trains nothing.

    Without --selector, show what each would have reported.
    """
    from aimbench.paths import results_root
    from aimbench.results.reselect import reselect as reselect_record
    from aimbench.results.reselect import selectors_of
    from aimbench.results.store import Store
    from aimbench.train.registry import list_methods

    store = Store(results_root(results))
    record = store.get(record_id)
    if selector is None:
        scores = selectors_of(store, record)
        typer.echo(f"{'selector':34}{'epoch':>6}{'accuracy':>10}{'worst group':>13}")
        for name, score in scores.items():
            worst = score.test.get("worst_group_accuracy")
            line = f"{name:34}{score.epoch + 1:6}{100 * score.test['accuracy']:10.1f}"
            line += f"{'' if worst is None else f'{100 * worst:.1f}':>13}"
            marks = ["reads groups"] * score.uses_groups + ["reads the test set: no result"] * score.oracle
            marks += ["the record's"] * (name == record.selector)
            typer.echo(line + ("  " + ", ".join(marks) if marks else ""))
        return
    declared = {entry.name: entry.regime.get("select", "class") for entry in list_methods()}
    regime = declared.get(record.method.name, record.method.regime.get("select", "class"))
    new, files = reselect_record(store, record, selector, select_regime=regime)
    if store.exists(new.id):
        typer.echo(f"{new.id} is recorded already", err=True)
    typer.echo(store.write_run(new, files))


def _side(store: "Store", words: str, all_seeds: bool) -> "list[Record]":
    from aimbench.errors import RecordError
    from aimbench.results.compare import same_but_for_seed

    records = [store.get(name) for name in parse_names(words)]
    if not records:
        raise RecordError("compare: a side names no record; give an id, or ids separated by commas")
    if not all_seeds:
        return records
    found = {other.id: other for record in records for other in same_but_for_seed(store, record)}
    return list(found.values())


def _dataset_of(record: "Record", data_root: Path, cards: Path | None) -> "ShardDataset":
    from aimbench.data.dataset import ShardDataset
    from aimbench.errors import DataError

    expected = record.dataset
    dataset = ShardDataset.open(f"{expected.name}@{expected.variant}", data_root, cards)
    if dataset.manifest.fingerprint != expected.fingerprint:
        raise DataError(
            f"{expected.name}@{expected.variant} under {data_root} has fingerprint"
            f" {dataset.manifest.fingerprint[:12]}, the records {expected.fingerprint[:12]}: other samples;"
            f" rebuild with '{dataset.rebuild}'"
        )
    return dataset


def _draw(comparison: "Comparison", limit: int, out: Path, dataset: "ShardDataset") -> int:
    """Writes the picture; returns how many samples it shows."""
    from aimbench.data.preview import captioned_sheet, to_png
    from aimbench.errors import DataError

    rows = comparison.samples.head(limit)
    if rows.empty:
        raise DataError("compare: the two differ on no sample, so there is nothing to draw; leave out --draw")
    index = dataset.split(comparison.split)
    place = {key: i for i, key in enumerate(index.keys)}
    items = [
        (index.read(place[str(key)]), f"{row.group}"[:34] + f"\nfirst {row.first:.2f}  second {row.second:.2f}")
        for key, row in rows.iterrows()
    ]
    ids = [side[0].id for side in (comparison.first, comparison.second)]
    sheet = captioned_sheet(items, f"share of runs that were right: first {ids[0]}, second {ids[1]}")
    write_bytes(out, to_png(sheet), "--draw")
    return len(items)
