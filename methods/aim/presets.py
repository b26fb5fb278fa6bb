"""AIM's named settings: the paper's ``AIM[stop_stage, active_area]``, and one change at a time from ``AIM[2, 25%]``.

The paper's are as its text has them, as far as it was known to us, and as README.md beside this file lists the rest:
none of what we chose on validation data is in them. The learning rate is not among a method's settings: unless one is
given, it is AIM's default, which we did choose.
"""

from typing import Any

PAPER: dict[str, dict[str, Any]] = {
    f"{stage}-{area}{suffix}": {
        "stop_stage": stage,
        "active_area": area / 100,
        "anneal": anneal,
        "area_weight": 6.0,
        "area_over": "batch",
        "anneal_fraction": 0.5,
        "noise_until": 1.0,
        "temperature": 1.0,
        "loss_on": "masked",
        "pool": "all",
        "predict_from": "finest",
        "smooth_start": "random",
        "smooth_lr_factor": 1.0,
        "mask_lr_factor": 1.0,
    }
    for stage in (1, 2, 3)
    for area in (25, 35)
    for suffix, anneal in (("", True), ("-flat", False))
}

_CHANGES: dict[str, dict[str, Any]] = {
    "fused": {"loss_on": "fused"},
    "active": {"pool": "active"},
    "coarsest": {"predict_from": "coarsest"},
    "mean": {"predict_from": "mean"},
    "image": {"area_over": "image"},
    "cold": {"temperature": 0.5},
    "hot": {"temperature": 2.0},
    "cooling": {"temperature": 2.0, "final_temperature": 0.5},
    "decided": {"noise_until": 0.5},
    "fast": {"anneal_fraction": 0.25},
    "free": {"area_weight": 0.0},
    "open": {"masks": "open"},
    "guided": {"guided": True},
    "identity": {"smooth_start": "identity", "smooth_lr_factor": 0.1},
    "eager": {"mask_lr_factor": 3.0},
}

ENERGY: dict[str, Any] = {
    "objectness": 4.0,
    "features": "backbone",
    "predict_from": "finest",
    "active_area": 0.25,
    "anneal_fraction": 0.5,
    "noise_until": 1.0,
    "mask_lr_factor": 1.0,
    # There is no such convolution; what records of then mean by saying nothing of it.
    "smooth_start": "random",
    "smooth_lr_factor": 1.0,
}
"""Masks that start where the pretrained network responds most: what ``aim_plus`` was at first."""

PRESETS: dict[str, dict[str, Any]] = {
    **PAPER,
    **{f"2-25-{name}": {**PAPER["2-25"], **change} for name, change in _CHANGES.items()},
}
