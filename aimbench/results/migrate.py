"""Records of older versions of aimbench, brought to today's schema when they are read.

A migration changes a record's content by one schema version. It must leave the definition as it was (method,
dataset, backbone, training, evaluation, seed, selector), for the record's id is the hash of it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from aimbench.errors import RecordError
from aimbench.record import SCHEMA_VERSION

Migration = Callable[[dict[str, Any]], dict[str, Any]]

# From the version that is the key to the next. Version 1 is the first.
MIGRATIONS: Mapping[int, Migration] = {}


def migrate(
    content: dict[str, Any], migrations: Mapping[int, Migration] = MIGRATIONS, newest: int = SCHEMA_VERSION
) -> dict[str, Any]:
    """Returns a record's content in the newest schema.

    Args:
        content: The record as it was stored.
        migrations: One a version older than the newest.
        newest: The version to arrive at.

    Raises:
        RecordError: If the version is none that this aimbench can read.
    """
    version = content.get("schema")
    if type(version) is not int or not (version == newest or version in migrations):
        known = ", ".join(str(known) for known in sorted({*migrations, newest}))
        raise RecordError(
            f"schema version {version!r} is unknown, this aimbench reads {known}; "
            "use the version of aimbench that wrote it"
        )
    while version < newest:
        content = {**migrations[version](content), "schema": version + 1}
        version += 1
    return content
