"""Writes ImageNet trees and cards of one's own, small enough to be built in every test."""

from pathlib import Path
from typing import Any

import yaml
from tiny_raw import write_image

CARD: dict[str, Any] = {
    "name": "mine",
    "title": "Mine",
    "summary": "Made up.",
    "task": "Tell them apart.",
    "num_classes": 2,
    "classes": ["cat", "dog"],
    "groups": "classes",
    "group_rule": "group = label",
    "splits": {"train": "t", "val": "v", "test": "e"},
    "default_variant": "all",
    "variants": {
        "all": {
            "summary": "All.",
            "layout": "image_folder",
            "sources": ["images"],
            "options": {"splits": {"train": "train", "test": "val"}, "validation_share": 0.25},
        }
    },
    "sources": {"images": {"archive": "mine.zip", "folders": ["mine"], "inside": "mine"}},
    "ground_truth": {"kind": "boxes"},
    "licence": "None.",
    "citation": "@misc{mine}",
    "paper": {"title": "T", "authors": "A", "venue": "V"},
}


def write_card(folder: Path, variant: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Writes the card of dataset ``mine`` and returns the folder of cards."""
    path = folder / "cards" / "mine" / "card.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    card = {**CARD, "variants": {"all": {**CARD["variants"]["all"], **(variant or {})}}, **changes}
    path.write_text(yaml.safe_dump(card, sort_keys=False))
    return folder / "cards"


def write_tree(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), train: int = 8, val: int = 3) -> Path:
    """Writes ``<folder>/{train,val}/<class>/<class>_<i>.JPEG`` of 40x30 pixels."""
    for label, name in enumerate(classes):
        for split, count in (("train", train), ("val", val)):
            for i in range(count):
                write_image(folder / split / name / f"{name}_{split}{i}.JPEG", (20 + 60 * label + i) % 250)
    return folder


def voc(name: str, boxes: list[tuple[int, int, int, int]], size: tuple[int, int] = (40, 30)) -> str:
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
        "</object>"
        for a, b, c, d in boxes
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{objects}</annotation>"
