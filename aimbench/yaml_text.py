"""YAML of cards and plans, parsed by libyaml: in Python alone the cards take half the time of ``aimbench list``."""

from typing import Any

import yaml

# A PyYAML that was built from source without libyaml lacks the first; both give the same content.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_yaml(text: str) -> Any:
    """Returns the content of one YAML document; nothing but plain data is ever made.

    Raises:
        yaml.YAMLError: it is malformed.
    """
    return yaml.load(text, Loader=_LOADER)
