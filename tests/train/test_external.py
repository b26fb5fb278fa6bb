"""Models as they are, and predictions and attributions made elsewhere, through the command line."""

import io
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

from aimbench.cli import app
from aimbench.data.dataset import ShardDataset
from aimbench.data.decode import decode
from aimbench.results.store import Store
from aimbench.results.validate import check_record

TINY = "test_convnext"


@pytest.fixture
def split(mini_root: Path) -> Any:
    return ShardDataset.open("waterbirds@mini", mini_root).split("test")


def checkpoint(path: Path, outputs: int) -> Any:
    torch.manual_seed(0)
    network = timm.create_model(TINY, num_classes=outputs)
    torch.save(network.state_dict(), path)
    return network.eval()


def test_a_checkpoint_of_somebody_elses(evaluate: Any, mini_root: Path, tmp_path: Path) -> None:
    network = checkpoint(tmp_path / "theirs.pt", 3)
    (tmp_path / "classes.txt").write_text("waterbird\nfish\nlandbird\n")
    words = ["--timm", TINY, "--checkpoint", str(tmp_path / "theirs.pt"), "--classes", str(tmp_path / "classes.txt")]
    status, record, error = evaluate(*words, "--epg-samples", "4", "--name", "their net", "--epg", "gradcam_plus_plus")
    assert status == 0, error
    assert record is not None
    assert record["method"]["name"] == "their_net"
    assert len(record["training"].pop("classifier")) == 16
    assert record["training"] == {"external": "a model as it is", "outputs": [2, 0]}
    assert set(record["metrics"]["test"]["epg"]) == {"gradcam_plus_plus", "uniform", "centre_gaussian"}
    store = Store(tmp_path / "results")
    path = store.records / "waterbirds" / f"{record['id']}.json"
    assert check_record(store, path) == []
    # Independent: the network as timm runs it, its three logits reduced to the two classes of the dataset.
    table = pd.read_parquet(path.with_suffix(".predictions.parquet"))
    from aimbench.data.transforms import Transform, TransformConfig

    dataset = ShardDataset.open("waterbirds@mini", mini_root)
    index = dataset.split("test")
    config = network.pretrained_cfg
    transform = Transform(TransformConfig(64, config["mean"], config["std"], 256 / 224))
    assert dataset.manifest.classes == ["landbird", "waterbird"]
    rows = table[table["split"] == "test"].reset_index()
    for i in range(4):
        image, _ = transform(decode(index.read(i), mask_threshold=0.5), with_region=False)
        logits = network(image[None])[0, [2, 0]].detach()
        assert rows["prediction"][i] == int(logits.argmax())
        expected = float(logits.softmax(dim=0)[int(index.label[i])])
        assert rows["probability"][i] == pytest.approx(expected, abs=1e-4)


class RunsCode:
    def __reduce__(self) -> Any:
        return print, ("code ran",)


def test_bad_checkpoints_are_one_line(evaluate: Any, mini_root: Path, tmp_path: Path) -> None:
    file, classes = tmp_path / "net.pt", tmp_path / "classes.txt"
    words = ["--timm", TINY, "--checkpoint", str(file)]
    assert "does not exist" in evaluate(*words)[2]
    file.write_bytes(pickle.dumps({"w": RunsCode()}))
    status, _, error = evaluate(*words)
    assert status == 2
    assert "unpickling it could run code" in error or "cannot be read" in error
    torch.save({"w": RunsCode()}, file)
    status, _, error = evaluate(*words)
    assert (status, "unpickling it could run code" in error) == (2, True)
    checkpoint(file, 3)
    assert "3 outputs, so its classes are not ImageNet's" in evaluate(*words)[2]
    classes.write_text("landbird\nfish\nfrog\n")
    assert (
        "class 'waterbird' of the dataset is none of the model's 3 classes"
        in evaluate(*words, "--classes", str(classes))[2]
    )
    classes.write_text("landbird\nwaterbird\n")
    state = timm.create_model(TINY, num_classes=2).state_dict()
    state["head.fc.bias"][1] = float("nan")
    torch.save(state, file)
    dataset = ShardDataset.open("waterbirds@mini", mini_root)
    keys = [key for name in dataset.splits for key in dataset.split(name).keys]
    for more in ([], ["--epg-samples", "0"]):  # with EPG, and by the pass that predicts alone
        status, _, error = evaluate(*words, "--classes", str(classes), *more)
        assert (status, "are NaN or infinite: its weights are damaged" in error) == (2, True)
        assert any(f"logits of sample '{key}'" in error for key in keys)
    torch.save(timm.create_model(TINY, num_classes=0).state_dict(), file)
    assert "hold no classifier" in evaluate(*words)[2]
    torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), file)
    assert "do not fit the backbone" in evaluate(*words)[2]
    assert "give one of --checkpoint FILE (of a run)" in evaluate()[2]
    assert "give one of" in evaluate("--timm", TINY, "--torchvision", "resnet18")[2]


def predictions(split: Any, path: Path, change: Any = None) -> Path:
    """All predictions right but the first; rows in reverse order."""
    table = pd.DataFrame({"key": split.keys, "prediction": split.label})
    table.loc[0, "prediction"] = 1 - table.loc[0, "prediction"]
    table = table.iloc[::-1].reset_index(drop=True)
    (change(table) if change else table).to_csv(path, index=False)
    return path


def test_predictions_and_attributions_made_elsewhere(evaluate: Any, split: Any, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    for key in split.keys:
        np.save(maps / f"{key}.npy", np.ones((3, 5)))  # a uniform map, whose EPG is the foreground's share
    file = predictions(split, tmp_path / "theirs.csv")
    status, record, error = evaluate("--predictions", str(file), "--attributions", str(maps), "--backbone", "resnet50")
    assert status == 0, error
    assert record is not None
    test = record["metrics"]["test"]
    assert test["accuracy"]["value"] == pytest.approx((len(split) - 1) / len(split))
    assert test["epg"]["external"]["value"] == pytest.approx(test["epg"]["uniform"]["value"], abs=1e-6)
    assert record["training"]["external"] == "predictions made elsewhere"
    store = Store(tmp_path / "results")
    assert check_record(store, store.records / "waterbirds" / f"{record['id']}.json") == []


def object_map(item: Any, size: int) -> Any:
    """A sample's mask over the network's input, framed by Pillow: shorter side resized, centre cut out."""
    with Image.open(io.BytesIO(item.mask)) as mask:
        resized = round(size * 256 / 224)
        scale = resized / min(mask.size)
        small = mask.convert("L").resize([round(side * scale) for side in mask.size], Image.Resampling.NEAREST)
    left, top = ((side - size) // 2 for side in small.size)
    return np.asarray(small.crop((left, top, left + size, top + size)), dtype=float)


def test_maps_of_the_object_score_1_unless_they_are_transposed(evaluate: Any, split: Any, tmp_path: Path) -> None:
    file, values = predictions(split, tmp_path / "p.csv"), {}
    for name in ("straight", "transposed"):
        (tmp_path / name).mkdir()
        for i, key in enumerate(split.keys):
            map_ = object_map(split.read(i), 64)
            np.save(tmp_path / name / f"{key}.npy", map_ if name == "straight" else map_.T)
        for region in ("mask", "boxes"):
            words = ["--predictions", str(file), "--attributions", str(tmp_path / name), "--epg-region", region]
            status, record, error = evaluate(*words)
            assert status == 0, error
            test = record["metrics"]["test"]
            assert test["epg_region"] == region
            values[name, region] = test["epg"]["external"]["value"], test["epg"]["uniform"]["value"]
    assert values["straight", "mask"][0] > 0.9  # but for pixels of the edge, which Pillow and torch round apart
    assert values["straight", "boxes"][0] > 0.99  # a box holds the mask
    assert values["transposed", "mask"][0] < 0.5
    assert values["straight", "boxes"][1] > 2 * values["straight", "mask"][1]


def test_samples_with_an_empty_mask_are_left_out_of_epg(
    evaluate: Any, split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare, maps = split.keys[:3], tmp_path / "maps"

    def emptied(item: Any, **options: Any) -> Any:
        photograph = decode(item, **options)
        return replace(photograph, mask=0 * photograph.mask) if item.key in bare else photograph

    monkeypatch.setattr("aimbench.data.loader.decode", emptied)
    maps.mkdir()
    for i, key in enumerate(split.keys):  # no energy in the last two
        np.save(maps / f"{key}.npy", np.full((2, 2), 1.0 if i < len(split) - 2 else -1.0))
    words = ["--predictions", str(predictions(split, tmp_path / "p.csv")), "--attributions", str(maps)]
    status, record, error = evaluate(*words)
    assert status == 0, error
    assert record is not None
    epg = record["metrics"]["test"]["epg"]
    assert (epg["external"]["n"], epg["external"]["undefined"]) == (len(split) - 3, 2)
    assert epg["uniform"]["n"] == len(split) - 3
    store = Store(tmp_path / "results")
    path = store.records / "waterbirds" / f"{record['id']}.json"
    assert check_record(store, path) == []
    column = pd.read_parquet(path.with_suffix(".predictions.parquet"))["epg_external"]
    assert column.isna().tolist() == [True] * 3 + [False] * (len(split) - 3)
    assert column.tolist()[-2:] == [0.0, 0.0]


def test_attributions_without_any_ground_truth_are_refused(
    evaluate: Any, split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def emptied(item: Any, **options: Any) -> Any:
        photograph = decode(item, **options)
        return replace(photograph, mask=0 * photograph.mask)

    monkeypatch.setattr("aimbench.data.loader.decode", emptied)
    for key in split.keys:
        np.save(tmp_path / f"{key}.npy", np.ones((2, 2)))
    words = ["--predictions", str(predictions(split, tmp_path / "p.csv")), "--attributions", str(tmp_path)]
    status, record, error = evaluate(*words)
    assert (status, record) == (2, None)
    assert "no test sample of waterbirds has mask to score them by; leave --attributions out" in error


def test_options_that_would_change_nothing_are_refused(evaluate: Any, split: Any, tmp_path: Path) -> None:
    file = str(predictions(split, tmp_path / "p.csv"))
    for option in ("--checkpoint", "--classes", "--epg", "--epg-samples"):
        assert f"{option} says nothing with --predictions" in evaluate("--predictions", file, option, "7")[2]
    for option in ("--attributions", "--backbone"):
        assert f"{option} says nothing without --predictions" in evaluate("--timm", TINY, option, "x")[2]
    assert "--classes says nothing with a run's checkpoint" in evaluate("--checkpoint", "x.pt", "--classes", "x")[2]
    maps = ["--attributions", str(tmp_path)]
    assert "did you mean 'boxes'" in evaluate("--predictions", file, *maps, "--epg-region", "box")[2]
    assert (
        "--epg-region says nothing with --predictions alone"
        in evaluate("--predictions", file, "--epg-region", "boxes")[2]
    )


def test_names_and_logits(evaluate: Any, split: Any, tmp_path: Path) -> None:
    def change(table: Any) -> Any:
        table["logits"] = ["2.0 0.0" if p == 0 else "0.0 2.0" for p in table["prediction"]]
        table["prediction"] = [("landbird", "waterbird")[p] for p in table["prediction"]]
        return table

    status, record, error = evaluate("--predictions", str(predictions(split, tmp_path / "p.csv", change)))
    assert status == 0, error
    assert record is not None
    table = pd.read_parquet(tmp_path / "results" / "records" / "waterbirds" / f"{record['id']}.predictions.parquet")
    right = 1 / (1 + np.exp(-2))  # softmax of (2, 0)
    assert table["probability"].tolist() == pytest.approx([1 - right] + [right] * (len(split) - 1))


def test_two_of_them_are_compared_and_their_differences_drawn(
    evaluate: Any, split: Any, mini_root: Path, tmp_path: Path
) -> None:
    def wrong(table: Any) -> Any:
        return table.assign(prediction=[1 - p if i < 3 else p for i, p in enumerate(table["prediction"])])

    ids = []
    for change in (None, wrong):
        status, record, error = evaluate("--predictions", str(predictions(split, tmp_path / "p.csv", change)))
        assert status == 0, error
        ids.append(record["id"])
    roots = ["--results", str(tmp_path / "results"), "--data", str(mini_root)]
    picture = tmp_path / "differ.png"
    done = CliRunner().invoke(app, ["results", "compare", *ids, *roots, "--draw", str(picture), "--max-samples", "2"])
    assert done.exit_code == 0, done.output
    assert "first alone right on 3 samples, second on 0" in done.output
    assert "and 1 more" in done.output
    assert f"{picture}: 2 of 3 samples that differ; --max-samples sets how many" in done.output
    with Image.open(picture) as drawn:
        assert drawn.width > 100
    done = CliRunner().invoke(app, ["results", "reselect", ids[0], *roots[:2]])
    assert "which have no epochs to choose from" in str(done.exception)


def edit(row: int, column: str, value: Any) -> Any:
    def change(table: Any) -> Any:
        table[column] = table[column].astype(object) if column in table else "1 0"
        table.loc[row, column] = value
        return table

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.iloc[1:], "miss 1 of"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "repeat sample"),
        (edit(0, "key", "nobody"), "hold 'nobody', which is no sample of 'test'"),
        (edit(0, "prediction", "²"), "'²' is no class"),
        (edit(0, "prediction", "7"), "'7' is no class; give a name or an index 0 to 1"),
        (edit(0, "logits", "1 x"), "logits are no numbers"),
        (edit(0, "logits", "1 2 3"), "3 logits; give 2 finite ones"),
        (edit(0, "logits", "nan 1"), "give 2 finite ones"),
        (
            lambda t: t.assign(logits=["0 1" if p == 0 else "1 0" for p in t["prediction"]]),
            "the largest logit is of class",
        ),
        (lambda t: t.rename(columns={"prediction": "guess"}), "no column 'prediction'"),
    ],
)
def test_bad_predictions_are_one_line(evaluate: Any, split: Any, tmp_path: Path, change: Any, message: str) -> None:
    status, _, error = evaluate("--predictions", str(predictions(split, tmp_path / "p.csv", change)))
    assert status == 2
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (None, "have no "),
        (np.full((2, 2), np.nan), "holds NaN or infinity"),
        (np.full((2, 2), 1e39), "holds NaN or infinity"),
        (np.ones((65, 4)), "is 4x65, the network's input 64x64"),
        (np.ones((1, 2, 2)), "give (height, width) numbers"),
        (np.array([{"a": 1}], dtype=object), "cannot be read"),
    ],
)
def test_bad_attributions_are_one_line(evaluate: Any, split: Any, tmp_path: Path, array: Any, message: str) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    if array is not None:
        np.save(maps / f"{split.keys[0]}.npy", array)
    status, _, error = evaluate(
        "--predictions", str(predictions(split, tmp_path / "p.csv")), "--attributions", str(maps)
    )
    assert status == 2
    assert message in error
    assert error.count("\n") == 1
