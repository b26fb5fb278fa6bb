import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam, Saliency
from torch import nn

from aimbench.errors import ConfigError
from aimbench.models.backbones import create_pyramid
from aimbench.models.classifier import Classifier, LinearHead
from aimbench.train.attributions import attribute, check_attributions
from aimbench.train.method import Method, MethodConfig

EVERY = ("gradcam", "gradcam_plus_plus", "input_x_gradient", "integrated_gradients", "smoothgrad")


def classifier(name):
    torch.manual_seed(0)
    pyramid = create_pyramid(name)
    return Classifier(pyramid, LinearHead(pyramid, 3)).eval()


@pytest.mark.parametrize(
    ("backbone", "names"), [("test_convnext.r160_in1k", EVERY), ("test_vit.r160_in1k", (*EVERY, "attention_rollout"))]
)
def test_every_attribution_of_a_cnn_and_of_a_vit(backbone, names):
    model = classifier(backbone)
    image, label = torch.randn(2, 3, 160, 160), torch.tensor([0, 2])
    maps = attribute(model, Method(MethodConfig()), image, label, names=names).maps
    assert set(maps) == set(names)
    for name, map_ in maps.items():
        assert map_.shape[0] == 2, name
        assert map_.isfinite().all(), name
        assert map_.max() > 0, name


class ThroughMap(nn.Module):
    """A classifier from images to logits whose last map passes a module of its own, for captum to look at."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.last_map = nn.Identity()

    def forward(self, image):
        *others, last = self.model.features(image)
        if last.dim() == 4:
            last = self.last_map(last)
        else:  # a class token, then the patches row by row
            n, side = len(last), round((last.shape[1] - 1) ** 0.5)
            patches = self.last_map(last[:, 1:].transpose(1, 2).reshape(n, -1, side, side))
            last = torch.cat([last[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)
        return self.model.predict([*others, last]).logits


@pytest.mark.parametrize(
    ("backbone", "size"), [("test_efficientnet.r160_in1k", (96, 160)), ("test_vit.r160_in1k", (160, 160))]
)
def test_a_batch_agrees_with_captum_image_by_image(backbone, size):
    model = classifier(backbone)
    image, label = torch.randn(2, 3, *size), torch.tensor([0, 2])
    maps = attribute(model, Method(MethodConfig()), image, label, names=EVERY).maps
    theirs = ThroughMap(model)
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(3, *size, generator=generator) for _ in range(16)]
    for i in range(2):
        one, target = image[i : i + 1], int(label[i])
        noisy = [one + 0.15 * (one.max() - one.min()) * n for n in noise]
        gradients = [Saliency(theirs).attribute(x.requires_grad_(), target=target, abs=False) for x in noisy]
        expected = {
            "gradcam": LayerGradCam(theirs, theirs.last_map).attribute(one, target=target, relu_attributions=True),
            "input_x_gradient": InputXGradient(theirs).attribute(one.clone().requires_grad_(), target=target),
            "integrated_gradients": IntegratedGradients(theirs).attribute(one, target=target, n_steps=32),
            "smoothgrad": torch.stack(gradients).mean(dim=0).abs(),
        }
        for name, values in expected.items():
            found, wanted = maps[name][i], values.detach()[0].sum(dim=0).float()
            assert (found - wanted).abs().max() < 1e-3 * wanted.abs().max(), name


def test_the_captured_attention_is_what_the_network_uses():
    pyramid = create_pyramid("test_vit.r160_in1k").eval()
    image = torch.randn(2, 3, 160, 160)
    before = pyramid(image)
    attentions = pyramid.attention(image)
    block = pyramid.network.blocks[0]
    tokens = block.norm1(pyramid.network.norm_pre(pyramid.network._pos_embed(pyramid.network.patch_embed(image))))
    n, t, _ = tokens.shape
    q, k, _ = block.attn.qkv(tokens).reshape(n, t, 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    expected = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(dim=-1)
    torch.testing.assert_close(attentions[0], expected, atol=1e-5, rtol=1e-4)
    assert len(attentions) == len(pyramid.network.blocks)
    for one, other in zip(before, pyramid(image), strict=True):  # hooks and kernels are as before
        torch.testing.assert_close(one, other)


def test_a_rollout_lies_over_the_image_as_its_patches_do():
    model = classifier("test_vit.r160_in1k")
    image, label = torch.randn(1, 3, 160, 160), torch.tensor([1])
    (found,) = attribute(model, Method(MethodConfig()), image, label, names=["attention_rollout"]).maps[
        "attention_rollout"
    ]
    # Patch by patch, as Abnar and Zuidema write it: products of the blocks' mean attention plus identity, halved.
    attentions = [heads[0].mean(dim=0).double() for heads in model.pyramid.attention(image)]
    tokens = len(attentions[0])
    share = torch.eye(tokens, dtype=torch.float64)[0]  # the class token, followed from the last block to the first
    for attention in reversed(attentions):
        share = (share @ attention + share) / 2
    assert tokens == 1 + 10 * 10
    for row in range(10):
        for column in range(10):
            assert found[row, column].item() == pytest.approx(share[1 + 10 * row + column].item(), rel=1e-4)


def test_a_cnn_has_no_rollout():
    model = classifier("test_convnext.r160_in1k")
    with pytest.raises(ConfigError, match=r"test_convnext\.r160_in1k' has no attention over a token grid"):
        attribute(
            model, Method(MethodConfig()), torch.zeros(1, 3, 64, 64), torch.tensor([0]), names=["attention_rollout"]
        )


def test_names_are_checked_and_ordered():
    assert check_attributions(["smoothgrad", "gradcam", "gradcam"]) == ("gradcam", "smoothgrad")
    with pytest.raises(ConfigError, match="did you mean 'gradcam'"):
        check_attributions(["gradcamm"])
