"""The manifest of a built dataset: what its shards hold, with a checksum of each."""

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aimbench.errors import DataError
from aimbench.record import Kind
from aimbench.wrong_fields import wrong_fields

MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.parquet"
BUILDER_VERSION = 1
_PLAIN_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]*$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitSummary(_Strict):
    """Number of samples of one split: in all, by class name and by group name."""

    count: int
    classes: dict[str, int]
    groups: dict[str, int]


class ShardInfo(_Strict):
    """One tar file."""

    file: str = Field(pattern=_PLAIN_NAME)
    split: str
    count: int
    bytes: int
    sha256: str


class IndexInfo(_Strict):
    """The Parquet file that tells where each sample lies."""

    file: str = Field(default=INDEX_NAME, pattern=_PLAIN_NAME)
    sha256: str


class GroundTruthSummary(_Strict):
    """Statistics of masks and boxes over all splits."""

    share_with_mask: float = Field(description="Samples that have a mask / all samples, in [0, 1].")
    mean_foreground_share: float = Field(
        description="Mean of mask area / image area over samples with a mask, in [0, 1]."
    )
    empty_masks: int = Field(description="Masks without a single foreground pixel.")
    share_with_boxes: float | None = Field(
        default=None, description="Samples that have a box / all samples, in [0, 1]."
    )
    mean_box_share: float | None = Field(
        default=None, description="Mean of the boxes' union / image area over samples with a box, in [0, 1]."
    )


class Manifest(_Strict):
    """What a dataset folder holds."""

    name: str
    variant: str
    kind: Kind
    fingerprint: str = Field(description="sha256 over (split, key, sha256 of each member) of all samples.")
    plan: str = Field(description="sha256 of what was to be built, to tell whether raw data changed.")
    builder_version: int = BUILDER_VERSION
    seed: int
    classes: list[str]
    groups: list[str]
    places: list[str] = Field(default_factory=list, description="Names of the place indices.")
    splits: dict[str, SplitSummary]
    shards: list[ShardInfo]
    index: IndexInfo
    ground_truth: GroundTruthSummary
    image_traits: dict[str, int] = Field(
        default_factory=dict, description="Images whose files are odd, e.g. CMYK or EXIF-rotated, by trait."
    )
    synthesis: str | None = Field(default=None, description="sha256 of what a mini was synthesised by.")
    files: dict[Annotated[str, Field(pattern=_PLAIN_NAME)], str] = Field(
        default_factory=dict, description="sha256 of further files, by name."
    )
    source_forms: list[str] = Field(description="Which forms of the official sources were used.")
    notes: list[str] = Field(default_factory=list)


def read_manifest(folder: Path) -> Manifest:
    """Reads ``manifest.json`` of a dataset folder.

    Raises:
        DataError: If it is missing or malformed.
    """
    path = folder / MANIFEST_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{folder} has no {MANIFEST_NAME}, so it is no whole build; build it again with --force"
        ) from None
    except ValidationError as error:
        raise DataError(f"manifest {path}: {wrong_fields(error, Manifest)}; rebuild the dataset with --force") from None


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
