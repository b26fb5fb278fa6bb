"""Describes a built dataset in Croissant, the metadata format of MLCommons for machine-learning datasets.

Source: https://docs.mlcommons.org/croissant/docs/croissant-spec.html, version 1.0.
"""

import json
from pathlib import Path
from typing import Any

from aimbench.cards import Card
from aimbench.data.manifest import Manifest

CROISSANT_NAME = "croissant.json"

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}

_FIELDS = {
    "split": ("sc:Text", "Split or test condition."),
    "key": ("sc:Text", "Name of the sample, unique in its split; its members in the shard begin with it."),
    "label": ("sc:Integer", "Class index."),
    "group": ("sc:Integer", "Group index."),
    "place": ("sc:Integer", "Place index, -1 where there is none."),
    "has_mask": ("sc:Boolean", "Whether the sample has a ground-truth mask."),
    "shard": ("sc:Text", "File that holds the sample."),
}


def write_croissant(folder: Path, card: Card, manifest: Manifest) -> Path:
    """Writes ``croissant.json`` beside the manifest and returns its path."""
    path = folder / CROISSANT_NAME
    path.write_text(json.dumps(croissant(card, manifest), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def croissant(card: Card, manifest: Manifest) -> dict[str, Any]:
    """Returns the Croissant description: the shards, and the index as records.

    Args:
        card: Of the dataset.
        manifest: Of the build.
    """
    name = f"{manifest.name}-{manifest.variant}"
    index = {
        "@type": "cr:FileObject",
        "@id": "index",
        "name": "index",
        "description": "Where each sample lies, with label, group and place.",
        "contentUrl": manifest.index.file,
        "encodingFormat": "application/x-parquet",
        "sha256": manifest.index.sha256,
    }
    shards = [
        {
            "@type": "cr:FileObject",
            "@id": shard.file,
            "name": shard.file,
            "description": f"{shard.count} samples of {shard.split}.",
            "contentUrl": shard.file,
            "contentSize": f"{shard.bytes} B",
            "encodingFormat": "application/x-tar",
            "sha256": shard.sha256,
        }
        for shard in manifest.shards
    ]
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"samples/{column}",
            "name": column,
            "description": text,
            "dataType": kind,
            "source": {"fileObject": {"@id": "index"}, "extract": {"column": column}},
        }
        for column, (kind, text) in _FIELDS.items()
    ]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": f"{card.summary} Kind of this build: {manifest.kind}.",
        "url": card.paper.url or "https://arxiv.org/abs/2508.11502",
        "license": card.licence,
        "citeAs": card.citation,
        "version": f"1.0.0+{manifest.fingerprint[:12]}",
        "keywords": ["spurious correlations", card.task],
        "isLiveDataset": False,
        "distribution": [index, *shards],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "samples",
                "name": "samples",
                "description": f"Classes: {len(manifest.classes)}; groups: {len(manifest.groups)}.",
                "field": fields,
            }
        ],
    }
