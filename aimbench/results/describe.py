"""Settings in words: what differs between rows of a table, and what they share."""

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any


def differing(mappings: Sequence[Mapping[str, Any]]) -> set[str]:
    """Returns the dotted keys whose values are not equal in all of the mappings."""
    flat = [flattened(mapping) for mapping in mappings]
    keys = set(chain.from_iterable(flat))
    return {key for key in keys if any(_unequal(f.get(key), flat[0].get(key)) for f in flat)}


def _unequal(a: Any, b: Any) -> bool:
    # 1, 1.0 and True are equal to Python, and three different settings.
    return type(a) is not type(b) or a != b


def pick(mapping: Mapping[str, Any], keys: set[str]) -> str:
    """Returns the settings with these dotted keys as ``key=value, ...``, in the order of the mapping."""
    return describe({key: value for key, value in flattened(mapping).items() if key in keys})


def flattened(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings under dotted keys, such as ``evaluation.epg_samples``."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def describe(mapping: Mapping[str, Any]) -> str:
    """Returns ``key=value, ...``."""
    return ", ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in mapping.items()
    )
