"""What would grow with the number of images lies on disk: a temporary SQLite database, gone when it is closed."""

import sqlite3

_CACHE = 4 * 1024
"""Kilobytes that SQLite keeps in memory; beyond them it writes to a file without a name in ``TMPDIR``."""


def temporary_database(schema: str) -> sqlite3.Connection:
    """Opens an empty database for this process alone.

    It sorts on disk too, and orders texts by code point, as Python does.

    Args:
        schema: ``CREATE TABLE`` statement.
    """
    database = sqlite3.connect("")
    # Nobody reads it after a crash, so it needs no journal.
    database.execute("PRAGMA journal_mode = OFF")
    database.execute("PRAGMA synchronous = OFF")
    database.execute(f"PRAGMA cache_size = -{_CACHE}")
    database.execute("PRAGMA temp_store = FILE")
    database.execute(schema)
    return database
