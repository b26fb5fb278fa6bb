"""A run's checkpoint and torchvision's classifiers, evaluated as they are through the command line."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from captum.attr import InputXGradient, LayerGradCam
from PIL import Image
from torch import nn

from aimbench.data.dataset import ShardDataset
from aimbench.data.decode import decode
from aimbench.data.transforms import Transform, TransformConfig
from aimbench.errors import ConfigError
from aimbench.models.classifier import Classifier, Head, Output
from aimbench.models.torchvision_networks import TorchvisionHead, TorchvisionNetwork
from aimbench.results.store import Store
from aimbench.results.validate import check_record
from aimbench.train import checkpoint
from aimbench.train.attributions import attribute
from aimbench.train.evaluate import evaluated_positions
from aimbench.train.method import Method, MethodConfig
from aimbench.train.opened import open_run
from aimbench.train.registry import get_method
from aimbench.train.subjects import ChosenOutputs

SMALL = "shufflenet_v2_x0_5"


@pytest.mark.parametrize("method", ["erm", pytest.param("aim", marks=pytest.mark.slow), "oracle_mask"])
def test_a_runs_checkpoint_gives_the_runs_predictions(
    method: str, evaluate: Any, experiment: Callable[..., Any], tmp_path: Path
) -> None:
    trial = experiment(method, training={"epochs": 1})
    expected = trial.run()
    words = ["--checkpoint", str(trial.folder / "selected.pt"), "--epg-samples", "8"]
    status, record, error = evaluate(*words, size=None)
    assert status == 0, error
    assert record["metrics"]["test"]["accuracy"] == expected.record.metrics["test"].accuracy.model_dump()
    for name, score in expected.record.metrics["test"].epg.items():
        assert record["metrics"]["test"]["epg"][name]["value"] == pytest.approx(score.value, abs=1e-5), name
    assert record["id"] != trial.id
    assert record["method"] == expected.record.method.model_dump()
    assert record["training"]["external"] == "a checkpoint of a run"
    assert record["training"]["run"] == trial.id
    store = Store(tmp_path / "results")
    assert check_record(store, store.records / "waterbirds" / f"{record['id']}.json") == []
    assert record["selector"] == trial.selector
    assert "is recorded already" in evaluate(*words, size=None)[2]
    last = evaluate("--checkpoint", str(trial.folder / "last.pt"), "--epg-samples", "0", size=None)[1]
    assert last["selector"] == "none"
    state = checkpoint.load(trial.folder / "selected.pt")
    state["model"] = {name: value + 1 for name, value in state["model"].items()}
    checkpoint.save(trial.folder / "selected.pt", state)  # as training that went on would have
    changed = evaluate(*words, size=None)[1]
    assert changed["id"] != record["id"]


def test_what_a_head_was_fitted_on_is_not_scored(evaluate: Any, experiment: Callable[..., Any]) -> None:
    trial = experiment("dfr_val", settings={"inverse_strengths": [1.0], "retrains": 1}, training={"epochs": 1})
    trial.trainer().fit()
    status, record, error = evaluate("--checkpoint", str(trial.folder / "selected.pt"), size=None)
    assert status == 0, error
    assert record is not None
    assert set(record["metrics"]) == {"test"}  # DFR's head was fitted on val


def test_looking_at_a_run_writes_nothing_into_it(experiment: Callable[..., Any], mini_root: Path) -> None:
    trial = experiment("erm", training={"epochs": 1}, workers=2)
    trial.trainer().fit()
    before = {path.name: path.read_bytes() for path in trial.folder.iterdir() if path.is_file()}
    opened, _ = open_run(trial.id, data_root=mini_root, runs_root=trial.request.runs_root)
    assert opened.id == trial.id
    assert {path.name: path.read_bytes() for path in trial.folder.iterdir() if path.is_file()} == before


def test_a_run_stays_its_own_when_its_methods_source_is_worded_anew(
    experiment: Callable[..., Any], mini_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = experiment("erm", training={"epochs": 1})
    trial.trainer().fit()
    monkeypatch.setattr(get_method("erm"), "source", "worded anew")
    opened, _ = open_run(trial.id, data_root=mini_root, runs_root=trial.request.runs_root)
    assert (opened.id, opened.folder) == (trial.id, trial.folder)
    assert experiment("erm", training={"epochs": 1}).id != trial.id
    monkeypatch.setattr(type(opened.method), "defining", lambda self: {"standardize": True})
    with pytest.raises(ConfigError, match="has other settings than it was trained with"):
        open_run(trial.id, data_root=mini_root, runs_root=trial.request.runs_root)


class RunsCode:
    def __reduce__(self) -> Any:
        return pytest.fail, ("code ran",)


def test_what_is_no_checkpoint_of_a_run_is_one_line(
    evaluate: Any, experiment: Callable[..., Any], tmp_path: Path
) -> None:
    trial = experiment("erm", training={"epochs": 1})
    trial.trainer().fit()
    file = trial.folder / "selected.pt"

    def refused(path: Path, **where: Any) -> str:
        status, _, error = evaluate("--checkpoint", str(path), **where)
        assert status == 2
        assert error.count("\n") == 1
        return str(error)

    # Of other classes: the run knows two, TravelingBirds' mini asks for ten species.
    assert "is none of the model's 2 classes" in refused(file, dataset="travelingbirds@mini")
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    shutil.copy(file, lonely)
    assert "is no run's folder: it holds no definition.json" in refused(lonely / "selected.pt")
    assert "nofile.pt does not exist" in refused(lonely / "nofile.pt")
    assert "does not exist" in refused(trial.folder / "best.pt")
    status, _, error = evaluate("--checkpoint", str(file), "--train-labels", "groups")
    assert (status, "--train-labels says nothing with a run's checkpoint" in error) == (2, True)
    state = checkpoint.load(file)
    checkpoint.save(trial.folder / "weights.pt", {"epoch": 0})
    assert "is none of this run's" in refused(trial.folder / "weights.pt")
    checkpoint.save(file, {**state, "run": "erm-000000000000"})
    assert f"is that of run erm-000000000000, not of {trial.id}; put the run's own back" in refused(file)
    (weight,) = [name for name in state["model"] if name.endswith("classifier.weight")]
    state["model"][weight] = torch.zeros(7, state["model"][weight].shape[1])
    checkpoint.save(file, state)
    assert "does not fit run" in refused(file)
    file.write_bytes(b"no checkpoint")
    assert "was not loaded" in refused(file) or "cannot be read" in refused(file)
    torch.save({"model": RunsCode()}, file)
    assert "was not loaded, because unpickling it could run code" in refused(file)


def test_epg_by_boxes_and_predictions_out_of_the_same_pass(evaluate: Any, mini_root: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(SMALL, num_classes=2)
    torch.save(network.state_dict(), tmp_path / "theirs.pt")
    (tmp_path / "classes.txt").write_text("landbird\nwaterbird\n")
    words = ["--torchvision", SMALL, "--checkpoint", str(tmp_path / "theirs.pt")]
    words += ["--classes", str(tmp_path / "classes.txt")]
    status, boxes, error = evaluate(*words, "--epg-region", "boxes")
    assert status == 0, error
    plain = evaluate(*words, "--epg-samples", "0")[1]
    folder = tmp_path / "results" / "records" / "waterbirds"
    tables = [pd.read_parquet(folder / f"{record['id']}.predictions.parquet") for record in (boxes, plain)]
    columns = ["split", "key", "label", "group", "prediction"]
    pd.testing.assert_frame_equal(tables[0][columns], tables[1][columns])
    np.testing.assert_allclose(tables[0]["probability"], tables[1]["probability"], atol=1e-5)
    assert plain["metrics"]["test"]["epg_region"] is None
    assert boxes["metrics"]["test"]["epg_region"] == "boxes"
    # The uniform reference is the boxes' share of the network's input, worked out here from the boxes alone.
    index = ShardDataset.open("waterbirds@mini", mini_root).split("test")
    shares = [box_share(index.read(i), 64) for i in range(len(index))]
    assert boxes["metrics"]["test"]["epg"]["uniform"]["value"] == pytest.approx(np.mean(shares), abs=2e-3)
    assert "did you mean 'boxes'" in evaluate(*words, "--epg-region", "box")[2]


def test_epg_of_a_split_is_that_of_captums_gradcam_image_by_image(
    evaluate: Any, mini_root: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(SMALL, num_classes=2).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    (tmp_path / "classes.txt").write_text("landbird\nwaterbird\n")
    words = ["--torchvision", SMALL, "--checkpoint", str(tmp_path / "theirs.pt"), "--epg-samples", "6"]
    status, record, error = evaluate(*words, "--classes", str(tmp_path / "classes.txt"), "--epg", "gradcam")
    assert status == 0, error
    path = tmp_path / "results" / "records" / "waterbirds" / f"{record['id']}.predictions.parquet"
    rows = pd.read_parquet(path).query("split == 'test'").reset_index()
    index = ShardDataset.open("waterbirds@mini", mini_root).split("test")
    transform = Transform(TransformConfig(64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 256 / 224))
    gradcam, values = LayerGradCam(theirs, theirs.conv5), []
    for i in np.flatnonzero(rows["epg_gradcam"].notna()):
        image, region = transform(decode(index.read(int(i)), mask_threshold=0.5), with_region=True)
        map_ = gradcam.attribute(image[None], target=int(index.label[i]), relu_attributions=True)[0, 0].detach()
        large = np.asarray(Image.fromarray(map_.numpy()).resize((64, 64), Image.Resampling.BILINEAR))  # 2 x 2 before
        values.append((large * region[0].numpy()).sum() / max(large.sum(), 1e-7))
        assert rows["epg_gradcam"][i] == pytest.approx(values[-1], abs=2e-3)
    assert len(values) == 6
    assert np.ptp(values) > 0.02
    assert record["metrics"]["test"]["epg"]["gradcam"]["value"] == pytest.approx(np.mean(values), abs=2e-3)


def box_share(item: Any, size: int) -> float:
    """Share of the centre crop of ``size`` pixels that an item's only box covers, pixel edges not rounded."""
    with Image.open(io.BytesIO(item.image)) as image:
        width, height = image.size
    resized = round(size * 256 / 224)
    scale = resized / min(width, height)
    (x0, y0, x1, y1) = item.boxes[0]
    sides = []
    for low, high, side in ((x0, x1, width), (y0, y1, height)):
        margin = (side * scale - size) / 2
        sides.append(max(0.0, min(high * scale - margin, size) - max(low * scale - margin, 0)))
    return sides[0] * sides[1] / size**2


def test_boxes_are_not_given_to_a_method_that_reads_masks(experiment: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="not defined for a method that reads masks"):
        experiment("oracle_mask", epg_region="boxes")
    assert experiment("erm", epg_region="boxes").id != experiment("erm").id


def test_epg_of_a_run_by_boxes(experiment: Callable[..., Any], mini_root: Path) -> None:
    by_mask, by_boxes = (
        experiment("erm", training={"epochs": 1}, epg_samples=None, epg_region=region).run().record.metrics["test"]
        for region in ("mask", "boxes")
    )
    assert (by_mask.epg_region, by_boxes.epg_region) == ("mask", "boxes")
    index = ShardDataset.open("waterbirds@mini", mini_root).split("test")
    shares = [box_share(index.read(i), 64) for i in range(len(index))]
    assert by_boxes.epg["uniform"].value == pytest.approx(np.mean(shares), abs=2e-3)
    assert by_mask.epg["uniform"].value < by_boxes.epg["uniform"].value


class Fixed(Head):
    def forward(self, features: list[torch.Tensor], mask: torch.Tensor | None = None) -> Output:
        logits = features[0]
        return Output(logits=logits, stage_logits={"S2": 2 * logits}, embedding=logits)


def test_outputs_are_chosen_by_position() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    output = ChosenOutputs(Fixed(), [2, 0])([logits])
    assert output.logits.tolist() == [[3.0, 1.0]]
    assert output.stage_logits["S2"].tolist() == [[6.0, 2.0]]
    assert output.embedding is logits


def test_a_torchvision_classifier_with_weights_of_ones_own(
    evaluate: Any, mini_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(SMALL, num_classes=3).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    (tmp_path / "classes.txt").write_text("waterbird\nfish\nlandbird\n")
    words = ["--torchvision", SMALL, "--checkpoint", str(tmp_path / "theirs.pt")]
    words += ["--classes", str(tmp_path / "classes.txt"), "--epg-samples", "4"]
    status, record, error = evaluate(*words)
    assert status == 0, error
    assert record["backbone"]["name"] == f"torchvision/{SMALL}"
    assert len(record["training"].pop("classifier")) == 16
    assert record["training"] == {"external": "a model as it is", "outputs": [2, 0]}
    assert record["cost"]["parameters"] == sum(p.numel() for p in theirs.parameters()) - 1024 - 1  # without the fish
    # Independent: the network as torchvision runs it, its three logits reduced to the two classes of the dataset.
    store = Store(tmp_path / "results")
    path = store.records / "waterbirds" / f"{record['id']}.json"
    assert check_record(store, path) == []
    rows = pd.read_parquet(path.with_suffix(".predictions.parquet")).query("split == 'test'").reset_index()
    index = ShardDataset.open("waterbirds@mini", mini_root).split("test")
    transform = Transform(TransformConfig(64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 256 / 224))
    for i in range(4):
        image, _ = transform(decode(index.read(i), mask_threshold=0.5), with_region=False)
        logits = theirs(image[None])[0, [2, 0]].detach()
        assert rows["prediction"][i] == int(logits.argmax())
        assert rows["probability"][i] == pytest.approx(float(logits.softmax(dim=0)[int(index.label[i])]), abs=1e-4)
    # Without a file the weights would come from the hub; a machine without it says so in one line.
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    status, _, error = evaluate("--torchvision", SMALL)
    assert status == 2
    assert "cannot be downloaded (no network); give --checkpoint FILE" in error
    status, _, error = evaluate("--torchvision", "shufflenet_v2_x05")
    assert status == 2
    assert "did you mean 'shufflenet_v2_x0_5'" in error


def offline(*_: Any, **__: Any) -> None:
    raise OSError("no network")


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [(SMALL, "conv5", 96), ("resnet18", "layer4", 96), pytest.param("swin_t", "permute", 224, marks=pytest.mark.slow)],
)
def test_attributions_of_torchvisions_networks_are_captums(name: str, layer: str, size: int) -> None:
    torch.manual_seed(0)
    pyramid = TorchvisionNetwork(name)
    head = TorchvisionHead(pyramid, 5)
    model = Classifier(pyramid, head).eval()
    image, label = torch.randn(3, 3, size, size), torch.tensor([0, 4, 2])
    maps = attribute(model, Method(MethodConfig()), image, label).maps
    # The network as torchvision builds it, with the same classifier where it was.
    plain = nn.Sequential(pyramid.network, head.classifier).eval()
    gradcam = LayerGradCam(plain, pyramid.network.get_submodule(layer))
    gradient = InputXGradient(plain)
    for i in range(len(image)):
        one, target = image[i : i + 1], int(label[i])
        expected = gradcam.attribute(one, target=target, relu_attributions=True)[0, 0].detach()
        torch.testing.assert_close(maps["gradcam"][i], expected, atol=1e-6, rtol=1e-4)
        expected = gradient.attribute(one.clone().requires_grad_(), target=target)[0].sum(dim=0).detach()
        torch.testing.assert_close(maps["input_x_gradient"][i], expected, atol=1e-6, rtol=1e-3)


@pytest.mark.slow
def test_a_vision_transformer_of_torchvisions() -> None:
    pyramid = TorchvisionNetwork("vit_b_32")
    model = Classifier(pyramid, TorchvisionHead(pyramid, 2)).eval()
    image, label = torch.randn(1, 3, 224, 224), torch.tensor([1])
    assert attribute(model, Method(MethodConfig()), image, label).maps["gradcam"].shape == (1, 7, 7)
    tokens = torch.zeros(1, 50, 4)
    tokens[0, 0], tokens[0, 1 + 2 * 7 + 5] = -1, 3  # the class token; row 2, column 5
    assert torch.nonzero(pyramid.token_map(tokens, image)[0, 0]).tolist() == [[2, 5]]
    with pytest.raises(ConfigError, match="takes images of 224 px, not 64"):
        pyramid(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ConfigError, match="take timm's Vision Transformer"):
        attribute(model, Method(MethodConfig()), image, label, names=["attention_rollout"])


@pytest.mark.parametrize("name", ["squeezenet1_0", "googlenet"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_networks_without_one_linear_classifier_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no chain that ends in one linear classifier"):
        TorchvisionNetwork(name)


def test_the_subset_that_epg_is_read_on_stays_the_same() -> None:
    # Records of years compare by it: another draw would mix subsets in one table.
    assert evaluated_positions(20, 5).tolist() == [5, 6, 9, 10, 13]
    assert evaluated_positions(4, 5).tolist() == [0, 1, 2, 3]


def test_the_group_shares_of_a_definition_are_those_of_the_training_split(experiment: Callable[..., Any]) -> None:
    trial = experiment()
    groups = trial.dataset.split("train").group
    counts = trial.definition.evaluation["train_group_counts"]
    assert counts == np.bincount(groups, minlength=4).tolist()
    assert counts != np.bincount(trial.dataset.split("val").group, minlength=4).tolist()
