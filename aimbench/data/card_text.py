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
        *_papers(card),
        "## Sources",
        _table(
            ("source", "archive", "or unpacked as", "from", "checksum"),
            [
                (
                    f"`{name}`",
                    source.names,
                    ", ".join(f"`{folder}/`" for folder in source.folders),
                    _addresses(source),
                    _checksum(source),
                )
                for name, source in card.sources.items()
            ],
        ),
        _unknown_checksums(card),
        "```\n" + _commands(card) + "\n```",
        "## Ground truth",
        _ground_truth(card),
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
        "```bibtex\n" + "\n\n".join(_citations(card)) + "\n```",
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


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
        details = [f"groups {', '.join(map(str, counts.groups))}"] if counts.groups else []
        details += [f"classes {', '.join(map(str, counts.classes))}"] if counts.classes else []
        details += [f"{counts.each_class} a class"] if counts.each_class is not None else []
        parts.append(text + (f" ({'; '.join(details)})" if details else ""))
    pinned = f". Fingerprint of the official build: `{variant.fingerprint}`" if variant.fingerprint else ""
    return ("; ".join(parts) or "not stated") + pinned


def _papers(card: Card) -> list[str]:
    """The papers that define variants of their own."""
    lines = [
        f"- `{card.name}@{name}`: {paper.authors}: *{paper.title}*, {paper.venue}. {paper.url}"
        for name, variant in card.variants.items()
        if (paper := variant.paper)
    ]
    return ["\n".join(lines)] if lines else []


def _citations(card: Card) -> list[str]:
    return [card.citation.strip(), *(v.citation.strip() for v in card.variants.values() if v.citation)]


def _ground_truth(card: Card) -> str:
    truth = card.ground_truth
    rule = "" if truth.kind == "boxes" else f" Foreground where mask / 255 >= {truth.mask_threshold:g}."
    return f"{_KINDS[truth.kind]}{rule} {truth.note}"


def _addresses(source: Source) -> str:
    hub = [f"Hugging Face `{source.hub}`"] if source.hub else []
    return " ".join([*source.urls, *source.pages, *hub])


def _checksum(source: Source) -> str:
    return " ".join(
        f"{name} `{value}`"
        for archive in source.archives
        for name, value in (("md5", archive.md5), ("sha256", archive.sha256))
        if value
    ) or ("none" if source.hub else "not known")


def _unknown_checksums(card: Card) -> str:
    if all(_checksum(source) != "not known" for source in card.sources.values()):
        return ""
    return (
        "Where the checksum is not known, we have not seen one published: `aimbench data fetch` prints the sha256 of "
        "what it got, and the counts above are what a build is checked against."
    )


def _commands(card: Card) -> str:
    whole = next(name for name, variant in card.variants.items() if not variant.mini)
    fetched = any(source.urls or source.hub for source in card.sources.values())
    lines = [
        *([f"aimbench data fetch {card.name}@{whole} --raw DIR"] if fetched else []),
        f"aimbench data build {card.name}@{whole} --raw DIR",
        f"aimbench data verify {card.name}@{whole}",
    ]
    lines += [f"aimbench data build {card.name}@{name}" for name, entry in card.variants.items() if entry.mini]
    return "\n".join(lines)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
