import json

import jsonschema
import pytest

from aimbench.errors import RecordError
from aimbench.results.migrate import migrate
from aimbench.results.schema import PUBLISHED, record_schema
from aimbench.results.store import Store


def test_the_published_schema_is_that_of_the_code():
    assert PUBLISHED.read_text() == record_schema(), "run 'aimbench results schema > aimbench/record.schema.json'"


def test_the_schema_takes_what_is_stored_and_refuses_what_is_not_a_record(tmp_path, sound_run):
    schema = json.loads(PUBLISHED.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    stored = json.loads(Store(tmp_path).write(*sound_run).read_text())
    jsonschema.validate(stored, schema)
    for broken in ({**stored, "schema": 2}, {**stored, "seed": "x"}, {**stored, "new": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)


def _second(content):
    return {**content, "added": "default"}


def _third(content):
    return {**{key: value for key, value in content.items() if key != "added"}, "renamed": content["added"]}


def test_an_old_record_goes_through_every_version_in_turn():
    migrated = migrate({"schema": 1, "id": "x"}, {1: _second, 2: _third}, newest=3)
    assert migrated == {"schema": 3, "id": "x", "renamed": "default"}
    assert migrate({"schema": 3}, {1: _second, 2: _third}, newest=3) == {"schema": 3}


@pytest.mark.parametrize("version", [4, 0, None, "1", 1.0, True, [1]])
def test_a_record_from_the_future_or_of_no_version_is_refused(version):
    with pytest.raises(RecordError, match="is unknown, this aimbench reads 2, 3; use the version"):
        migrate({"schema": version}, {2: _third}, newest=3)
