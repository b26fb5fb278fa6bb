"""ImageNet as image-net.org ships it: a tar of one tar a class, and a flat tar of val with its annotations."""

import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml
from tiny_tree import voc, write_tree

from aimbench.cards import default_cards_dir, load_card
from aimbench.data.build import build
from aimbench.data.dataset import ShardDataset
from aimbench.errors import DataError

WNIDS = load_card("imagenet100").variants["cmc"].options["class_folders"][:2]
OTHER = "n09999999"


def packed(files: list[Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in files:
            tar.add(path, path.name)
    return buffer.getvalue()


def official_archives(tree: Path, raw: Path) -> None:
    """Packs a tree as ImageNet is packed: val flat, its classes told by the annotations alone."""
    raw.mkdir()
    with tarfile.open(raw / "ILSVRC2012_img_train.tar", "w") as outer:
        for folder in sorted((tree / "train").iterdir()):
            content = packed(sorted(folder.iterdir()))
            info = tarfile.TarInfo(f"{folder.name}.tar")
            info.size = len(content)
            outer.addfile(info, io.BytesIO(content))
    images = sorted((tree / "val").glob("*/*"))
    (raw / "ILSVRC2012_img_val.tar").write_bytes(packed(images))
    with tarfile.open(raw / "ILSVRC2012_bbox_val_v3.tgz", "w:gz") as tar:
        for path in images:
            text = voc(path.parent.name, [(2, 3, 12, 13)]).encode()
            info = tarfile.TarInfo(f"val/{path.stem}.xml")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))


def cards_with_checksums_of(raw: Path, folder: Path) -> Path:
    """Our cards, with the checksums of the archives made here in place of the official ones."""
    for name in ("imagenet100", "hardimagenet"):
        shutil.copytree(default_cards_dir() / name, folder / name)
        card = yaml.safe_load((folder / name / "card.yaml").read_text())
        for part in card["sources"]["imagenet"]["parts"].values():
            part["md5"] = hashlib.md5((raw / part["archive"]).read_bytes()).hexdigest()
        (folder / name / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    return folder


def members(dataset: ShardDataset) -> dict[str, list[tuple[str, int, bytes]]]:
    return {
        split: [(key, int(index.label[i]), index.read(i).image) for i, key in enumerate(index.keys)]
        for split in dataset.splits
        if (index := dataset.split(split))
    }


def test_official_archives_build_the_same_images_as_the_tree(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree" / "imagenet", (*WNIDS, OTHER), train=10, val=2)
    raw = tmp_path / "raw"
    official_archives(tree, raw)
    cards = cards_with_checksums_of(raw, tmp_path / "cards")
    from_tree = build("imagenet100", tmp_path / "tree", tmp_path / "a", partial=True, workers=1).dataset
    from_tars = build("imagenet100", raw, tmp_path / "b", partial=True, workers=1, cards_dir=cards).dataset
    assert members(from_tars) == members(from_tree)
    assert from_tars.split("test").read(0).boxes == [(2.0, 3.0, 12.0, 13.0)]
    assert from_tars.manifest.source_forms[0] == "imagenet: archives ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar"
    (unpacked,) = (tmp_path / "b" / ".unpacked").glob("imagenet-*/train")
    assert sorted(path.name for path in unpacked.iterdir() if path.is_dir()) == sorted(WNIDS), (
        "other classes stay in the tar"
    )


def test_official_checksums_are_enforced(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", tuple(WNIDS), train=2, val=1)
    official_archives(tree, tmp_path / "raw")
    with pytest.raises(DataError, match=r"ILSVRC2012_img_train\.tar: md5 is .*1d675b47.*download it again"):
        build("imagenet100", tmp_path / "raw", tmp_path / "data", partial=True)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("readme.txt", b"text", "member 'readme.txt' is no tar"),
        ("../n01.tar", b"text", "is no tar"),
        (f"{WNIDS[1]}.tar", b"text", "truncated or corrupt"),
    ],
)
def test_train_archive_with_other_content(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    tree = write_tree(tmp_path / "tree", (WNIDS[0],), train=2, val=1)
    raw = tmp_path / "raw"
    official_archives(tree, raw)
    with tarfile.open(raw / "ILSVRC2012_img_train.tar", "a") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    cards = cards_with_checksums_of(raw, tmp_path / "cards")
    with pytest.raises(DataError, match=expected):
        build("imagenet100", raw, tmp_path / "data", partial=True, cards_dir=cards)


def test_link_in_an_inner_tar_is_refused(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", (WNIDS[0],), train=2, val=1)
    raw = tmp_path / "raw"
    official_archives(tree, raw)
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        info = tarfile.TarInfo("link.JPEG")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with tarfile.open(raw / "ILSVRC2012_img_train.tar", "a") as tar:
        info = tarfile.TarInfo(f"{WNIDS[1]}.tar")
        info.size = len(inner.getvalue())
        tar.addfile(info, io.BytesIO(inner.getvalue()))
    cards = cards_with_checksums_of(raw, tmp_path / "cards")
    with pytest.raises(DataError, match=rf"{WNIDS[1]}\.tar: member 'link\.JPEG' is a link"):
        build("imagenet100", raw, tmp_path / "data", partial=True, cards_dir=cards)


def test_missing_archives_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ILSVRC2012_img_train\.tar and ILSVRC2012_img_val\.tar, or imagenet\.tar"):
        build("imagenet100", tmp_path, tmp_path / "data")
