"""``aimbench evaluate``: models and predictions that this harness did not train, scored by the same code."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aimbench.cli.options import Cards, DataRoot, ResultsRoot, parse_names

if TYPE_CHECKING:
    from aimbench.results.store import Store
    from aimbench.train.experiment import Result


def evaluate(
    dataset: Annotated[str, typer.Option(help="Dataset, name or name@variant; see 'aimbench list datasets'.")],
    timm: Annotated[
        str | None, typer.Option("--timm", help="Network of timm's to evaluate as it is.", metavar="NAME")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="State dict of that network, with its classifier; else timm's own weights.", metavar="FILE"),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="Names or WordNet ids of the classifier's outputs, one a line.",
            show_default="ImageNet's for 1000 outputs",
            metavar="FILE",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="CSV of the test split: key,prediction and optionally logits.", metavar="FILE"),
    ] = None,
    attributions_dir: Annotated[
        Path | None,
        typer.Option("--attributions", help="With --predictions: folder of <key>.npy, a map a sample.", metavar="DIR"),
    ] = None,
    epg: Annotated[
        str | None,
        typer.Option(help="With --timm: attributions that EPG scores.", show_default="gradcam,input_x_gradient"),
    ] = None,
    epg_samples: Annotated[
        int | None, typer.Option(help="With --timm: test images that EPG uses; 0 leaves it out.", show_default="all")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name in the record.", show_default="the network's, or external")
    ] = None,
    backbone: Annotated[str, typer.Option(help="With --predictions: backbone, for the record.")] = "unknown",
    train_labels: Annotated[
        str, typer.Option(help="Labels that the model was trained with: none, class, groups or masks.")
    ] = "class",
    image_size: Annotated[int, typer.Option(help="Side of the network input, pixels.")] = 224,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int | None, typer.Option(help="Processes that decode images.")] = None,
    data: DataRoot = None,
    results: ResultsRoot = None,
    cards: Cards = None,
) -> None:
    """Evaluate a classifier as it is, or predictions made elsewhere, and write a record marked external."""
    from aimbench import paths
    from aimbench.cards import parse_dataset
    from aimbench.errors import ConfigError
    from aimbench.results.store import Store as RecordStore

    parse_dataset(dataset, cards)
    if (timm is None) == (predictions is None):
        raise ConfigError(
            "give either --timm NAME (with --checkpoint FILE for weights of your own) or --predictions FILE"
        )
    if train_labels not in ("none", "class", "groups", "masks"):
        raise ConfigError(f"--train-labels {train_labels}: give none, class, groups or masks")
    method = _method_name(name or timm or "external")
    store = RecordStore(paths.results_root(results))
    store.check_writable()
    data_root = paths.data_root(data)
    if predictions is not None:
        from aimbench.train.from_files import FilesRequest, score_files

        _write(
            store,
            score_files(
                FilesRequest(
                    name=method,
                    dataset=dataset,
                    predictions=predictions,
                    attributions=attributions_dir,
                    data_root=data_root,
                    backbone=backbone,
                    train_labels=train_labels,
                    image_size=image_size,
                    cards=cards,
                )
            ),
        )
        return
    from aimbench.train.as_is import AsIs, AsIsRequest

    assert timm is not None
    request = AsIsRequest(
        name=method,
        dataset=dataset,
        network=timm,
        weights="auto" if checkpoint is None else str(checkpoint),
        classes=classes,
        data_root=data_root,
        train_labels=train_labels,
        image_size=image_size,
        epg_samples=epg_samples,
        **({} if epg is None else {"attributions": parse_names(epg)}),
        cards=cards,
        workers=workers,
        accelerator=device,
    )
    as_is = AsIs(request)
    if store.exists(as_is.id):
        typer.echo(f"{as_is.id} is recorded already", err=True)
        return
    _write(store, as_is.run())


def _write(store: "Store", result: "Result") -> None:
    from aimbench.results.store import parquet_name
    from aimbench.results.summary import headline_text

    record = result.record
    files = {parquet_name(record.id, content): data for content, data in result.files.items()}
    path = store.write(record, files)
    typer.echo(headline_text(record), err=True)
    typer.echo(path)


def _method_name(words: str) -> str:
    """A name that may be part of a record's id."""
    import re

    return re.sub(r"[^A-Za-z0-9_-]+", "_", words).strip("_-") or "external"
