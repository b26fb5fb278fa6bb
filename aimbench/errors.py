"""Errors that a user can act on.

Each message names the thing, the place and the mend. The command line prints
it on one line without a traceback and exits with status 2.
"""

import difflib
from collections.abc import Iterable


class AimbenchError(Exception):
    """Base class of every error that aimbench raises on purpose."""


class CardError(AimbenchError):
    """A dataset card is malformed or names something that does not exist."""


class DataError(AimbenchError):
    """Raw data or shards are missing, corrupt or different from what was promised."""


class ConfigError(AimbenchError):
    """A setting is unknown or out of range, or settings contradict each other."""


class RegimeError(AimbenchError):
    """A method asked for labels that its declared regime does not include."""


class RecordError(AimbenchError):
    """A result record is malformed, was edited, or cannot be stored."""


_MOST_NAMED = 60
"""Names that an error lists; CUB's classes and an ImageNet's sample keys are more."""


def nearest_names(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Returns a hint such as ``did you mean 'aim' or 'afr'?``, or the known names if none is near."""
    choices = sorted(known)
    any_case = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(name.lower(), any_case, n=limit, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f"'{any_case[c]}'" for c in close) + "?"
    more = f", ... ({len(choices)} in all)" if len(choices) > _MOST_NAMED else ""
    return "known: " + (", ".join(choices[:_MOST_NAMED]) + more if choices else "none")
