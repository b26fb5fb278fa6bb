"""The README of a dataset, written from its card."""

from aimbench.cards import Card, Source, Variant


def card_markdown(card: Card) -> str:
    """Returns the card as Markdown; ``datasets/<name>/README.md`` is this text."""
    parts = [
        f"# {card.title}",
        "<!-- Written by `aimbench data card " + card.name + " --markdown`; change card.yaml, not this file. -->",
        card.summary,
        f"**Task.** {card.task}",
        f"**Paper.** {card.paper.authors}: *{card.paper.title}*, {card.paper.venue}. {card.paper.url}",
        "## Classes and groups",
        _classes(card),
        f"Groups: {card.group_rule}",
        "## Splits",
        _table(("split", "what it is"), [(f"`{name}`", text) for name, text in card.splits.items()]),
        "## Variants",
        f"`{card.name}` alone means `{card.name}@{card.default_variant}`.",
        _table(
            ("variant", "what it is", "sources", "official counts"),
            [
                (f"`{card.name}@{name}`", variant.summary, _sources(variant), _counts(variant))
                for name, variant in card.variants.items()
            ],
        ),
        "## Sources",
        _table(
            ("source", "archive", "or unpacked as", "from", "checksum"),
            [
                (
                    f"`{name}`",
                    f"`{source.archive}`",
                    ", ".join(f"`{folder}/`" for folder in source.folders),
                    " ".join(source.urls),
                    _checksum(source),
                )
                for name, source in card.sources.items()
            ],
        ),
        "```\n" + _commands(card) + "\n```",
        "## Ground truth",
        f"{_KINDS[card.ground_truth.kind]} Foreground where mask / 255 >= "
        f"{card.ground_truth.mask_threshold:g}. {card.ground_truth.note}",
        "## Defaults",
        f"Evaluation: resize to {card.transforms.eval_resize}, centre crop {card.transforms.eval_crop}. "
        f"Training: random resized crop of {card.transforms.train_crop_scale[0]:g} to "
        f"{card.transforms.train_crop_scale[1]:g} of the area"
        f"{', flip' if card.transforms.train_flip else ''}. Selector: `{card.default_selector}`.",
        "## Known defects",
        "\n".join(f"- {defect}" for defect in card.known_defects) or "None known.",
        "## Licence",
        card.licence,
        "## Citation",
        f"```bibtex\n{card.citation.strip()}\n```",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


_KINDS = {"mask": "Masks.", "boxes": "Boxes.", "both": "Masks and boxes."}


def _classes(card: Card) -> str:
    names = ", ".join(f"{i} {name}" for i, name in enumerate(card.classes))
    return f"{card.num_classes} classes" + (f": {names}." if names else ", named by the raw data.")


def _sources(variant: Variant) -> str:
    if variant.mini:
        return "none"
    optional = [f"`{name}` (optional)" for name in variant.optional_sources]
    return ", ".join([*(f"`{name}`" for name in variant.sources), *optional])


def _counts(variant: Variant) -> str:
    parts = []
    for split, counts in variant.counts.items():
        text = f"{split} {counts.count}" if counts.count is not None else split
        parts.append(text + (f" (groups {', '.join(map(str, counts.groups))})" if counts.groups else ""))
    return "; ".join(parts) or "not stated"


def _checksum(source: Source) -> str:
    return " ".join(
        f"{name} `{value}`" for name, value in (("md5", source.md5), ("sha256", source.sha256)) if value
    ) or ("not known")


def _commands(card: Card) -> str:
    whole = next(name for name, variant in card.variants.items() if not variant.mini)
    lines = [
        f"aimbench data build {card.name}@{whole} --raw DIR",
        f"aimbench data verify {card.name}@{whole}",
    ]
    lines += [f"aimbench data build {card.name}@{name}" for name, entry in card.variants.items() if entry.mini]
    return "\n".join(lines)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
