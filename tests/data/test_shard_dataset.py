import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from aimbench.data import shards
from aimbench.data.build import build
from aimbench.data.dataset import ShardDataset
from aimbench.data.manifest import INDEX_NAME, MANIFEST_NAME, read_manifest
from aimbench.data.verify import verify
from aimbench.errors import CardError, DataError


@pytest.fixture
def dataset(raw: Path, data_root: Path) -> ShardDataset:
    return build("cub", raw, data_root, partial=True, workers=1).dataset


def test_webdataset_reads_what_the_index_reads(dataset: ShardDataset) -> None:
    for split in dataset.splits:
        index = dataset.split(split)
        stream = webdataset.WebDataset([str(path) for path in index.shard_paths], shardshuffle=False)
        samples = list(stream)
        assert [sample["__key__"] for sample in samples] == index.keys
        for i, sample in enumerate(samples):
            item = index.read(i)
            assert (sample["jpg"], sample["mask.png"]) == (item.image, item.mask)


def test_same_raw_gives_the_same_bytes(raw: Path, dataset: ShardDataset, tmp_path: Path) -> None:
    again = build("cub", raw, tmp_path / "again", partial=True, workers=2).dataset
    files = sorted(path.name for path in dataset.root.iterdir())
    assert files == sorted(path.name for path in again.root.iterdir())
    for name in files:
        assert (dataset.root / name).read_bytes() == (again.root / name).read_bytes(), name


def test_tar_members_carry_nothing_of_the_machine(dataset: ShardDataset) -> None:
    with tarfile.open(dataset.root / dataset.manifest.shards[0].file) as tar:
        for info in tar:
            assert (info.mtime, info.uid, info.gid, info.mode, info.uname) == (0, 0, 0, 0o644, "")


def test_manifest_hashes_are_those_of_the_files(dataset: ShardDataset) -> None:
    for shard in dataset.manifest.shards:
        content = (dataset.root / shard.file).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.bytes, shard.sha256)


def test_shards_are_limited_and_the_fingerprint_does_not_depend_on_it(
    raw: Path, dataset: ShardDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "MAX_SAMPLES", 5)
    small = build("cub", raw, tmp_path / "small", partial=True, workers=1).dataset
    assert [s.count for s in small.manifest.shards if s.split == "train"] == [5, 5, 5, 5, 4]
    assert small.manifest.shards[1].file == "cub-official-train-000001.tar"
    assert small.manifest.fingerprint == dataset.manifest.fingerprint
    one, other = small.split("train"), dataset.split("train")
    assert all(one.read(i) == other.read(i) for i in range(len(one)))
    verify(small)


def test_shards_are_limited_by_their_bytes_too(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_BYTES", 1)
    small = build("cub", raw, tmp_path / "small", partial=True, workers=1).dataset
    assert [shard.count for shard in small.manifest.shards] == [1] * (24 + 6 + 12)
    verify(small)


def test_fingerprint_is_that_of_the_splits_names_and_members_in_the_tars(dataset: ShardDataset) -> None:
    lines: dict[tuple[str, str], list[str]] = {}
    for shard in dataset.manifest.shards:
        with tarfile.open(dataset.root / shard.file) as tar:
            for info in tar:
                content = tar.extractfile(info)
                assert content is not None
                key, suffix = info.name.split(".", 1)
                digest = f"{suffix}:{hashlib.sha256(content.read()).hexdigest()}"
                lines.setdefault((shard.split, key), []).append(digest)
    text = "\n".join(sorted("\t".join([*name, *members]) for name, members in lines.items()))
    assert dataset.manifest.fingerprint == hashlib.sha256(text.encode()).hexdigest()


def test_split_index_survives_pickling(dataset: ShardDataset) -> None:
    index = dataset.split("train")
    copy = pickle.loads(pickle.dumps(index))
    assert copy.read(3) == index.read(3)
    assert len(copy) == 24


def test_classes_are_mixed_in_a_shard(dataset: ShardDataset) -> None:
    labels = dataset.split("train").label
    assert (np.diff(labels) != 0).sum() > 6


def test_unknown_split_and_dataset(dataset: ShardDataset, data_root: Path) -> None:
    with pytest.raises(DataError, match="no split 'tests'; did you mean 'test'"):
        dataset.split("tests")
    with pytest.raises(CardError, match="unknown dataset 'cup'; did you mean 'cub'"):
        ShardDataset.open("cup", data_root)


def test_absent_dataset_says_how_to_get_it(data_root: Path) -> None:
    with pytest.raises(DataError) as caught:
        ShardDataset.open("waterbirds@95", data_root)
    message = str(caught.value)
    for part in (
        "waterbird_complete95_forest2water2.tar.gz",
        "https://nlp.stanford.edu/data/dro/",
        "aimbench data build waterbirds@95 --raw DIR",
        "waterbirds@mini needs no download",
    ):
        assert part in message


def test_truncated_shard(dataset: ShardDataset, data_root: Path) -> None:
    index = dataset.split("test")
    path = index.shard_paths[0]
    path.write_bytes(path.read_bytes()[: int(index.offsets[5, 0]) + 10])
    with pytest.raises(DataError, match="changed after its manifest was written"):
        ShardDataset.open("cub", data_root)
    with pytest.raises(DataError, match="truncated") as caught:
        index.read(5)
    assert path.name in str(caught.value)
    assert index.keys[5] in str(caught.value)
    assert "aimbench data build cub@official" in str(caught.value)


def test_changed_byte_is_found_on_reading_and_by_verify(dataset: ShardDataset, data_root: Path) -> None:
    index = dataset.split("test")
    path = index.shard_paths[0]
    content = bytearray(path.read_bytes())
    content[int(index.offsets[2, 0]) + 50] ^= 1
    path.write_bytes(content)
    reopened = ShardDataset.open("cub", data_root)  # of the same size, so opening does not see it
    with pytest.raises(DataError, match="image is corrupt") as caught:
        reopened.split("test").read(2)
    assert index.keys[2] in str(caught.value)
    with pytest.raises(DataError, match=f"{path.name} changed after its manifest"):
        verify(reopened)


def test_missing_shard_index_and_manifest(dataset: ShardDataset, data_root: Path) -> None:
    index_file = dataset.root / dataset.manifest.index.file
    content = index_file.read_bytes()
    index_file.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"index\.parquet is missing or changed"):
        ShardDataset.open("cub", data_root)
    index_file.write_bytes(content)
    (dataset.root / dataset.manifest.shards[0].file).unlink()
    with pytest.raises(DataError, match="is missing; rebuild with"):
        ShardDataset.open("cub", data_root)
    (dataset.root / MANIFEST_NAME).write_text('{"name": 1}')
    with pytest.raises(DataError, match=r"manifest .*rebuild"):
        ShardDataset.open("cub", data_root)


def test_manifest_that_names_a_file_elsewhere(dataset: ShardDataset, data_root: Path) -> None:
    path = dataset.root / MANIFEST_NAME
    name = dataset.manifest.shards[0].file
    path.write_text(path.read_text().replace(name, f"../{name}"))
    with pytest.raises(DataError, match=r"shards\.1\.file"):
        ShardDataset.open("cub", data_root)


def test_verify_accepts_a_whole_build(dataset: ShardDataset) -> None:
    seen: list[tuple[int, int]] = []
    verify(dataset, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (42, 42)


def replace_member(dataset: ShardDataset, suffix: str, data: bytes) -> ShardDataset:
    """Forges one member and mends every checksum in the manifest but the fingerprint."""
    shard = dataset.manifest.shards[0]
    path = dataset.root / shard.file
    with tarfile.open(path) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    target = next(i for i, (info, _) in enumerate(members) if info.name.endswith(suffix))
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for i, (info, content) in enumerate(members):
            content = data if i == target else content
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    changed = shard.model_copy(
        update={"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    )
    manifest = dataset.manifest.model_copy(update={"shards": [changed, *dataset.manifest.shards[1:]]})
    (dataset.root / MANIFEST_NAME).write_text(manifest.model_dump_json())
    return ShardDataset(dataset.card, dataset.name, dataset.variant, read_manifest(dataset.root), dataset.root)


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("suffix", "data", "expected"),
    [
        (".mask.png", png(39, 30), "mask is 39x30, image 40x30"),
        (".mask.png", b"no png", "mask is corrupt or truncated"),
        (".jpg", b"\xff\xd8 no jpeg", "image is corrupt or truncated"),
        (".mask.png", png(40, 30), "checksum differs from the index|fingerprint differs|truncated"),
    ],
)
def test_verify_finds_forged_members(dataset: ShardDataset, suffix: str, data: bytes, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        verify(replace_member(dataset, suffix, data))


def with_manifest(dataset: ShardDataset, **changes: Any) -> ShardDataset:
    manifest = dataset.manifest.model_copy(update=changes)
    (dataset.root / MANIFEST_NAME).write_text(manifest.model_dump_json())
    return ShardDataset(dataset.card, dataset.name, dataset.variant, read_manifest(dataset.root), dataset.root)


def test_verify_compares_fingerprint_and_counts_with_the_manifest(dataset: ShardDataset) -> None:
    whole = dataset.manifest
    with pytest.raises(DataError, match="fingerprint differs from its manifest"):
        verify(with_manifest(dataset, fingerprint=whole.fingerprint[::-1]))
    split = dataset.splits[0]
    summary = whole.splits[split]
    first, second, *_ = summary.groups
    moved = {**summary.groups, first: summary.groups[first] + 1, second: summary.groups[second] - 1}
    changed = {**whole.splits, split: summary.model_copy(update={"groups": moved})}
    with pytest.raises(DataError, match="counts differ from its manifest"):
        verify(with_manifest(dataset, fingerprint=whole.fingerprint, splits=changed))


@pytest.mark.parametrize("column", ["label", "group", "place"])
def test_verify_compares_the_index_with_the_shards(dataset: ShardDataset, column: str) -> None:
    path = dataset.root / INDEX_NAME
    table = pq.read_table(path)
    values = table[column].to_pylist()
    changed = [1 - values[0] if values[0] in (0, 1) else 0, *values[1:]]
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, table.schema.field(column), [changed]), path)
    index = dataset.manifest.index.model_copy(update={"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    with pytest.raises(DataError, match=f"row 0 of .*: {column} differs from its shard"):
        verify(with_manifest(dataset, index=index))
