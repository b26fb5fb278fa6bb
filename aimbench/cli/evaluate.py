"""``aimbench evaluate``: checkpoints, networks and predictions as they are, scored by the same code."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aimbench.cli.options import Cards, DataRoot, ResultsRoot, parse_names

if TYPE_CHECKING:
    from aimbench.results.store import Store
    from aimbench.train.experiment import Result


def evaluate(
    dataset: Annotated[str, typer.Option(help="Dataset, name or name@variant; see 'aimbench list datasets'.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint of a run (in its folder), or with --timm or --torchvision a state dict of that network.",
            metavar="FILE",
        ),
    ] = None,
    timm: Annotated[
        str | None,
        typer.Option("--timm", help="Network of timm's, its own weights or --checkpoint.", metavar="NAME"),
    ] = None,
    torchvision: Annotated[
        str | None,
        typer.Option(
            "--torchvision", help="Classifier of torchvision's, its own weights or --checkpoint.", metavar="NAME"
        ),
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
        typer.Option(help="Of a model: attributions that EPG scores.", show_default="gradcam,input_x_gradient"),
    ] = None,
    epg_samples: Annotated[
        int | None, typer.Option(help="Of a model: test images that EPG uses; 0 leaves it out.", show_default="all")
    ] = None,
    epg_region: Annotated[
        str | None,
        typer.Option(
            help="What EPG counts as the object: mask (boxes where there is none) or boxes.", show_default="mask"
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name in the record.", show_default="the network's or the run's, or external")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="With --predictions: backbone, for the record.", show_default="unknown")
    ] = None,
    train_labels: Annotated[
        str | None,
        typer.Option(
            help="Labels that the model was trained with: none, class, groups or masks.",
            show_default="the run's, or class",
        ),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the network input, pixels.", show_default="the run's, or 224")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int | None, typer.Option(help="Processes that decode images.")] = None,
    data: DataRoot = None,
    results: ResultsRoot = None,
    cards: Cards = None,
) -> None:
    """Evaluate a model as it is, or predictions made elsewhere, and write a record marked external.

    A model is a run's checkpoint, or a network of timm's or torchvision's with its own classifier, whose outputs
    are matched to the dataset's classes by name.
    """
    from aimbench import paths
    from aimbench.cards import parse_dataset
    from aimbench.errors import ConfigError
    from aimbench.results.store import Store as RecordStore

    parse_dataset(dataset, cards)
    sources = [source for source in (timm, torchvision, predictions) if source is not None]
    if len(sources) > 1 or not (sources or checkpoint):
        raise ConfigError(
            "give one of --checkpoint FILE (of a run), --timm NAME, --torchvision NAME (either with --checkpoint FILE"
            " for weights of your own) and --predictions FILE"
        )
    if predictions is None:
        _refuse("without --predictions", {"--attributions": attributions_dir, "--backbone": backbone})
        if not sources:
            known = {"--classes": classes, "--train-labels": train_labels}
            _refuse("with a run's checkpoint, whose folder tells it", known)
    else:
        of_a_model = {"--checkpoint": checkpoint, "--classes": classes, "--epg": epg, "--epg-samples": epg_samples}
        _refuse("with --predictions", of_a_model)
        if attributions_dir is None:
            _refuse("with --predictions alone, without --attributions", {"--epg-region": epg_region})
    train_labels, epg_region = train_labels or "class", epg_region or "mask"
    if train_labels not in ("none", "class", "groups", "masks"):
        raise ConfigError(f"--train-labels {train_labels}: give none, class, groups or masks")
    network = timm or torchvision
    given = name or network
    method = _method_name(given) if given else None
    store = RecordStore(paths.results_root(results))
    store.check_writable()
    data_root = paths.data_root(data)
    if predictions is not None:
        from aimbench.train.from_files import FilesRequest, score_files

        files = FilesRequest(
            name=method or "external",
            dataset=dataset,
            predictions=predictions,
            attributions=attributions_dir,
            data_root=data_root,
            backbone=backbone or "unknown",
            train_labels=train_labels,
            image_size=image_size or 224,
            epg_region=epg_region,
            cards=cards,
        )
        _write(store, score_files(files))
        return
    from aimbench.train.as_is import AsIs, AsIsRequest

    request = AsIsRequest(
        dataset=dataset,
        data_root=data_root,
        runs_root=paths.runs_root(),
        library=None if network is None else "timm" if timm else "torchvision",
        network=network,
        checkpoint=checkpoint,
        name=method,
        classes=classes,
        train_labels=train_labels,
        image_size=image_size,
        epg_samples=epg_samples,
        epg_region=epg_region,
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


def _refuse(where: str, options: Mapping[str, object]) -> None:
    """Raises ConfigError where an option is given that would change nothing."""
    from aimbench.errors import ConfigError

    for name, value in options.items():
        if value is not None:
            raise ConfigError(f"{name} says nothing {where}; leave it out")


def _write(store: "Store", result: "Result") -> None:
    from aimbench.results.summary import headline_text

    record = result.record
    path = store.write_run(record, result.files)
    typer.echo(headline_text(record), err=True)
    typer.echo(path)


def _method_name(words: str) -> str:
    """A name that may be part of a record's id."""
    import re

    return re.sub(r"[^A-Za-z0-9_-]+", "_", words).strip("_-") or "external"
