import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from aimbench.errors import ConfigError
from aimbench.models.backbones import create_pyramid
from aimbench.models.weights import (
    WHEELS,
    load_weights,
    parameters_hash,
    read_state_dict,
    rename_wheel_weights,
    wheel_file,
)

HALVING_STAGES = (1, 2, 3, 5)  # of an EfficientNet-Lite: their first blocks have a stride of 2


def _same_padding_conv(x: Tensor, weight: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """TensorFlow's SAME: where padding is odd, the extra row and column come last."""
    kernel = weight.shape[-1]
    total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
    before = total // 2
    return F.conv2d(F.pad(x, (before, total - before) * 2), weight, stride=stride, groups=groups)


def _reference_logits(state: dict[str, Tensor], x: Tensor, depths: list[int]) -> Tensor:
    """An EfficientNet-Lite with ``depths`` blocks a stage, written from its definition, under the wheel's own names."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-3)

    x = F.relu6(norm(_same_padding_conv(x, state["_conv_stem.weight"], stride=2), "_bn0"))
    halving = {sum(depths[:stage]) for stage in HALVING_STAGES}
    for number in range(sum(depths)):
        block = f"_blocks.{number}"
        inner = x
        if f"{block}._expand_conv.weight" in state:
            inner = F.relu6(norm(F.conv2d(inner, state[f"{block}._expand_conv.weight"]), f"{block}._bn0"))
        depthwise = state[f"{block}._depthwise_conv.weight"]
        stride = 2 if number in halving else 1
        inner = _same_padding_conv(inner, depthwise, stride=stride, groups=len(depthwise))
        inner = F.relu6(norm(inner, f"{block}._bn1"))
        inner = norm(F.conv2d(inner, state[f"{block}._project_conv.weight"]), f"{block}._bn2")
        x = x + inner if inner.shape == x.shape else inner
    x = F.relu6(norm(F.conv2d(x, state["_conv_head.weight"]), "_bn1"))
    return F.linear(x.mean(dim=(2, 3)), state["_fc.weight"], state["_fc.bias"])


@pytest.mark.parametrize("name", WHEELS)
def test_wheel_weights_give_the_outputs_of_the_wheels_own_network(name: str) -> None:
    state = read_state_dict(wheel_file(WHEELS[name]))
    network = timm.create_model(name).eval()
    network.load_state_dict(rename_wheel_weights(state, network))
    depths = [len(stage) for stage in network.blocks]
    image = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network(image), _reference_logits(state, image, depths), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", WHEELS)
def test_auto_takes_the_wheel_and_says_so(name: str) -> None:
    pyramid = create_pyramid(name)
    before = parameters_hash(pyramid.network)
    info = load_weights(pyramid, "auto")
    assert info.weights == f"wheel:{WHEELS[name]}"
    assert info.weights_hash == parameters_hash(pyramid.network) != before


def test_weights_from_a_file(tmp_path: Path) -> None:
    source, target = (create_pyramid("test_convnext.r160_in1k") for _ in range(2))
    assert parameters_hash(source.network) != parameters_hash(target.network)
    torch.save({"state_dict": source.network.state_dict()}, tmp_path / "w.pt")
    assert load_weights(target, str(tmp_path / "w.pt")).weights == "file:w.pt"
    assert parameters_hash(source.network) == parameters_hash(target.network)


@pytest.mark.parametrize("form", ["safetensors", "module prefix", "model_state_dict"])
def test_forms_of_weight_files(form: str, tmp_path: Path) -> None:
    source, target = (create_pyramid("test_convnext.r160_in1k") for _ in range(2))
    state = source.network.state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "module prefix":
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    else:
        torch.save({"epoch": 3, "model_state_dict": state}, path)
    load_weights(target, str(path))
    assert parameters_hash(source.network) == parameters_hash(target.network)


def test_a_classifier_of_other_classes_in_the_file_is_left_out(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_convnext.r160_in1k", num_classes=11).state_dict(), tmp_path / "w.pt")
    assert load_weights(create_pyramid("test_convnext.r160_in1k"), str(tmp_path / "w.pt")).weights == "file:w.pt"


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(ConfigError, match=r"list\.pt is no state dict"):
        read_state_dict(tmp_path / "list.pt")
    with pytest.raises(ConfigError, match=r"junk\.safetensors") as caught:
        read_state_dict(tmp_path / "junk.safetensors")
    assert "\n" not in str(caught.value)


def test_unchanged_hash_needs_unchanged_bytes() -> None:
    network = create_pyramid("test_convnext.r160_in1k").network
    before = parameters_hash(network)
    assert parameters_hash(network) == before
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] += 1e-3
    assert parameters_hash(network) != before


class _Explosive:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('this file ran code')",))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(_Explosive()))
    with pytest.raises(ConfigError, match=r"evil\.pt"):
        read_state_dict(path)
    torch.save({"state_dict": _Explosive()}, path)
    with pytest.raises(ConfigError, match="could run code"):
        read_state_dict(path)


def test_bad_weight_files_are_named(tmp_path: Path) -> None:
    pyramid = create_pyramid("test_convnext.r160_in1k")
    with pytest.raises(ConfigError, match="does not exist"):
        load_weights(pyramid, str(tmp_path / "none.pt"))
    torch.save(pyramid.network.state_dict(), tmp_path / "whole.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"half\.pt cannot be read"):
        load_weights(pyramid, str(tmp_path / "half.pt"))
    (tmp_path / "empty.pt").touch()
    with pytest.raises(ConfigError, match=r"empty\.pt cannot be read \(it ends too early\)"):
        load_weights(pyramid, str(tmp_path / "empty.pt"))
    with pytest.raises(ConfigError, match="do not fit the backbone"):
        load_weights(create_pyramid("test_resnet.r160_in1k"), str(tmp_path / "whole.pt"))


def test_offline_auto_names_the_backbone_that_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    pyramid = create_pyramid("test_convnext.r160_in1k")

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ConfigError, match="tf_efficientnet_lite0"):
        load_weights(pyramid, "auto")


def test_a_file_that_is_no_pickle_at_all_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"
    path.write_bytes(b"0.this is a page")
    with pytest.raises(ConfigError, match=r"bad\.pt"):
        read_state_dict(path)
