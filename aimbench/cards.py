"""Dataset cards: what a dataset is, as data.

A card is ``datasets/<name>/card.yaml``. It names the classes, groups,
variants, sources, official counts, ground truth, known defects and default
transforms of one dataset; the builders and the trainer read it and know no
dataset by name.
"""

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from aimbench.errors import CardError, nearest_names
from aimbench.paths import cards_root
from aimbench.wrong_fields import wrong_fields
from aimbench.yaml_text import parse_yaml

_PACKAGE = Path(__file__).resolve().parent
_NAME = r"^[a-z0-9][a-z0-9_-]*$"


def _inside(path: str) -> str:
    """Cards may come from others, so their paths must stay in the raw folder."""
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
        raise ValueError("must be a relative path without '..'")
    return path


def _web(address: str) -> str:
    """Cards may come from others, so an address must not name a local file."""
    if not address.startswith(("https://", "http://")):
        raise ValueError("must start with https:// or http://")
    return address


_RelativePath = Annotated[str, AfterValidator(_inside)]
_Url = Annotated[str, AfterValidator(_web)]
_Name = Annotated[str, Field(pattern=_NAME)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Archive(_Strict):
    """A file whose content a checksum tells."""

    archive: _RelativePath = Field(description="Official file name of the archive.")
    md5: str | None = Field(default=None, pattern="^[0-9a-f]{32}$")
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")


class Part(Archive):
    """An archive that holds one folder of a source."""

    nested: bool = Field(default=False, description="It holds tars, each the folder of its name.")


class Source(Archive):
    """One official archive, or the folder that it unpacks to."""

    folders: list[_RelativePath] = Field(
        min_length=1, description="Where the unpacked content may lie under the raw folder; first found wins."
    )
    holds: list[_RelativePath] = Field(default_factory=list, description="Files that must lie in the folder.")
    inside: _RelativePath = Field(default="", description="Folder inside the archive that equals an unpacked folder.")
    only: list[str] = Field(
        default_factory=list,
        description="Path prefixes to unpack from a large archive, or to download from the hub; empty: everything.",
    )
    parts: dict[_RelativePath, Part] = Field(
        default_factory=dict, description="Folder of the source -> its archive, where each comes on its own."
    )
    urls: list[_Url] = Field(default_factory=list, description="Direct downloads of the archive, best first.")
    pages: list[_Url] = Field(
        default_factory=list, description="Where a person gets it, with terms or a login that a download can't pass."
    )
    hub: str | None = Field(
        default=None, pattern=r"^[\w-][\w.-]*/[\w-][\w.-]*$", description="Dataset on the Hugging Face hub, OWNER/NAME."
    )
    revision: str = Field(default="main", description="Revision of the dataset on the hub.")

    @property
    def archives(self) -> list[Archive]:
        """The archives whose checksums are stated: the parts where there are some, and the whole."""
        return [*self.parts.values(), self]

    @property
    def names(self) -> str:
        """File names of the archives, in words."""
        parts = " and ".join(part.archive for part in self.parts.values())
        return f"{parts}, or {self.archive}" if parts else self.archive


class SplitCounts(_Strict):
    """Official number of samples of a split: in all, by class index and by group index."""

    count: int | None = Field(default=None, ge=0)
    classes: list[int] | None = None
    each_class: int | None = Field(default=None, ge=0, description="The number of every class, where they are equal.")
    groups: list[int] | None = None


class Paper(_Strict):
    """Where a dataset, or one of its variants, comes from."""

    title: str
    authors: str
    venue: str
    url: str = ""


class Variant(_Strict):
    """One version of a dataset: which builder makes it, from which sources, and its official counts."""

    summary: str
    layout: str = Field(description="Name of the builder.")
    sources: list[str] = Field(description="Sources that the builder needs.")
    optional_sources: list[str] = Field(default_factory=list, description="Used where they are there.")
    options: dict[str, Any] = Field(default_factory=dict, description="Settings of the builder.")
    counts: dict[str, SplitCounts] = Field(default_factory=dict, description="Official counts by split.")
    seed: int = 0
    fingerprint: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="Of the official build, once someone has built it."
    )
    paper: Paper | None = Field(default=None, description="That defines this variant, if not the dataset's.")
    citation: str = Field(default="", description="BibTeX of that paper.")
    mini: bool = Field(default=False, description="Synthesised, so that it needs no download.")
    synth: dict[str, Any] = Field(default_factory=dict, description="Settings of the synthesiser of a mini.")
    fallback: str | None = Field(
        default=None, description="Variant whose builder a partial build uses where the sources are absent."
    )


class GroundTruth(_Strict):
    """Which pixels are the object."""

    kind: Literal["mask", "boxes", "both"]
    mask_threshold: float = Field(
        default=0.5, gt=0, lt=1, description="Foreground where the mask's value / 255 is at least this."
    )
    note: str = ""


class Transforms(_Strict):
    """Default geometry of images, in pixels and shares of the area."""

    eval_resize: int = Field(default=256, gt=0, description="Shorter side before the centre crop.")
    eval_crop: int = Field(default=224, gt=0, description="Side of the centre crop.")
    train_crop_scale: tuple[float, float] = Field(
        default=(0.7, 1.0), description="Range of the random crop's share of the image area."
    )
    train_flip: bool = Field(default=True, description="Flip left and right with probability 0.5.")


class Card(_Strict):
    """A validated dataset card."""

    name: _Name
    title: str
    summary: str
    task: str
    num_classes: int = Field(gt=1, description="Of the official dataset; a partial build may hold fewer.")
    classes: list[str] = Field(
        default_factory=list, description="Class names in label order; empty: read from the raw data."
    )
    groups: list[str] | Literal["classes"] = Field(
        description="Group names in index order, or 'classes': each class is its own group."
    )
    group_rule: str = Field(description="How a sample's group follows from its label and place.")
    splits: dict[_Name, str] = Field(description="Split or test condition -> what it is.")
    default_variant: str
    variants: dict[_Name, Variant]
    sources: dict[str, Source]
    ground_truth: GroundTruth
    transforms: Transforms = Field(default_factory=Transforms)
    default_selector: str = "val_class_balanced_accuracy"
    known_defects: list[str] = Field(default_factory=list)
    licence: str
    citation: str = Field(description="BibTeX.")
    paper: Paper

    @model_validator(mode="after")
    def _names_refer_to_something(self) -> "Card":
        if self.default_variant not in self.variants:
            raise ValueError(f"default_variant '{self.default_variant}' is not among the variants")
        if self.classes and len(self.classes) != self.num_classes:
            raise ValueError(f"num_classes is {self.num_classes}, but {len(self.classes)} classes are listed")
        for name, variant in self.variants.items():
            for source in (*variant.sources, *variant.optional_sources):
                if source not in self.sources:
                    raise ValueError(f"variants.{name} needs source '{source}', which the card does not have")
            if variant.fallback is not None and variant.fallback not in self.variants:
                raise ValueError(f"variants.{name}.fallback '{variant.fallback}' is not among the variants")
        return self

    def variant(self, name: str) -> Variant:
        """Returns the variant called ``name``.

        Raises:
            CardError: If the card has no such variant.
        """
        if name not in self.variants:
            raise CardError(f"dataset '{self.name}' has no variant '{name}'; {nearest_names(name, self.variants)}")
        return self.variants[name]

    def source(self, name: str) -> Source:
        """Returns the source called ``name``, which a layout or its options ask for.

        Raises:
            CardError: If the card has no such source.
        """
        if name not in self.sources:
            raise CardError(
                f"card of {self.name}: its layout or options name source '{name}', which 'sources' does not have;"
                f" {nearest_names(name, self.sources)}"
            )
        return self.sources[name]


def load_card(name: str, cards_dir: Path | None = None) -> Card:
    """Reads and validates the card of dataset ``name``.

    Args:
        name: Dataset name without variant, e.g. ``waterbirds``.
        cards_dir: Folder of further cards, ``<name>/card.yaml``; it goes before the cards that come with aimbench.

    Raises:
        CardError: If there is no such card, or the card is malformed.
    """
    known = list_cards(cards_dir)
    if name not in known:
        raise CardError(f"unknown dataset '{name}'; {nearest_names(name, known)} (cards of your own: --cards FOLDER)")
    path = next(path for folder in _folders(cards_dir) if (path := folder / name / "card.yaml").is_file())
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CardError(f"card {path} is not valid YAML: {' '.join(str(error).split())}; mend the file") from None
    if not isinstance(content, dict):
        raise CardError(f"card {path} is empty or not a mapping; write the fields of a card into it")
    try:
        card = Card.model_validate(content)
    except ValidationError as error:
        raise CardError(f"card {path}: {wrong_fields(error, Card)}") from None
    if card.name != name:
        raise CardError(f"card {path}: name is '{card.name}', but its folder is '{name}'; make them equal")
    return card


def list_cards(cards_dir: Path | None = None) -> list[str]:
    """Returns the names of all datasets that have a card, sorted.

    Raises:
        CardError: If ``cards_dir`` does not exist.
    """
    return sorted({path.parent.name for folder in _folders(cards_dir) for path in folder.glob("*/card.yaml")})


def parse_dataset(name_at_variant: str, cards_dir: Path | None = None) -> tuple[str, str]:
    """Splits ``waterbirds@95`` into name and variant; without a variant it is the card's default.

    Raises:
        CardError: If the dataset or the variant is unknown.
    """
    name, _, variant = name_at_variant.partition("@")
    card = load_card(name, cards_dir)
    variant = variant or card.default_variant
    card.variant(variant)
    return name, variant


def default_cards_dir() -> Path:
    """Returns ``datasets/`` of a source tree, or the cards that an installed wheel carries."""
    source_tree = _PACKAGE.parent / "datasets"
    # site-packages may hold another library's `datasets`; ours is the one with cards.
    if any(source_tree.glob("*/card.yaml")):
        return source_tree
    return _PACKAGE / "_cards"


def _folders(cards_dir: Path | None) -> list[Path]:
    cards_dir = cards_root(cards_dir)
    if cards_dir is None:
        return [default_cards_dir()]
    if (cards_dir / "card.yaml").is_file():
        raise CardError(
            f"cards folder {cards_dir} is one dataset's; name the folder above it, which holds NAME/card.yaml"
        )
    if not cards_dir.is_dir():
        raise CardError(
            f"cards folder {cards_dir} (--cards or AIMBENCH_CARDS) does not exist; name the folder of NAME/card.yaml"
        )
    return [cards_dir, default_cards_dir()]
