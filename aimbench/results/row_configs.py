"""A table's Config column: what parts the rows of one method."""

from collections.abc import Sequence

from aimbench.record import with_later
from aimbench.results.describe import differing, flattened, pick
from aimbench.results.digest import Digest
from aimbench.train.registry import later_settings


def row_configs(members: Sequence[Sequence[Digest]]) -> list[str]:
    """Returns the configuration of each row in words.

    A method's row with the most runs says all that differs between the rows of the method; the others say what they
    change against it. `aimbench.results.notes` tells the reader. What a definition leaves out, because the method's
    card calls it ``later``, counts with the value that the run had.
    """
    rows_of: dict[str, list[int]] = {}
    for number, group in enumerate(members):
        rows_of.setdefault(group[0].method, []).append(number)
    later = {method: later_settings(method) for method in rows_of}  # once a method: each reads a card
    configs = [with_later(group[0].config, later[group[0].method]) for group in members]
    usual = {method: configs[max(rows, key=lambda row: len(members[row]))] for method, rows in rows_of.items()}
    shown = {method: differing([configs[row] for row in rows]) for method, rows in rows_of.items()}
    texts = []
    for group, config in zip(members, configs, strict=True):
        method = group[0].method
        told = differing([config, usual[method]]) or shown[method]
        absent = [f"no {key}" for key in sorted(told - flattened(config).keys())]
        texts.append(", ".join(filter(None, [pick(config, told), *absent])))
    return texts
