"""Writes a raw folder of three species in the official layouts, small enough to be built in every test."""

from pathlib import Path

import numpy as np
from PIL import Image

SPECIES = ("001.Herring_Gull", "002.House_Wren", "003.Eastern_Towhee")
TRAIN, TEST = 10, 4
SIZE = (40, 30)
SCENE_COLOURS = {"b/bamboo_forest": 40, "f/forest/broadleaf": 60, "o/ocean": 200, "l/lake/natural": 220}


def write_image(path: Path, value: int, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), value, dtype=np.uint8)
    pixels[::2, ::3] = 255 - value
    Image.fromarray(pixels).save(path, quality=90)


def write_cub(raw: Path) -> None:
    """Each bird is the rectangle x 10-20, y 5-20 of a 40x30 photograph."""
    cub = raw / "CUB_200_2011"
    tables: dict[str, list[str]] = {
        name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes")
    }
    number = 0
    for label, species in enumerate(SPECIES, start=1):
        for i in range(TRAIN + TEST):
            number += 1
            name = f"{species}/{species[4:]}_{i:04d}_{number}"
            write_image(cub / "images" / f"{name}.jpg", 20 + 10 * label + i)
            mask = np.zeros((SIZE[1], SIZE[0]), dtype=np.uint8)
            mask[5:20, 10:20] = 255
            mask[4, 10:20] = 102  # two of five annotators: below the threshold
            path = raw / "segmentations" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
            tables["images"].append(f"{number} {name}.jpg")
            tables["image_class_labels"].append(f"{number} {label}")
            tables["train_test_split"].append(f"{number} {int(i < TRAIN)}")
            tables["bounding_boxes"].append(f"{number} 10.0 5.0 10.0 15.0")
    tables["classes"] = [f"{i} {species}" for i, species in enumerate(SPECIES, start=1)]
    for table, lines in tables.items():
        (cub / f"{table}.txt").write_text("\n".join(lines) + "\n")


def write_places(raw: Path) -> None:
    places = raw / "places365"
    for category, value in SCENE_COLOURS.items():
        for i in range(12):
            write_image(places / "data_large" / category / f"{i + 1:08d}.jpg", value + i, (24, 24))
    lines = []
    for i in range(4 * 15):
        write_image(places / "val_large" / f"Places365_val_{i + 1:08d}.jpg", 10 + i, (24, 24))
        lines.append(f"Places365_val_{i + 1:08d}.jpg {i % 4}")
    (places / "places365_val.txt").write_text("\n".join(lines) + "\n")
    names = [f"/p/place_{i} {i}" for i in range(4)]
    (places / "categories_places365.txt").write_text("\n".join(names) + "\n")
