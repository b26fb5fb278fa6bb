import pytest
import timm
import torch

from aimbench.data.batch import Batch
from aimbench.errors import ConfigError
from aimbench.models.backbones import FeaturePyramid, create_pyramid
from aimbench.models.classifier import Classifier
from aimbench.train.registry import get_method

NETWORKS = [
    "test_convnext.r160_in1k",
    "test_resnet.r160_in1k",
    "test_efficientnet.r160_in1k",
    "test_vit.r160_in1k",
    "swin_s3_tiny_224",
]


@pytest.mark.parametrize("name", NETWORKS)
def test_pyramid_has_four_strides_and_the_networks_own_embedding(name: str) -> None:
    torch.manual_seed(0)
    pyramid = create_pyramid(name).eval()
    size = 224 if name.startswith("swin") else 160
    image = torch.randn(2, 3, size, size)
    with torch.no_grad():
        features = pyramid(image)
        network = pyramid.network
        expected = network.forward_head(network.forward_features(image), pre_logits=True)
        embedding = pyramid.embed(features)
    for feature, channels, stride in zip(features, pyramid.channels, (4, 8, 16, 32), strict=False):
        assert feature.shape[1] == channels
        assert abs(feature.shape[-1] - size / stride) < 1
    torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-5)
    mean = features[3].mean(dim=(2, 3))
    pooled = mean if pyramid.is_token_grid else embedding
    torch.testing.assert_close(pyramid.embed_mean(mean), pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["erm", "scda", "oracle_mask", "aim", "aim_plus", "energy"])
def test_a_layer_between_pooling_and_classifier_is_part_of_the_embedding(method: str) -> None:
    pyramid = create_pyramid("mobilenetv3_small_050").eval()
    assert pyramid.embed_dim == pyramid.network.head_hidden_size > pyramid.channels[-1]
    name, preset = ("aim_plus", "energy") if method == "energy" else (method, None)
    method_class = get_method(name)
    head = method_class(method_class.configure({}, preset)).build(pyramid, 3, frozen=True)
    image, mask = torch.randn(2, 3, 64, 64), torch.ones(2, 1, 64, 64)
    classifier = Classifier(pyramid, head)
    assert classifier(Batch(torch.arange(2), torch.arange(2), image=image, mask=mask)).logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "energy"),
    [
        ("test_convnext.r160_in1k", True),
        ("test_efficientnet.r160_in1k", True),
        ("test_vit.r160_in1k", False),
        ("swin_s3_tiny_224", False),
    ],
)
def test_methods_that_read_the_energy_of_s3_are_refused_where_it_is_normalised(name: str, energy: bool) -> None:
    pyramid = create_pyramid(name)
    assert pyramid.has_energy == energy
    for method, settings in (("scda", {}), ("aim_plus", {}), ("aim", {"objectness": 1.0})):
        method_class = get_method(method)
        made = method_class(method_class.configure(settings))
        if energy:
            assert made.build(pyramid, 3, frozen=True).stages
        else:
            with pytest.raises(ConfigError, match="normalises its last map"):
                made.build(pyramid, 3, frozen=True)


@pytest.mark.parametrize("name", ["mixer_s32_224", "eva02_tiny_patch14_224"])
def test_one_stride_without_a_plain_vits_tokens_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="one stride and is no plain Vision Transformer"):
        create_pyramid(name)


def test_a_network_of_one_image_size_names_it() -> None:
    create_pyramid("test_convnext.r160_in1k").check_image_size(96)
    pyramid = create_pyramid("deit_tiny_patch16_224")
    pyramid.check_image_size(224)
    with pytest.raises(ConfigError, match="takes images of 224 px, not 256: set --image-size"):
        pyramid.check_image_size(256)


def test_a_second_swin_keeps_its_channels_last_too() -> None:
    torch.manual_seed(0)
    pyramid = create_pyramid("swinv2_tiny_window8_256").eval()
    image = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        features = pyramid(image)
        torch.testing.assert_close(pyramid.embed(features), pyramid.network(image), rtol=1e-4, atol=1e-5)
    assert features[3].shape == (1, pyramid.channels[3], 8, 8)


def test_a_network_whose_embedding_is_not_that_of_its_last_map_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeaturePyramid, "embed", lambda self, features: features[3].mean(dim=(1, 2)))
    with pytest.raises(ConfigError, match="makes its embedding another way"):
        create_pyramid("test_resnet.r160_in1k")


def test_s3_of_an_efficientnet_is_what_its_classifier_pools() -> None:
    pyramid = create_pyramid("tf_efficientnet_lite0")
    assert pyramid.channels[-1] == timm.create_model("tf_efficientnet_lite0").classifier.in_features


def test_token_map_drops_the_class_token_and_keeps_the_grid() -> None:
    pyramid = create_pyramid("test_vit.r160_in1k").eval()
    image = torch.zeros(1, 3, 160, 160)
    grid = 160 // 16
    tokens = torch.zeros(1, 1 + grid * grid, 4)
    tokens[0, 0] = -1  # the class token
    tokens[0, 1 + 2 * grid + 7] = 5  # row 2, column 7
    result = pyramid.token_map(tokens, image)
    assert result.shape == (1, 4, grid, grid)
    assert result.min() == 0
    assert torch.nonzero(result[0, 0]).tolist() == [[2, 7]]


def test_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="resnet50"):
        create_pyramid("resnet5O")
