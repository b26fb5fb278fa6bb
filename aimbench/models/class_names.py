"""Which outputs of a classifier are a dataset's classes: matched by name or by WordNet id, never by position."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm.data.imagenet_info import ImageNetInfo

from aimbench.errors import ConfigError, nearest_names

IMAGENET_CLASSES = 1000
_WNID = re.compile(r"n\d{8}")


def output_names(file: Path | None, outputs: int) -> list[str]:
    """Names of a classifier's outputs, in order: from a file, or ImageNet-1k's WordNet ids for 1000 outputs.

    Args:
        file: text, one class name or WordNet id a line; None: ImageNet's order.
        outputs: number of the classifier's outputs.

    Raises:
        ConfigError: the file is missing or has another number of lines, or no file is given and there are
            not 1000 outputs.
    """
    if file is None:
        if outputs != IMAGENET_CLASSES:
            raise ConfigError(
                f"the checkpoint's classifier has {outputs} outputs, so its classes are not ImageNet's; name them"
                " with --classes FILE, one class a line in the order of the outputs"
            )
        info: Any = ImageNetInfo("imagenet-1k")
        return list(info.label_names())
    if not file.is_file():
        raise ConfigError(f"class names {file} do not exist; give a text file, one class a line")
    names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(names) != outputs:
        raise ConfigError(f"class names {file}: {len(names)} lines, the checkpoint's classifier has {outputs} outputs")
    return names


def match_classes(classes: Sequence[str], wnids: Sequence[str] | None, outputs: Sequence[str]) -> list[int]:
    """Position among ``outputs`` of each of a dataset's classes.

    Args:
        classes: names of the dataset's classes; synonyms separated by commas.
        wnids: their WordNet ids, where the dataset's card names them.
        outputs: names or WordNet ids of the classifier's outputs.

    Returns:
        One position a class, all different.

    Raises:
        ConfigError: a class has no output, more than one, or shares one with another class.
    """
    if wnids is not None and all(_WNID.fullmatch(name) for name in outputs):
        return _positions(list(zip(classes, [{wnid} for wnid in wnids], strict=True)), [{name} for name in outputs])
    if any(_WNID.fullmatch(name) for name in outputs):
        info: Any = ImageNetInfo("imagenet-1k")
        outputs = [info.label_name_to_description(n) if _WNID.fullmatch(n) else n for n in outputs]
    return _positions([(name, _synonyms(name)) for name in classes], [_synonyms(name) for name in outputs])


def _positions(classes: list[tuple[str, set[str]]], outputs: list[set[str]]) -> list[int]:
    chosen: list[int] = []
    for name, synonyms in classes:
        found = [i for i, other in enumerate(outputs) if synonyms & other]
        if not found:
            known = {synonym for other in outputs for synonym in other}
            near = nearest_names(min(synonyms), known) if len(known) < 50 else "see --classes"
            raise ConfigError(f"class '{name}' of the dataset is none of the model's {len(outputs)} classes; {near}")
        if len(found) > 1 or found[0] in chosen:
            raise ConfigError(
                f"class '{name}' of the dataset is not one class of the model's (outputs {found}); give WordNet ids"
                " or unique names with --classes FILE"
            )
        chosen.append(found[0])
    return chosen


def _synonyms(name: str) -> set[str]:
    """Spellings that count as equal: case, underscores and numbers in front (``001.Albatross``) do not matter."""
    parts = [name, *name.split(",")]
    return {re.sub(r"^\d+\.", "", part.strip().lower().replace("_", " ")) for part in parts if part.strip()}
