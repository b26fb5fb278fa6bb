"""What the numbers of ``aimbench probe`` are, in words."""

from aimbench.record import Probe

_WORDS = {
    "accuracy": "untouched",
    "accuracy_grey_outside": "all but the object grey",
    "accuracy_grey_object": "the object grey, along its mask",
    "accuracy_grey_box": "the object's box grey",
    "accuracy_tile_box": "the object's box tiled over with background",
    "accuracy_noise_on_object": "noise on the object",
    "accuracy_noise_on_background": "noise on the background",
    "accuracy_moved_to_border": "the object moved to the border farthest from it",
    "accuracy_cut_as_if_moved": "control: cut as for the move, nothing moved",
    "accuracy_grey_outside_own_mask": "grey outside the method's own mask",
    "rfs": "relative foreground sensitivity: 1 reads the object alone, -1 the background alone",
}
_PREFIXES = {
    "deletion_": "area while what {} marks is taken away, most first; lower is better",
    "insertion_": "area while it is put back, most first, by {}; higher is better",
}


def probe_figures(name: str, probe: Probe) -> str:
    """A probe's value with its interval: in per cent, but for RFS, which goes from -1 to 1."""
    if name == "rfs":
        return f"{probe.value:.3f} [{probe.low:.3f}, {probe.high:.3f}]"
    return f"{100 * probe.value:.1f} [{100 * probe.low:.1f}, {100 * probe.high:.1f}]"


def probe_words(name: str) -> str:
    """What a probe's number is; empty for one that is not known, such as that of a later version."""
    for prefix, words in _PREFIXES.items():
        if name.startswith(prefix):
            return words.format(name.removeprefix(prefix))
    return _WORDS.get(name, "")
