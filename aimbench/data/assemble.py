"""Writes the shards, the index and the manifest of a plan; a killed build goes on behind its last finished shard."""

import itertools
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aimbench.cards import Card
from aimbench.data.counts import summarise_counts
from aimbench.data.layouts import Plan
from aimbench.data.manifest import INDEX_NAME, MANIFEST_NAME, IndexInfo, Manifest, sha256_of
from aimbench.data.recipes import Recipes
from aimbench.data.rendering import rendered
from aimbench.data.samples import Recipe
from aimbench.data.shard_index import Joined, join_parts
from aimbench.data.shards import ShardWriter, finished_keys
from aimbench.errors import DataError
from aimbench.machine import usable_cores
from aimbench.record import Kind

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
        kind: Whether the build is official, partial, uncounted or a mini.
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
    workers = min(workers or usable_cores(), len(job.plan.recipes))
    done, total = 0, len(job.plan.recipes)
    for split in job.card.splits:
        done = _write_split(target, job, split, workers, done, total, progress)
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
    for recipe in plan.recipes:
        _check_recipe(card, plan, recipe)
    if same := plan.recipes.twice():
        one, other = same
        raise DataError(
            f"two samples of {one.split} have the name {one.key}: {one.source} and {other.source}; "
            "file names must be unique within a split, so rename one"
        )


def _check_recipe(card: Card, plan: Plan, recipe: Recipe) -> None:
    where = f"{recipe.split} sample {recipe.key}"
    if recipe.split not in card.splits:
        raise DataError(f"{where}: the card of {card.name} has no split '{recipe.split}'; add it to its splits")
    if not recipe.key or not recipe.key.isprintable() or any(sign in recipe.key for sign in "./\\"):
        raise DataError(
            f"{where}: its name is empty or holds a dot, a slash or an unprintable sign; rename {recipe.source!a}"
        )
    for what, value, names in (("label", recipe.label, plan.classes), ("group", recipe.group, plan.groups)):
        if not 0 <= value < len(names):
            plural = "classes" if what == "label" else "groups"
            raise DataError(f"{where}: {what} {value} is outside the {len(names)} {plural}; check the raw labels")


def _write_split(
    target: Path,
    job: Job,
    split: str,
    workers: int,
    done: int,
    total: int,
    progress: Progress | None,
) -> int:
    """Writes what is not finished of one split and returns the number of samples done so far."""
    parts = target / _PARTS
    recipes = job.plan.recipes.in_shards(split)
    number = 0
    for keys in finished_keys(target, parts, job.card.name, job.variant, split):
        if keys != [recipe.key for recipe in itertools.islice(recipes, len(keys))]:
            raise DataError(f"{target} holds shards of another build; remove the folder and build again")
        number += 1
        done += len(keys)
    writer = ShardWriter(target, parts, job.card.name, job.variant, split, number=number)
    for sample in rendered(recipes, workers):
        writer.add(sample)
        done += 1
        if progress:
            progress(done, total)
    writer.close()
    return done


def _empty_masks(joined: Joined) -> list[str]:
    """A note where most masks are empty.

    Raises:
        DataError: If all are, which no measure of where a network looks survives.
    """
    truth = joined.ground_truth
    masks = joined.masks
    mend = "a mask is foreground above mask_threshold * 255, so that masks of 0 and 1 need mask_threshold: 0.002"
    if masks and truth.empty_masks == masks:
        raise DataError(f"all {masks} masks are empty; {mend}")
    return [f"{truth.empty_masks} of {masks} masks are empty; {mend}"] if 2 * truth.empty_masks > masks else []


def _same_images(joined: Joined, recipes: Recipes) -> list[str]:
    """Warnings of photographs that are there twice, byte for byte; official sets hold some, so it is no error."""
    notes = []
    for same, what in (
        (joined.same_images.in_train_and_elsewhere(), "photographs of train that are in another split too"),
        (joined.same_images.of_two_classes(), "photographs with two labels"),
    ):
        if same is not None:
            one, other = (recipes.find(*sample).source for sample in (same.one, same.other))
            notes.append(
                f"warning: {what}, byte for byte: {same.number}, the first {one} and {other}; keep one of each, unless"
                " the dataset is defined so"
            )
    return notes


def _finish(target: Path, parts: Path, job: Job) -> Manifest:
    """Writes index, further files and manifest."""
    joined = join_parts(parts, target / INDEX_NAME)
    empty = _empty_masks(joined)
    order = {split: i for i, split in enumerate(job.card.splits)}
    for file, content in job.plan.files.items():
        (target / file).write_bytes(content)
    splits = summarise_counts(joined.counts, job.plan.classes, job.plan.groups)
    manifest = Manifest(
        name=job.card.name,
        variant=job.variant,
        kind=job.kind,
        fingerprint=joined.fingerprint,
        plan=job.plan_hash,
        seed=job.seed,
        classes=job.plan.classes,
        groups=job.plan.groups,
        places=job.plan.places,
        splits={split: splits[split] for split in sorted(splits, key=order.__getitem__)},
        shards=sorted(joined.shards, key=lambda shard: (order[shard.split], shard.file)),
        index=IndexInfo(sha256=sha256_of(target / INDEX_NAME)),
        ground_truth=joined.ground_truth,
        image_traits=joined.traits,
        synthesis=job.synthesis,
        files={file: sha256_of(target / file) for file in job.plan.files},
        source_forms=job.forms,
        notes=[*job.plan.notes, *job.plan.lacking, *empty, *_same_images(joined, job.plan.recipes)],
    )
    (target / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest
