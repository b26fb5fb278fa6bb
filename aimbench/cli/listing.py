"""``aimbench list``: what there is to run."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aimbench.cli.columns import print_columns
from aimbench.cli.options import Cards
from aimbench.errors import CardError
from aimbench.needs import GroupCounts, unmet

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from aimbench.cards import Card, Variant
    from aimbench.method_cards import MethodCard
    from aimbench.train.method import Method

app = typer.Typer(help="List methods, datasets and backbones.", no_args_is_help=True)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="A method: print its settings and presets.")] = None,
) -> None:
    """List methods with the labels that they use, or one method's card and settings."""
    from aimbench.cards import list_cards, load_card
    from aimbench.train.registry import get_method, list_methods, method_card

    if name is not None:
        from aimbench.cli.reproduction import print_reproduction

        _print_method(get_method(name))
        if (card := method_card(name)) is not None:
            print_reproduction(name, card)
        else:
            typer.echo(f"card: none; docs/adding-a-method.md says how to write {name}.yaml beside the code")
        return
    datasets = [load_card(dataset) for dataset in list_cards()]
    rows, broken = [], []
    for method in list_methods():
        try:
            card = method_card(method.name)
        except CardError as error:
            card = None
            broken.append(str(error))
        undefined = ", ".join(_undefined_on(card, datasets)) if card is not None else ""
        rows.append((method.name, _regime(method.regime), undefined, method.summary, method.source))
    print_columns(("method", "labels used", "undefined on", "summary", "source"), rows)
    for problem in broken:
        typer.echo(f"warning: {problem}", err=True)


@app.command()
def datasets(cards_dir: Cards = None) -> None:
    """List datasets with their variants; NAME@VARIANT picks one."""
    from aimbench.cards import list_cards, load_card

    cards = [load_card(name, cards_dir) for name in list_cards(cards_dir)]
    rows = [
        (card.name, ", ".join(sorted(card.variants)), card.ground_truth.kind, card.licence, card.title)
        for card in cards
    ]
    print_columns(("dataset", "variants", "ground truth", "licence", "title"), rows)


@app.command()
def backbones() -> None:
    """List backbones that were tried; any timm model with a feature pyramid works too."""
    from aimbench.models.catalogue import BACKBONES

    rows = [(b.name, b.family, f"{b.parameters_m:.1f} M", b.note) for b in BACKBONES]
    print_columns(("backbone", "family", "parameters", "note"), rows)


def _print_method(method: "type[Method]") -> None:
    typer.echo(f"{method.name}: {(method.__doc__ or '').splitlines()[0]}")
    typer.echo(f"source: {method.source}")
    typer.echo(f"labels used: {_regime(method.regime.model_dump())}")
    if method.training_defaults:
        typer.echo(f"training defaults: {_words(method.training_defaults)}")
    fields = method.Config.model_fields
    if fields:
        typer.echo("")
        rows = [(key, _type(field), str(field.default), field.description or "") for key, field in fields.items()]
        print_columns(("setting (--set)", "type", "default", "meaning"), rows)
    if method.presets:
        typer.echo("")
        print_columns(
            ("preset (--preset)", "settings"), [(key, _words(values)) for key, values in method.presets.items()]
        )


def _undefined_on(method: "MethodCard", datasets: "Iterable[Card]") -> Iterator[str]:
    """Datasets, or variants of them, whose official counts leave the method undefined."""
    for dataset in datasets:
        lacking = [
            name
            for name, variant in dataset.variants.items()
            if any(unmet(need, _group_counts(dataset, variant)) for need in method.needs)
        ]
        if len(lacking) == len(dataset.variants):
            yield dataset.name
        else:
            yield from (f"{dataset.name}@{name}" for name in lacking)


def _group_counts(dataset: "Card", variant: "Variant") -> GroupCounts:
    if dataset.groups == "classes":  # one group a class, and no class is empty
        return GroupCounts(dataset.num_classes, [""] * dataset.num_classes)
    train, val = (variant.counts[split].groups if split in variant.counts else None for split in ("train", "val"))
    return GroupCounts(dataset.num_classes, dataset.groups, train, val)


def _type(field: "FieldInfo") -> str:
    """A setting's type and bounds in words: ``float, > 0, <= 1``."""
    from typing import Literal, get_args, get_origin

    annotation = field.annotation
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    name = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return ", ".join([name, *_bounds(field)])


def _bounds(field: "FieldInfo") -> Iterator[str]:
    for entry in field.metadata:
        for attribute, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
            if getattr(entry, attribute, None) is not None:
                yield f"{sign} {getattr(entry, attribute)}"


def _words(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())


def _regime(regime: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in regime.items())
