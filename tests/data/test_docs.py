"""The cards in the documentation are built as they stand there."""

import re
from pathlib import Path

import datasets as hugging_face
import pytest
import yaml
from PIL import Image
from tiny_raw import write_image

from aimbench.data.build import build
from aimbench.data.verify import verify

DOCUMENT = Path(__file__).parents[2] / "docs" / "adding-a-dataset.md"
CARDS = {
    yaml.safe_load(text)["name"]: text
    for text in re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
}


def write_raw(name: str, raw: Path) -> None:
    folder = raw / name
    animals = ("crab", "gull")
    if name == "beaches":
        for split in ("train", "test"):
            for animal in animals:
                for i in range(10):
                    write_image(folder / split / animal / f"{i}.jpg", 20 + i)
    elif name == "shores":
        lines = ["file_name,animal,ground,part,mask_file"]
        for i in range(12):
            write_image(folder / f"pictures/{i:04d}.jpg", 20 + i)
            write_image(folder / f"masks/{i:04d}.png", 255)
            split, ground = ("train", "val", "test")[i % 3], ("sand", "rock")[i // 6]
            lines.append(f"pictures/{i:04d}.jpg,{animals[i % 2]},{ground},{split},masks/{i:04d}.png")
        (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    else:
        features = hugging_face.Features(
            {"image": hugging_face.Image(), "label": hugging_face.ClassLabel(names=list(animals))}
        )
        rows = [{"image": Image.new("RGB", (9, 8), (i, 0, 0)), "label": i % 2} for i in range(20)]
        table = hugging_face.Dataset.from_list(rows, features=features)
        hugging_face.DatasetDict({"train": table, "validation": table}).save_to_disk(folder)


@pytest.mark.parametrize("name", sorted(CARDS))
def test_card_of_the_document_builds(name: str, tmp_path: Path) -> None:
    (tmp_path / "cards" / name).mkdir(parents=True)
    (tmp_path / "cards" / name / "card.yaml").write_text(CARDS[name])
    write_raw(name, tmp_path / "raw")
    dataset = build(name, tmp_path / "raw", tmp_path / "data", cards_dir=tmp_path / "cards", workers=1).dataset
    verify(dataset)
    assert dataset.splits == ("train", "val", "test")
    counts = {"beaches": (16, 4, 20), "shores": (4, 4, 4), "tides": (18, 2, 20)}[name]
    assert tuple(split.count for split in dataset.manifest.splits.values()) == counts
    if name == "shores":
        assert dataset.manifest.groups[dataset.split("test").group[0]].endswith(("sand", "rock"))


def test_all_three_layouts_are_shown() -> None:
    assert {yaml.safe_load(text)["variants"]["all"]["layout"] for text in CARDS.values()} == {
        "csv",
        "huggingface",
        "image_folder",
    }
