"""Writes the shards, the index and the manifest of a plan; a killed build goes on behind its last finished shard."""

import hashlib
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aimbench.cards import Card
from aimbench.data.counts import summarise
from aimbench.data.layouts import Plan
from aimbench.data.manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    GroundTruthSummary,
    IndexInfo,
    Manifest,
    sha256_of,
)
from aimbench.data.rendering import rendered
from aimbench.data.samples import Recipe
from aimbench.data.shards import ShardWriter, fingerprint, finished_keys, index_columns, read_parts
from aimbench.errors import DataError
from aimbench.record import Kind

if TYPE_CHECKING:
    import pyarrow as pa

Progress = Callable[[int, int], None]
"""Called with samples done and samples in all."""

_PARTS = "parts"


@dataclass(frozen=True)
class Job:
    """What a build makes.

    Attributes:
        card: Of the dataset.
        variant: Its name.
        plan: What to render.
        kind: Whether the build is official, partial or a mini.
        seed: Of splits and pairings.
        plan_hash: sha256 of the plan.
        forms: Which forms of the sources were used.
        synthesis: sha256 of what a mini was synthesised by, else None.
    """

    card: Card
    variant: str
    plan: Plan
    kind: Kind
    seed: int
    plan_hash: str
    forms: list[str]
    synthesis: str | None = None


def assemble(target: Path, job: Job, workers: int | None, progress: Progress | None) -> Manifest:
    """Writes a dataset into ``target``, which may hold the finished shards of a build that was killed.

    Args:
        target: Folder to fill.
        job: What to build.
        workers: Rendering processes; by default one for each core.
        progress: Called as samples are written.

    Raises:
        DataError: If a sample can't be rendered.
    """
    check_plan(job.card, job.plan)
    parts = target / _PARTS
    parts.mkdir(parents=True, exist_ok=True)
    workers = min(workers or len(os.sched_getaffinity(0)), len(job.plan.recipes))
    done, total = 0, len(job.plan.recipes)
    for split, recipes in itertools.groupby(_in_order(job), key=lambda recipe: recipe.split):
        done = _write_split(target, job, split, list(recipes), workers, done, total, progress)
    manifest = _finish(target, parts, job)
    shutil.rmtree(parts)
    return manifest


def check_plan(card: Card, plan: Plan) -> None:
    """Checks what every builder must keep: names that are unique and safe, indices within their lists.

    Raises:
        DataError: Naming the first sample that breaks it.
    """
    if not plan.recipes:
        raise DataError("the raw folder holds no sample; check images.txt, metadata.csv or the class folders")
    for what, names in (("class", plan.classes), ("group", plan.groups)):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise DataError(f"{what} '{twice[0]}' is there twice; {what} names must be unique")
    first: dict[tuple[str, str], Recipe] = {}
    for recipe in plan.recipes:
        _check_recipe(card, plan, recipe)
        other = first.setdefault((recipe.split, recipe.key), recipe)
        if other is not recipe:
            raise DataError(
                f"two samples of {recipe.split} have the name {recipe.key}: {other.source} and {recipe.source}; "
                "file names must be unique within a split, so rename one"
            )


def _check_recipe(card: Card, plan: Plan, recipe: Recipe) -> None:
    where = f"{recipe.split} sample {recipe.key}"
    if recipe.split not in card.splits:
        raise DataError(f"{where}: the card of {card.name} has no split '{recipe.split}'; add it to its splits")
    if not recipe.key or not recipe.key.isprintable() or any(sign in recipe.key for sign in "./\\"):
        raise DataError(f"{where}: its name is empty or holds a dot, a slash or a control sign; rename {recipe.source}")
    for what, value, names in (("label", recipe.label, plan.classes), ("group", recipe.group, plan.groups)):
        if not 0 <= value < len(names):
            plural = "classes" if what == "label" else "groups"
            raise DataError(f"{where}: {what} {value} is outside the {len(names)} {plural}; check the raw labels")


def _in_order(job: Job) -> list[Recipe]:
    """Split by split; a hash order mixes the classes in every shard, the same way on every machine."""
    order = {split: i for i, split in enumerate(job.card.splits)}
    return sorted(job.plan.recipes, key=lambda r: (order[r.split], hashlib.sha256(r.key.encode()).digest(), r.key))


def _write_split(
    target: Path,
    job: Job,
    split: str,
    recipes: list[Recipe],
    workers: int,
    done: int,
    total: int,
    progress: Progress | None,
) -> int:
    """Writes what is not finished of one split and returns the number of samples done so far."""
    parts = target / _PARTS
    finished = finished_keys(target, parts, job.card.name, job.variant, split)
    keys = [key for shard in finished for key in shard]
    if keys != [recipe.key for recipe in recipes[: len(keys)]]:
        raise DataError(f"{target} holds shards of another build; remove the folder and build again")
    writer = ShardWriter(target, parts, job.card.name, job.variant, split, number=len(finished))
    done += len(keys)
    for sample in rendered(recipes[len(keys) :], workers):
        writer.add(sample)
        done += 1
        if progress:
            progress(done, total)
    writer.close()
    return done


def _finish(target: Path, parts: Path, job: Job) -> Manifest:
    """Writes index, further files and manifest."""
    import pyarrow.parquet as pq

    table, shards = read_parts(parts)
    order = {split: i for i, split in enumerate(job.card.splits)}
    pq.write_table(table.select(index_columns()), target / INDEX_NAME)
    for file, content in job.plan.files.items():
        (target / file).write_bytes(content)
    rows = table.select(["split", "label", "group"]).to_pandas()
    manifest = Manifest(
        name=job.card.name,
        variant=job.variant,
        kind=job.kind,
        fingerprint=fingerprint(table["digest"].to_pylist()),
        plan=job.plan_hash,
        seed=job.seed,
        classes=job.plan.classes,
        groups=job.plan.groups,
        places=job.plan.places,
        splits={
            str(split): summarise(some["label"].tolist(), some["group"].tolist(), job.plan.classes, job.plan.groups)
            for split, some in sorted(rows.groupby("split"), key=lambda pair: order[str(pair[0])])
        },
        shards=sorted(shards, key=lambda shard: (order[shard.split], shard.file)),
        index=IndexInfo(sha256=sha256_of(target / INDEX_NAME)),
        ground_truth=_ground_truth(table),
        image_traits=dict(sorted(_traits(table).items())),
        synthesis=job.synthesis,
        files={file: sha256_of(target / file) for file in job.plan.files},
        source_forms=job.forms,
        notes=job.plan.notes,
    )
    (target / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def _ground_truth(table: "pa.Table") -> GroundTruthSummary:
    masks = [share for share in table["foreground_share"].to_pylist() if share is not None]
    boxes = [share for share in table["box_share"].to_pylist() if share is not None]
    return GroundTruthSummary(
        share_with_mask=len(masks) / len(table),
        mean_foreground_share=round(sum(masks) / len(masks), 6) if masks else 0.0,
        empty_masks=sum(share == 0 for share in masks),
        share_with_boxes=len(boxes) / len(table),
        mean_box_share=round(sum(boxes) / len(boxes), 6) if boxes else None,
    )


def _traits(table: "pa.Table") -> Counter[str]:
    return Counter(trait for traits in table["traits"].to_pylist() for trait in traits.split(",") if trait)
