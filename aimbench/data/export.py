"""Exports a built dataset for other tools: a Hugging Face dataset, or plain folders of images."""

import csv
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from aimbench.data.card_text import card_markdown
from aimbench.data.croissant import write_croissant
from aimbench.data.dataset import ShardDataset, SplitIndex
from aimbench.data.manifest import MANIFEST_NAME
from aimbench.data.tables import hugging_face_datasets
from aimbench.errors import DataError

Progress = Callable[[int, int], None]
"""Called with samples done and samples in all."""

_UNSAFE = re.compile(r"[^\w.,()+=@ -]", re.UNICODE)


def export_hugging_face(dataset: ShardDataset, out: Path, progress: Progress | None = None) -> Path:
    """Writes a folder that ``datasets.load_from_disk`` opens, one split for each of ours.

    Columns: key, image, mask (None where there is none), boxes (x0, y0, x1,
    y1 in pixels), label, group and place as class labels. The encoded
    images pass through untouched.

    Args:
        dataset: An open dataset.
        out: Folder to make.
        progress: Called as splits are read.

    Raises:
        DataError: If ``out`` exists.
    """
    datasets = hugging_face_datasets()
    datasets.disable_progress_bars()
    manifest = dataset.manifest
    _check_absent(out)
    features = datasets.Features(
        {
            "key": datasets.Value("string"),
            "image": datasets.Image(),
            "mask": datasets.Image(),
            "boxes": datasets.List(datasets.List(datasets.Value("float64"), 4)),
            "label": datasets.ClassLabel(names=manifest.classes),
            "group": datasets.ClassLabel(names=manifest.groups),
            "place": datasets.ClassLabel(names=manifest.places) if manifest.places else datasets.Value("int64"),
        }
    )
    temporary = out.with_name(out.name + ".writing")
    shutil.rmtree(temporary, ignore_errors=True)
    report = _Counter(dataset, progress)
    try:
        tables = {
            split: datasets.Dataset.from_generator(
                _rows,
                features=features,
                cache_dir=str(temporary / "cache"),
                gen_kwargs={"dataset": dataset, "split": split, "report": report},
                # A name of its own, so that the library neither pickles the rows nor finds an older table.
                fingerprint=hashlib.sha256(f"{manifest.fingerprint} {split}".encode()).hexdigest()[:16],
            )
            for split in dataset.splits
        }
        datasets.DatasetDict(tables).save_to_disk(str(temporary / "saved"))
        _add_documents(dataset, temporary / "saved")
        (temporary / "saved").rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def export_image_folder(dataset: ShardDataset, out: Path, progress: Progress | None = None) -> Path:
    """Writes ``<split>/<class>/<key>.jpg``, masks under ``masks/`` alike, and ``<split>/metadata.csv``.

    ``torchvision.datasets.ImageFolder`` and Hugging Face's ``imagefolder``
    read the folder of a split.

    Args:
        dataset: An open dataset.
        out: Folder to make.
        progress: Called as samples are read.

    Raises:
        DataError: If ``out`` exists, or two class names give the same folder name.
    """
    _check_absent(out)
    folders = [_folder_name(name) for name in dataset.manifest.classes]
    if len(set(folders)) < len(folders):
        raise DataError(f"class names of {dataset.name} give the same folder name; rename the classes on the card")
    temporary = out.with_name(out.name + ".writing")
    shutil.rmtree(temporary, ignore_errors=True)
    report = _Counter(dataset, progress)
    try:
        for split in dataset.splits:
            _write_split(dataset, dataset.split(split), folders, temporary, report)
        _add_documents(dataset, temporary)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def export_croissant(dataset: ShardDataset) -> Path:
    """Writes ``croissant.json`` beside the manifest, as every build does, and returns its path."""
    return write_croissant(dataset.root, dataset.card, dataset.manifest)


class _Counter:
    """Counts samples over all splits."""

    def __init__(self, dataset: ShardDataset, progress: Progress | None) -> None:
        self.done, self.total = 0, sum(split.count for split in dataset.manifest.splits.values())
        self.progress = progress

    def step(self) -> None:
        self.done += 1
        if self.progress:
            self.progress(self.done, self.total)


def _rows(dataset: ShardDataset, split: str, report: "_Counter") -> Iterator[dict[str, Any]]:
    index = dataset.split(split)
    for i in range(len(index)):
        item = index.read(i)
        place = int(index.place[i])
        yield {
            "key": item.key,
            "image": {"bytes": as_stored(item.image), "path": None},
            "mask": None if item.mask is None else {"bytes": item.mask, "path": None},
            "boxes": [list(box) for box in item.boxes],
            "label": int(index.label[i]),
            "group": int(index.group[i]),
            "place": None if place < 0 and dataset.manifest.places else place,
        }
        report.step()


def _write_split(dataset: ShardDataset, index: SplitIndex, folders: list[str], out: Path, report: _Counter) -> None:
    manifest = dataset.manifest
    with (_made(out / index.name) / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file_name", "key", "label", "class", "group", "place", "mask_file", "boxes"))
        for i in range(len(index)):
            item = index.read(i)
            label, place = int(index.label[i]), int(index.place[i])
            name = f"{folders[label]}/{item.key}"
            image = out / index.name / f"{name}.{_suffix(item.image)}"
            _made(image.parent)
            image.write_bytes(as_stored(item.image))
            mask = out / "masks" / index.name / f"{name}.png"
            if item.mask is not None:
                _made(mask.parent)
                mask.write_bytes(item.mask)
            writer.writerow(
                (
                    image.relative_to(out / index.name).as_posix(),
                    item.key,
                    label,
                    manifest.classes[label],
                    manifest.groups[int(index.group[i])],
                    manifest.places[place] if 0 <= place < len(manifest.places) else "",
                    mask.relative_to(out).as_posix() if item.mask is not None else "",
                    json.dumps(item.boxes),
                )
            )
            report.step()


def as_stored(image: bytes) -> bytes:
    """An image that every reader shows as it is stored, as its mask and boxes are.

    Readers elsewhere turn an image by its EXIF orientation: where there is one, the EXIF block goes. No pixel changes.
    """
    with Image.open(io.BytesIO(image)) as opened:
        try:
            orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
        except (OSError, ValueError, SyntaxError, KeyError, TypeError):
            return image  # nobody reads a malformed block
        if orientation == 1:
            return image
        if opened.format == "PNG":
            buffer = io.BytesIO()
            opened.save(buffer, "PNG", exif=b"")
            return buffer.getvalue()
    return _without_exif(image)


def _without_exif(jpeg: bytes) -> bytes:
    """Drops the APP1 segments of a JPEG that hold EXIF."""
    kept, at = bytearray(jpeg[:2]), 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[at + 1] != 0xDA:  # up to the scan
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if not (jpeg[at + 1] == 0xE1 and jpeg[at + 4 : at + 10] == b"Exif\0\0"):
            kept += jpeg[at:end]
        at = end
    return bytes(kept + jpeg[at:])


def _suffix(image: bytes) -> str:
    with Image.open(io.BytesIO(image)) as opened:
        return {"JPEG": "jpg", "MPO": "jpg", "PNG": "png"}[opened.format or ""]


def _folder_name(name: str) -> str:
    """A class name as a folder: cards come from others, so nothing in it may lead elsewhere."""
    return _UNSAFE.sub("_", name).strip(" .") or "_"


def _add_documents(dataset: ShardDataset, out: Path) -> None:
    (out / "README.md").write_text(card_markdown(dataset.card), encoding="utf-8")
    shutil.copy(dataset.root / MANIFEST_NAME, out / f"aimbench_{MANIFEST_NAME}")


def _check_absent(out: Path) -> None:
    if out.exists():
        raise DataError(f"{out} exists already; name another folder with --out or remove it")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
