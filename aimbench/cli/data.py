"""``aimbench data``: build, check and look at datasets."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aimbench import paths
from aimbench.cli.options import Cards, DataRoot, png_name
from aimbench.spoken_progress import SpokenProgress

if TYPE_CHECKING:
    from aimbench.data.dataset import ShardDataset

app = typer.Typer(no_args_is_help=True, help="Build, check and look at datasets.")

Dataset = Annotated[str, typer.Argument(help="NAME or NAME@VARIANT, e.g. waterbirds@95 or travelingbirds@mini.")]
RawOption = Annotated[
    Path | None,
    typer.Option("--raw", help="Folder with the official archives or their unpacked folders [$AIMBENCH_RAW]."),
]


@app.command("build")
def build_command(
    dataset: Dataset,
    raw: RawOption = None,
    data: DataRoot = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Build what is there, though counts differ, and make composites anew; marked 'partial'."
        ),
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Of splits and pairings.", show_default="the card's", min=0)] = None,
    workers: Annotated[
        int | None, typer.Option(help="Rendering processes.", show_default="one for each core", min=1)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a build that stands.")] = False,
    cards: Cards = None,
) -> None:
    """Build shards from official raw data; a mini needs none."""
    from aimbench.data.build import build

    with _progress(f"building {dataset}") as progress:
        report = build(
            dataset,
            paths.raw_root(raw),
            paths.data_root(data),
            partial=partial,
            seed=seed,
            workers=workers,
            force=force,
            cards_dir=cards,
            progress=progress,
        )
    if not report.built:
        typer.echo("already built, from raw files of the same names and sizes; --force builds it again")
    _print_info(report.dataset)
    if report.built:
        typer.echo(f"built in {report.seconds:.1f} s")


@app.command("fetch")
def fetch_command(
    dataset: Dataset,
    raw: RawOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Optional sources too, such as boxes.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be downloaded, and its size.")
    ] = False,
    cards: Cards = None,
) -> None:
    """Download a dataset's archives into the raw folder: resumed, checked, several sources each."""
    from aimbench.cards import load_card, parse_dataset
    from aimbench.data.fetch import check_space, fetch, offers
    from aimbench.errors import ConfigError, DataError

    root = paths.raw_root(raw)
    if root is None:
        raise ConfigError("no raw folder is named; add --raw DIR or set AIMBENCH_RAW")
    name, variant_name = parse_dataset(dataset, cards)
    card = load_card(name, cards)
    variant = card.variant(variant_name)
    if variant.mini:
        typer.echo(f"{name}@{variant_name} is synthesised and needs no download")
        return
    root.mkdir(parents=True, exist_ok=True)
    found = offers(card, [*variant.sources, *(variant.optional_sources if everything else [])], root, typer.echo)
    for offer in found:
        size = "size unknown" if offer.size is None else f"{offer.size / 1e6:.1f} MB"
        source = offer.source
        silent = f"none of {', '.join(source.urls)} answers" if source.urls else "no address for a download"
        where = f"hub {source.hub}" if source.hub else silent
        text = "is there already" if offer.there else f"{size}, {offer.address or where}"
        typer.echo(f"{offer.name}: {offer.source.names} {text}")
    check_space(root, found)
    if dry_run:
        return
    failures = []
    with _download_progress() as progress:
        for offer in found:
            if offer.there:
                continue
            try:
                typer.echo(f"{offer.name}: {fetch(offer, root, typer.echo, progress)}")
            except DataError as error:
                failures.append(str(error))
    if failures:
        raise DataError("; ".join(failures))
    typer.echo(f"all there: run 'aimbench data build {name}@{variant_name} --raw {root}'")


@app.command("export")
def export_command(
    dataset: Dataset,
    to: Annotated[str, typer.Option("--to", help="hf, imagefolder or croissant.")],
    out: Annotated[Path | None, typer.Option(help="Folder to make [NAME-VARIANT-FORMAT].")] = None,
    data: DataRoot = None,
    cards: Cards = None,
) -> None:
    """Write a dataset for other tools: a Hugging Face dataset, folders of images, or Croissant metadata."""
    from aimbench.data.dataset import ShardDataset
    from aimbench.data.export import export_croissant, export_hugging_face, export_image_folder
    from aimbench.errors import ConfigError, nearest_names

    exports = {"hf": export_hugging_face, "imagefolder": export_image_folder}
    if to not in (*exports, "croissant"):
        raise ConfigError(f"--to {to}: no such format; {nearest_names(to, (*exports, 'croissant'))}")
    opened = ShardDataset.open(dataset, paths.data_root(data), cards)
    if to == "croissant":
        typer.echo(str(export_croissant(opened)))
        return
    target = out or Path(f"{opened.name}-{opened.variant}-{to}")
    with _progress(f"exporting {dataset}") as progress:
        typer.echo(str(exports[to](opened, target, progress)))


@app.command("verify")
def verify_command(dataset: Dataset, data: DataRoot = None, cards: Cards = None) -> None:
    """Re-hash every shard, decode every image and mask, and recount."""
    from aimbench.data.dataset import ShardDataset
    from aimbench.data.verify import verify

    opened = ShardDataset.open(dataset, paths.data_root(data), cards)
    with _progress(f"verifying {dataset}") as progress:
        verify(opened, progress)
    samples = sum(split.count for split in opened.manifest.splits.values())
    typer.echo(
        f"{opened.name}@{opened.variant}: {samples} samples in {len(opened.manifest.shards)} shards are whole"
        f"; fingerprint {opened.manifest.fingerprint}"
    )


@app.command("info")
def info_command(dataset: Dataset, data: DataRoot = None, cards: Cards = None) -> None:
    """Show what a built dataset holds: counts, kind, fingerprint, sources."""
    from aimbench.data.dataset import ShardDataset

    _print_info(ShardDataset.open(dataset, paths.data_root(data), cards))


@app.command("preview")
def preview_command(
    dataset: Dataset,
    split: Annotated[str, typer.Option(help="Split to show.")] = "train",
    out: Annotated[Path | None, typer.Option(help="PNG to write [NAME-VARIANT-SPLIT.png].", callback=png_name)] = None,
    rows: Annotated[int, typer.Option(help="Most groups shown.", min=1)] = 10,
    columns: Annotated[int, typer.Option(help="Samples of a group.", min=1)] = 6,
    seed: Annotated[int, typer.Option(help="Of the choice of samples.", min=0)] = 0,
    data: DataRoot = None,
    cards: Cards = None,
) -> None:
    """Write a contact sheet: masks outlined, boxes drawn, one row a group."""
    from aimbench.data.dataset import ShardDataset
    from aimbench.data.preview import contact_sheet, to_png
    from aimbench.errors import DataError

    opened = ShardDataset.open(dataset, paths.data_root(data), cards)
    path = out or Path(f"{opened.name}-{opened.variant}-{split}.png")
    sheet = to_png(contact_sheet(opened, split, rows=rows, columns=columns, seed=seed))
    try:
        path.write_bytes(sheet)
    except OSError as error:
        raise DataError(f"can't write {path}: {error.strerror}; name another file with --out") from None
    typer.echo(str(path))


@app.command("card")
def card_command(
    name: Annotated[str, typer.Argument(help="Dataset name.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, as in the dataset's README.")] = False,
    cards: Cards = None,
) -> None:
    """Show a dataset's card: variants, sources, licence, known defects."""
    from aimbench.cards import load_card
    from aimbench.data.card_text import card_markdown

    text = card_markdown(load_card(name.partition("@")[0], cards))
    if markdown:
        typer.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    if not console.is_terminal:
        typer.echo(text, nl=False)
        return
    visible = "\n".join(line for line in text.splitlines() if not line.startswith("<!--"))
    console.print(Markdown(visible))


@app.command("list")
def list_command(data: DataRoot = None, cards: Cards = None) -> None:
    """List every dataset variant and which of them are built."""
    from aimbench.cards import list_cards, load_card
    from aimbench.cli.columns import print_columns
    from aimbench.data.dataset import dataset_folder

    rows = []
    for name in list_cards(cards):
        card = load_card(name, cards)
        for variant, entry in card.variants.items():
            folder = dataset_folder(paths.data_root(data), name, variant)
            rows.append((f"{name}@{variant}", _kind_built(folder), entry.summary))
    print_columns(("dataset", "built", "what it is"), rows)


def _kind_built(folder: Path) -> str:
    """The kind of the build in a dataset's folder; '-' where there is none, and one damaged hides no other."""
    from aimbench.data.manifest import MANIFEST_NAME, read_manifest
    from aimbench.errors import DataError

    try:
        return read_manifest(folder).kind if (folder / MANIFEST_NAME).is_file() else "-"
    except DataError as error:
        typer.echo(f"warning: {error}", err=True)
        return "damaged"


def _print_info(opened: "ShardDataset") -> None:
    from aimbench.cli.columns import print_columns

    manifest = opened.manifest
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    name = f"{opened.name}@{opened.variant}"
    typer.echo(f"{name}  kind {manifest.kind}  {size:.1f} MB in {len(manifest.shards)} shards")
    typer.echo(f"fingerprint {manifest.fingerprint}")
    typer.echo(f"folder {opened.root}")
    by_group = manifest.groups if len(manifest.groups) <= 8 and manifest.groups != manifest.classes else []
    rows = [
        (split, str(summary.count), *(str(summary.groups[group]) for group in by_group))
        for split, summary in manifest.splits.items()
    ]
    print_columns(("split", "samples", *by_group), rows)
    truth = manifest.ground_truth
    typer.echo(
        f"{len(manifest.classes)} classes; masks on {truth.share_with_mask:.1%} of samples, mean foreground "
        f"{truth.mean_foreground_share:.1%}, {truth.empty_masks} empty"
    )
    if truth.share_with_boxes is not None:
        mean = "" if truth.mean_box_share is None else f", mean area {truth.mean_box_share:.1%}"
        typer.echo(f"boxes on {truth.share_with_boxes:.1%} of samples{mean}")
    traits = [_trait(trait, count) for trait, count in manifest.image_traits.items()]
    for line in (*manifest.source_forms, *manifest.notes, *traits):
        typer.echo(f"- {line}")


def _trait(trait: str, count: int) -> str:
    of_boxes = trait.startswith("box")
    return f"{count} images: {trait}" if of_boxes else f"{count} images are {trait}; kept as stored"


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar on a terminal, a line now and then elsewhere; yields the function that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _spoken(title).move
        return
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _download_progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """Shows bytes, speed and remaining time on a terminal, the bytes now and then elsewhere; yields what moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    if not console.is_terminal:
        spoken: dict[str, SpokenProgress] = {}
        yield lambda name, done, total: spoken.setdefault(name, _spoken(f"{name}, bytes")).move(done, total)
        return
    with Progress(*columns, console=console, transient=True) as bar:
        tasks = {}

        def move(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield move


def _spoken(title: str) -> SpokenProgress:
    return SpokenProgress(title, lambda line: typer.echo(line, err=True))
