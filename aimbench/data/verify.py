"""Checks a built dataset to the last byte."""

import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from aimbench.data.counts import differences, summarise_counts
from aimbench.data.dataset import ShardDataset, SplitIndex
from aimbench.data.manifest import ShardInfo, sha256_of
from aimbench.data.samples import decode_mask, decode_rgb
from aimbench.data.shards import Fingerprint, member_digest, sample_digest
from aimbench.errors import DataError


def verify(dataset: ShardDataset, progress: Callable[[int, int], None] | None = None) -> None:
    """Re-hashes every file, decodes every image and mask, and recounts; the tar files are read on their own.

    A whole build is compared with its card too, which may have got counts or a fingerprint after the build.

    Args:
        dataset: An open dataset.
        progress: Called with samples done and samples in all.

    Raises:
        DataError: At the first difference.
    """
    manifest, total = dataset.manifest, sum(split.count for split in dataset.manifest.splits.values())
    for file, expected in {**manifest.files, manifest.index.file: manifest.index.sha256}.items():
        path = dataset.root / file
        if not path.is_file() or sha256_of(path) != expected:
            raise DataError(f"{path} is missing or changed after its manifest was written; {_mend(dataset)}")
    done = 0
    digests = Fingerprint()
    counts: Counter[tuple[str, int, int]] = Counter()
    for split in manifest.splits:
        index = dataset.split(split)
        rows = 0
        for shard in (shard for shard in manifest.shards if shard.split == split):
            for key, meta, digest in _check_shard(dataset, shard):
                _check_row(dataset, index, rows, key, meta)
                digests.add([digest])
                counts[split, meta["label"], meta["group"]] += 1
                rows, done = rows + 1, done + 1
                if progress:
                    progress(done, total)
        if rows != len(index):
            raise DataError(f"index of {dataset.root}: {len(index)} rows of {split}, not {rows}; {_mend(dataset)}")
    found = ((split, label, group, number) for (split, label, group), number in counts.items())
    if summarise_counts(found, manifest.classes, manifest.groups) != manifest.splits:
        raise DataError(f"{dataset.root}: counts differ from its manifest; {_mend(dataset)}")
    if digests.hexdigest() != manifest.fingerprint:
        raise DataError(f"{dataset.root}: fingerprint differs from its manifest; {_mend(dataset)}")
    if manifest.kind in ("official", "uncounted"):
        _check_card(dataset)


def _check_card(dataset: ShardDataset) -> None:
    manifest = dataset.manifest
    found = differences(dataset.card, dataset.variant, manifest.classes, manifest.splits)
    if found:
        raise DataError(f"{dataset.root} is not what the card says: {'; '.join(found[:4])}; {_mend(dataset)}")
    variant = dataset.card.variant(dataset.variant)
    if manifest.seed == variant.seed and variant.fingerprint not in (None, manifest.fingerprint):
        raise DataError(
            f"{dataset.root}: the fingerprint is {manifest.fingerprint}, the card says {variant.fingerprint}; get the "
            f"official archives again and {_mend(dataset)}"
        )


def _mend(dataset: ShardDataset) -> str:
    return f"rebuild with '{dataset.rebuild}'"


def _check_shard(dataset: ShardDataset, shard: ShardInfo) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yields key, description and digest of each sample, in the order of the tar."""
    path = dataset.root / shard.file
    if sha256_of(path) != shard.sha256:
        raise DataError(f"shard {path} changed after its manifest was written; {_mend(dataset)}")
    samples = _read_shard(dataset, shard)
    if len(samples) != shard.count:
        raise DataError(f"shard {path} holds {len(samples)} samples, not {shard.count}; {_mend(dataset)}")
    for key, members in samples.items():
        meta = _check_sample(dataset, f"shard {path}, sample {key}", members)
        digests = [member_digest(suffix, data) for suffix, data in members.items()]
        yield key, meta, sample_digest(shard.split, key, digests)


def _read_shard(dataset: ShardDataset, shard: ShardInfo) -> dict[str, dict[str, bytes]]:
    """Key -> suffix -> bytes, both in the order of the tar."""
    samples: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(dataset.root / shard.file) as tar:
            for info in tar:
                key, _, suffix = info.name.partition(".")
                content = tar.extractfile(info)
                assert content is not None
                samples.setdefault(key, {})[suffix] = content.read()
    except (tarfile.TarError, EOFError, AssertionError) as error:
        raise DataError(f"shard {dataset.root / shard.file} is no whole tar ({error}); {_mend(dataset)}") from None
    return samples


def _check_sample(dataset: ShardDataset, where: str, members: dict[str, bytes]) -> dict[str, Any]:
    """Decodes the members of one sample and returns its description."""
    suffix = next((suffix for suffix in members if suffix not in ("json", "mask.png")), None)
    if suffix is None or "json" not in members:
        raise DataError(f"{where}: image or json is missing; {_mend(dataset)}")
    image = decode_rgb(members[suffix], f"{where}: image")
    meta: dict[str, Any] = json.loads(members["json"])
    if (meta["height"], meta["width"]) != image.shape[:2]:
        raise DataError(f"{where}: image is not {meta['width']}x{meta['height']}; {_mend(dataset)}")
    if "mask.png" in members:
        mask = decode_mask(members["mask.png"], f"{where}: mask")
        if mask.shape != image.shape[:2]:
            raise DataError(
                f"{where}: mask is {mask.shape[1]}x{mask.shape[0]}, image {image.shape[1]}x{image.shape[0]}; "
                + _mend(dataset)
            )
    return meta


def _check_row(dataset: ShardDataset, index: SplitIndex, row: int, key: str, meta: dict[str, Any]) -> None:
    """Compares a row of the index with what the tar holds, and reads the sample through it."""
    where = f"index of {dataset.root}, row {row} of {index.name}"
    if row >= len(index) or index.keys[row] != key:
        raise DataError(f"{where}: the sample is not {key}; {_mend(dataset)}")
    for column in ("label", "group", "place"):
        if int(getattr(index, column)[row]) != meta[column]:
            raise DataError(f"{where}: {column} differs from its shard; {_mend(dataset)}")
    index.read(row)
