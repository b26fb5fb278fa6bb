"""Builds a dataset: plan, check against the card, render in parallel, write shards, rename at the end."""

import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aimbench.cards import Card, SplitCounts, Variant, load_card, parse_dataset
from aimbench.data.dataset import ShardDataset, dataset_folder, missing_sources
from aimbench.data.layouts import Plan, get_layout
from aimbench.data.manifest import (
    BUILDER_VERSION,
    INDEX_NAME,
    MANIFEST_NAME,
    GroundTruthSummary,
    IndexInfo,
    Manifest,
    SplitSummary,
    read_manifest,
    sha256_of,
)
from aimbench.data.raw import RawFolder
from aimbench.data.samples import Recipe, Sample, render
from aimbench.data.shards import ShardWriter, fingerprint
from aimbench.errors import DataError
from aimbench.record import Kind

Progress = Callable[[int, int], None]
"""Called with samples done and samples in all."""


@dataclass(frozen=True)
class BuildReport:
    """Outcome of a build.

    Attributes:
        dataset: The dataset, open.
        built: False if a whole build of the same raw data stood already.
        seconds: Wall time.
    """

    dataset: ShardDataset
    built: bool
    seconds: float


def build(
    name_at_variant: str,
    raw: Path | None,
    data_root: Path,
    *,
    partial: bool = False,
    seed: int | None = None,
    workers: int | None = None,
    force: bool = False,
    cards_dir: Path | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Builds ``name@variant`` from raw data into ``data_root/name/variant``.

    Args:
        name_at_variant: E.g. ``waterbirds@95``.
        raw: Folder with the official archives or their unpacked folders; None for a mini variant.
        data_root: Folder of built datasets.
        partial: Accept counts that differ from the card's; the build is then of kind ``partial``.
        seed: Of splits and pairings; by default the card's.
        workers: Rendering processes; by default one for each core.
        force: Replace a build that stands.
        cards_dir: Folder of cards, by default aimbench's.
        progress: Called as samples are rendered.

    Raises:
        CardError: If the dataset, the variant or its layout is unknown.
        DataError: If sources are missing or corrupt, counts differ, or another build stands there.
    """
    started = time.monotonic()
    name, variant_name = parse_dataset(name_at_variant, cards_dir)
    card = load_card(name, cards_dir)
    variant = card.variant(variant_name)
    get_layout(variant.layout)  # a wrong card shows before the work starts
    seed = variant.seed if seed is None else seed
    folder = dataset_folder(data_root, name, variant_name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Everything is made in here and renamed at the end, so a killed build is never taken for a whole one.
    temporary = Path(tempfile.mkdtemp(prefix=f".building-{variant_name}-", dir=folder.parent))
    try:
        raw_folder = _raw_folder(raw, data_root, temporary, card, variant, seed)
        plan, fell_back = _plan(raw_folder, card, variant, seed, partial)
        kind = _kind(card, variant_name, plan, partial, fell_back)
        plan_hash = _hash_plan(plan, raw_folder, kind, seed)
        if folder.exists() and not force:
            _check_same(folder, name, variant_name, plan_hash)
            dataset = ShardDataset.open(name_at_variant, data_root, cards_dir)
            return BuildReport(dataset, False, time.monotonic() - started)
        target = temporary / "dataset"
        target.mkdir()
        _write(target, card, variant_name, plan, kind, seed, plan_hash, raw_folder.forms, workers, progress)
        _put_in_place(target, folder, temporary, force)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    dataset = ShardDataset.open(name_at_variant, data_root, cards_dir)
    return BuildReport(dataset, True, time.monotonic() - started)


def _raw_folder(
    raw: Path | None, data_root: Path, temporary: Path, card: Card, variant: Variant, seed: int
) -> RawFolder:
    if variant.mini:
        from aimbench.data.synth import synthesise

        synthetic = temporary / "raw"
        synthesise(synthetic, variant.sources, seed)
        return RawFolder(synthetic, temporary / "unpacked")
    if raw is None:
        needed = "; ".join(missing_sources(card, variant.sources))
        raise DataError(f"dataset '{card.name}' is built from {needed}: name their folder with --raw DIR")
    return RawFolder(raw, data_root / ".unpacked")


def _plan(raw: RawFolder, card: Card, variant: Variant, seed: int, partial: bool) -> tuple[Plan, bool]:
    """Plans with the variant's builder, or, for a partial build without its sources, with its fallback's."""
    missing = raw.missing(card, variant.sources)
    if not missing:
        return get_layout(variant.layout)(raw, card, variant, seed), False
    fallback = card.variants[variant.fallback] if variant.fallback else None
    if fallback and partial and not raw.missing(card, fallback.sources):
        return get_layout(fallback.layout)(raw, card, fallback, seed), True
    hint = ""
    if fallback:
        hint = f"; or build {card.name}@{variant.fallback}, which is regenerated from CUB and Places"
        hint += "" if partial else ", or add --partial for that under this name"
    lacks = "; ".join(missing_sources(card, missing))
    raise DataError(f"{raw.root} lacks {lacks}: put it there{hint}")


def _kind(card: Card, variant: str, plan: Plan, partial: bool, fell_back: bool) -> Kind:
    if card.variants[variant].mini:
        return "mini"
    differences = _differences(card.variants[variant].counts, plan)
    if len(plan.classes) != card.num_classes:
        differences.insert(0, f"{len(plan.classes)} classes, not {card.num_classes}")
    if differences and not partial:
        raise DataError(
            f"{card.name}@{variant}: counts differ from the card's: {'; '.join(differences[:4])}"
            f"{'; ...' if len(differences) > 4 else ''}; complete the raw folder, or add --partial to build "
            "what is there"
        )
    return "partial" if differences or fell_back else "official"


def _differences(official: dict[str, SplitCounts], plan: Plan) -> list[str]:
    """Compares with official counts; ``train+val`` stands for both splits together."""
    found = []
    for split, expected in official.items():
        recipes = [recipe for recipe in plan.recipes if recipe.split in split.split("+")]
        if expected.count is not None and len(recipes) != expected.count:
            found.append(f"{split} has {len(recipes)} samples, not {expected.count}")
        for what, names, numbers in (
            ("classes", plan.classes, expected.classes),
            ("groups", plan.groups, expected.groups),
        ):
            if numbers is None:
                continue
            attribute = "label" if what == "classes" else "group"
            counts = Counter(getattr(recipe, attribute) for recipe in recipes)
            have = [counts[i] for i in range(len(names))]
            if have != numbers:
                found.append(f"{split} {what} {have}, not {numbers}")
    return found


def _hash_plan(plan: Plan, raw: RawFolder, kind: Kind, seed: int) -> str:
    """Hashes everything that a build depends on; of raw files only the sizes, since bytes take too long."""
    sizes: dict[Path, int] = {}

    def describe(path: Path | str | None) -> Any:
        if not isinstance(path, Path):
            return path
        if path not in sizes:
            sizes[path] = path.stat().st_size if path.is_file() else -1
        root = next((root for root in (raw.root, raw.cache) if path.is_relative_to(root)), None)
        return [path.relative_to(root).as_posix() if root else path.name, sizes[path]]

    content = [
        BUILDER_VERSION,
        kind,
        seed,
        plan.classes,
        plan.groups,
        plan.places,
        [
            [
                *(r.split, r.key, r.label, r.group, r.place, r.source, r.boxes, r.mask_threshold),
                *map(describe, (r.image, r.mask, r.background)),
            ]
            for r in plan.recipes
        ],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _check_same(folder: Path, name: str, variant: str, plan_hash: str) -> None:
    if read_manifest(folder).plan != plan_hash:
        raise DataError(
            f"{folder} holds another build of {name}@{variant} (other raw data, seed or builder version); "
            "add --force to replace it"
        )


def _write(
    target: Path,
    card: Card,
    variant: str,
    plan: Plan,
    kind: Kind,
    seed: int,
    plan_hash: str,
    forms: list[str],
    workers: int | None,
    progress: Progress | None,
) -> None:
    _check_recipes(plan)
    order = {split: i for i, split in enumerate(card.splits)}
    # A hash order mixes the classes in every shard, the same way on every machine.
    recipes = sorted(plan.recipes, key=lambda r: (order[r.split], hashlib.sha256(r.key.encode()).digest(), r.key))
    writers: list[ShardWriter] = []
    shares: list[float] = []
    for done, sample in enumerate(_rendered(recipes, workers), start=1):
        if not writers or writers[-1].split != sample.recipe.split:
            if writers:
                writers[-1].close()
            writers.append(ShardWriter(target, card.name, variant, sample.recipe.split))
        writers[-1].add(sample)
        if sample.foreground_share is not None:
            shares.append(sample.foreground_share)
        if progress:
            progress(done, len(recipes))
    writers[-1].close()
    rows = [row for writer in writers for row in writer.rows]
    _write_index(target / INDEX_NAME, rows)
    for file, content in plan.files.items():
        (target / file).write_bytes(content)
    manifest = Manifest(
        name=card.name,
        variant=variant,
        kind=kind,
        fingerprint=fingerprint([digest for writer in writers for digest in writer.digests]),
        plan=plan_hash,
        seed=seed,
        classes=plan.classes,
        groups=plan.groups,
        places=plan.places,
        splits={writer.split: summarise(writer.rows, plan.classes, plan.groups) for writer in writers},
        shards=[shard for writer in writers for shard in writer.shards],
        index=IndexInfo(sha256=sha256_of(target / INDEX_NAME)),
        ground_truth=GroundTruthSummary(
            share_with_mask=len(shares) / len(rows),
            mean_foreground_share=round(sum(shares) / len(shares), 6) if shares else 0.0,
            empty_masks=sum(share == 0 for share in shares),
        ),
        files={file: sha256_of(target / file) for file in plan.files},
        source_forms=forms,
        notes=plan.notes,
    )
    (target / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _check_recipes(plan: Plan) -> None:
    if not plan.recipes:
        raise DataError("the raw folder holds no sample; check images.txt or metadata.csv")
    seen = Counter((recipe.split, recipe.key) for recipe in plan.recipes)
    twice = [f"{key} of {split}" for (split, key), count in seen.items() if count > 1]
    if twice:
        raise DataError(f"{len(twice)} samples have the same name, e.g. {twice[0]}; file names must be unique")
    for recipe in plan.recipes:
        if not 0 <= recipe.label < len(plan.classes):
            raise DataError(
                f"{recipe.split} sample {recipe.key}: label {recipe.label} is outside the "
                f"{len(plan.classes)} classes; check the raw labels"
            )


def _rendered(recipes: list[Recipe], workers: int | None) -> Iterator[Sample]:
    """Renders in order, in a pool where that pays."""
    workers = min(workers or len(os.sched_getaffinity(0)), len(recipes))
    if workers <= 1:
        yield from map(render, recipes)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            yield from pool.map(render, recipes, chunksize=16)
        except BrokenProcessPool:
            raise DataError("a rendering process died (out of memory?); try fewer --workers") from None
        finally:
            pool.shutdown(cancel_futures=True)


def summarise(rows: list[dict[str, Any]], classes: list[str], groups: list[str]) -> SplitSummary:
    """Counts the rows of one split by class and group name."""
    labels = Counter(row["label"] for row in rows)
    by_group = Counter(row["group"] for row in rows)
    return SplitSummary(
        count=len(rows),
        classes={name: labels[i] for i, name in enumerate(classes)},
        groups={name: by_group[i] for i, name in enumerate(groups)},
    )


def _write_index(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


def _put_in_place(target: Path, folder: Path, temporary: Path, force: bool) -> None:
    if force and folder.exists():
        folder.rename(temporary / "replaced")
    try:
        target.rename(folder)
    except OSError:
        # Another process may have built the same meanwhile; any whole build will do.
        if not (folder / MANIFEST_NAME).is_file():
            raise
