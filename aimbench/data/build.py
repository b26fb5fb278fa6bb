"""Builds a dataset: plan, check against the card, render in parallel, write shards, rename at the end."""

import hashlib
import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from aimbench.cards import Card, Variant, load_card, parse_dataset
from aimbench.data.assemble import Job, Progress, assemble
from aimbench.data.counts import differences, summarise_recipes
from aimbench.data.croissant import write_croissant
from aimbench.data.dataset import ShardDataset, dataset_folder, missing_sources
from aimbench.data.layouts import Plan, get_layout
from aimbench.data.manifest import BUILDER_VERSION, Manifest, read_manifest
from aimbench.data.raw import RawFolder
from aimbench.data.tables import Cell
from aimbench.errors import DataError
from aimbench.record import Kind


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
    locks = data_root / ".locks"
    locks.mkdir(exist_ok=True)
    # Two processes that open the same absent mini build it once.
    with FileLock(locks / f"{name}-{variant_name}.lock"):
        scratch = _scratch(folder)
        try:
            raw_folder = _raw_folder(raw, data_root, scratch, card, variant, seed)
            job = _job(raw_folder, card, variant_name, seed, partial)
            built = force or not _stands(folder, job)
            if built:
                _build_into(folder, job, force, workers, progress)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    dataset = ShardDataset.open(name_at_variant, data_root, cards_dir)
    return BuildReport(dataset, built, time.monotonic() - started)


def _scratch(folder: Path) -> Path:
    """A temporary folder beside the dataset's; those that a killed build left are removed."""
    prefix = _beside(folder, "synthetic")
    for left in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))


def _beside(folder: Path, what: str) -> str:
    """Prefix of a variant's own hidden folders.

    A dot ends it, which no variant's name holds: ``95`` and ``95-regenerated`` may be built at once.
    """
    return f".{what}-{folder.name}."


def _job(raw: RawFolder, card: Card, variant_name: str, seed: int, partial: bool) -> Job:
    """Plans, and checks the plan's counts against the card's."""
    variant = card.variant(variant_name)
    plan, fell_back = _plan(raw, card, variant, seed, partial)
    kind = _kind(card, variant_name, plan, partial, fell_back)
    synthesis = None
    if variant.mini:
        from aimbench.data.synth import synthesis_digest

        synthesis = synthesis_digest(variant)
    return Job(card, variant_name, plan, kind, seed, _hash_plan(plan, raw, kind, seed), raw.forms, synthesis)


def _stands(folder: Path, job: Job) -> bool:
    """Tells whether the same build is there already.

    Raises:
        DataError: If another build is there, unless it is a mini that other settings synthesised.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return False
    manifest = read_manifest(folder)
    if (manifest.plan, manifest.synthesis) != (job.plan_hash, job.synthesis):
        if job.kind == "mini" and manifest.seed == job.seed:
            return False  # an outdated mini costs seconds
        raise DataError(
            f"{folder} holds another build of {job.card.name}@{job.variant} (other raw data, seed, kind or "
            "builder version); add --force to replace it"
        )
    return True


def _build_into(folder: Path, job: Job, force: bool, workers: int | None, progress: Progress | None) -> None:
    """Builds in a folder named by the plan, so that the same build finds its shards again, and renames it at the end.

    A folder without this name is never taken for a whole build.
    """
    prefix = _beside(folder, "building")
    target = folder.parent / f"{prefix}{job.plan_hash[:16]}"
    for left in folder.parent.glob(f"{prefix}*"):
        if force or left != target:
            shutil.rmtree(left, ignore_errors=True)
    try:
        manifest = assemble(target, job, workers, progress)
        _check_fingerprint(job, manifest)
        write_croissant(target, job.card, manifest)
    except Exception:
        # What is wrong must be mended first, and then the plan is another one; only a kill is resumed.
        shutil.rmtree(target, ignore_errors=True)
        raise
    replaced = folder.parent / f"{_beside(folder, 'replaced')}old"
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    target.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def _check_fingerprint(job: Job, manifest: Manifest) -> None:
    variant = job.card.variant(job.variant)
    pinned = variant.fingerprint
    if job.kind == "official" and job.seed == variant.seed and pinned and pinned != manifest.fingerprint:
        raise DataError(
            f"{job.card.name}@{job.variant}: the fingerprint is {manifest.fingerprint}, the card says {pinned}, though "
            "all counts agree: some image or mask differs; get the official archives again"
        )


def _raw_folder(raw: Path | None, data_root: Path, scratch: Path, card: Card, variant: Variant, seed: int) -> RawFolder:
    if variant.mini:
        from aimbench.data.synth import synthesise

        synthetic = scratch / "raw"
        synthesise(synthetic, card, variant, seed)
        return RawFolder(synthetic, scratch / "unpacked")
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
    found = differences(card, variant, plan.classes, summarise_recipes(plan.recipes, plan.classes, plan.groups))
    found += plan.lacking
    if found and not partial:
        raise DataError(
            f"{card.name}@{variant}: the raw folder is not whole: {'; '.join(found[:4])}"
            f"{'; ...' if len(found) > 4 else ''}; complete the raw folder, or add --partial to build "
            "what is there"
        )
    if found or fell_back:
        return "partial"
    stated = card.variants[variant]
    return "official" if stated.counts or stated.fingerprint else "uncounted"


def _hash_plan(plan: Plan, raw: RawFolder, kind: Kind, seed: int) -> str:
    """Hashes everything that a build depends on; of raw files only the sizes, since bytes take too long."""
    digest = hashlib.sha256()

    def put(value: Any) -> None:
        digest.update(json.dumps(value, separators=(",", ":")).encode() + b"\n")

    def describe(path: Path | Cell | str | None) -> Any:
        if not isinstance(path, Path):
            return str(path) if isinstance(path, Cell) else path
        size = path.stat().st_size if path.is_file() else -1
        root = next((root for root in (raw.root, raw.cache) if path.is_relative_to(root)), None)
        return [path.relative_to(root).as_posix() if root else path.name, size]

    put([BUILDER_VERSION, kind, seed, plan.classes, plan.groups, plan.places])
    for r in plan.recipes:
        put([r.split, r.key, r.label, r.group, r.place, r.source, r.boxes, r.mask_threshold, r.mask_scaled])
        put([r.voc_class, *map(describe, (r.image, r.mask, r.background, r.voc))])
    return digest.hexdigest()
