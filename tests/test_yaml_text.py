from pathlib import Path

import pytest
import yaml

from aimbench.yaml_text import parse_yaml

ROOT = Path(__file__).parents[1]
FILES = [
    path
    for pattern in ("datasets/*/card.yaml", "baselines/*.yaml", "methods/*/*.yaml", "plans/*.yaml")
    for path in sorted(ROOT.glob(pattern))
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_content_is_that_of_pyyamls_own_parser(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert parse_yaml(text) == yaml.safe_load(text)


def test_objects_are_refused() -> None:
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        parse_yaml("a: !!python/object/apply:os.getcwd []")
