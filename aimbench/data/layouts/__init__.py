"""Builders: each turns the official files of one layout into recipes of samples."""

from aimbench.data.layouts.plan import Builder, Plan
from aimbench.errors import CardError, nearest_names

__all__ = ["Builder", "Plan", "get_layout"]


def get_layout(name: str) -> Builder:
    """Returns the builder that a card calls ``layout: name``.

    Raises:
        CardError: If there is no such builder.
    """
    from aimbench.data.layouts import csv_table, cub, huggingface, image_folder, travelingbirds, waterbirds

    layouts: dict[str, Builder] = {
        "csv": csv_table.plan,
        "cub": cub.plan,
        "huggingface": huggingface.plan,
        "image_folder": image_folder.plan,
        "travelingbirds": travelingbirds.plan_release,
        "travelingbirds-generated": travelingbirds.plan_generated,
        "waterbirds": waterbirds.plan_release,
        "waterbirds-generated": waterbirds.plan_generated,
    }
    if name not in layouts:
        raise CardError(f"unknown layout '{name}' on a dataset card; {nearest_names(name, layouts)}")
    return layouts[name]
