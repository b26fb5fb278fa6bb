"""The JSON Schema of a record, published as ``aimbench/record.schema.json``."""

import json
from pathlib import Path

from aimbench.record import Record

PUBLISHED = Path(__file__).resolve().parents[1] / "record.schema.json"


def record_schema() -> str:
    """Returns the schema (JSON Schema 2020-12) as text."""
    schema = Record.model_json_schema(by_alias=True, mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"
