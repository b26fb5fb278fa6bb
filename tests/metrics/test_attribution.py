from types import SimpleNamespace

import pytest
import torch
from captum.attr import InputXGradient, LayerGradCam
from torch import nn

from aimbench.errors import ConfigError
from aimbench.metrics.attribution import single_pass_attributions


class SmallCnn(nn.Module):
    """Two stages and a linear head, with batch norm, counting its forward passes."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.GELU())
        self.coarse = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.Tanh())
        self.hidden = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)
        self.passes = 0

    def features(self, image):
        self.passes += 1
        fine = self.fine(image)
        return [fine, self.coarse(fine)]

    def predict(self, features):
        return SimpleNamespace(logits=self.head(self.hidden(features[-1]).relu().mean(dim=(2, 3))))

    def forward(self, image):
        return self.predict(self.features(image)).logits


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = SmallCnn()
    model(torch.randn(16, 3, 20, 28))  # batch norm statistics that are not the identity
    model.passes = 0
    return model.eval()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(6, 3, 20, 28), torch.tensor([0, 1, 2, 3, 4, 0])


def test_agrees_with_captum_image_by_image(model, batch):
    image, target = batch
    maps, output = single_pass_attributions(model, image, target)
    gradcam, gradient = LayerGradCam(model, model.coarse), InputXGradient(model)
    assert maps["gradcam"].shape == (6, 5, 7)
    assert maps["input_x_gradient"].shape == (6, 20, 28)
    assert maps["gradcam"].max() > 0
    for i in range(len(image)):
        one, label = image[i : i + 1], int(target[i])
        expected = gradcam.attribute(one, target=label, relu_attributions=True)
        torch.testing.assert_close(maps["gradcam"][i], expected[0, 0].detach(), atol=1e-5, rtol=1e-5)
        expected = gradient.attribute(one.clone().requires_grad_(), target=label).sum(dim=1)
        torch.testing.assert_close(maps["input_x_gradient"][i], expected[0].detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.logits, model(image))


def test_gradcam_plus_plus_by_the_papers_formula(model, batch):
    # Chattopadhyay et al. 2018, equations 10 and 19, for a map behind a ReLU: loops over image, channel and place.
    model.coarse[1] = nn.ReLU()
    image, target = batch
    maps, _ = single_pass_attributions(model, image, target)
    for i in range(len(image)):
        activation = model.features(image[i : i + 1])[-1].detach().requires_grad_()
        score = model.predict([activation]).logits[0, target[i]]
        (gradient,) = torch.autograd.grad(score, activation)
        expected = torch.zeros(5, 7)
        for channel, g in zip(activation[0].detach().double(), gradient[0].double(), strict=True):
            weight = 0.0
            for row in range(5):
                for column in range(7):
                    slope = float(g[row, column])
                    if slope > 0:
                        alpha = slope**2 / (2 * slope**2 + float(channel.sum()) * slope**3)
                        weight += alpha * slope
            expected += weight * channel
        torch.testing.assert_close(maps["gradcam_plus_plus"][i], expected.relu().float(), atol=1e-6, rtol=1e-4)


def test_one_forward_and_one_backward_pass_a_batch(model, batch):
    backward = []
    model.fine.register_full_backward_hook(lambda *_: backward.append(1))
    single_pass_attributions(model, *batch)
    assert (model.passes, len(backward)) == (1, 1)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_frozen_and_without_gradients_around(model, batch, context):
    expected, _ = single_pass_attributions(model, *batch)
    model.requires_grad_(False)
    with context():
        # Made inside the context, as a loop under it would: inference tensors can't join a graph.
        maps, _ = single_pass_attributions(model, batch[0] * 1.0, batch[1] * 1)
    for name in expected:
        torch.testing.assert_close(maps[name], expected[name])


def test_leaves_no_trace(model, batch):
    image = batch[0].requires_grad_()
    maps, _ = single_pass_attributions(model, image, batch[1])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert image.grad is None
    assert not any(values.requires_grad for values in maps.values())


def test_bfloat16_autocast_gives_single_precision_maps(model, batch):
    expected, _ = single_pass_attributions(model, *batch)
    with torch.autocast("cpu", torch.bfloat16):
        maps, _ = single_pass_attributions(model, *batch)
    for name in expected:
        assert maps[name].dtype == torch.float32
        assert torch.corrcoef(torch.stack([maps[name].flatten(), expected[name].flatten()]))[0, 1] > 0.99


def test_refuses_training_mode(model, batch):
    with pytest.raises(ConfigError, match=r"call model\.eval"):
        single_pass_attributions(model.train(), *batch)


def test_refuses_features_without_gradient(model, batch):
    cached = [map_.detach() for map_ in model.features(batch[0])]
    model.features = lambda image: cached
    with pytest.raises(ConfigError, match="carries no gradient"):
        single_pass_attributions(model, *batch)


def test_refuses_logits_that_skip_the_last_map(model, batch):
    predict = model.predict
    model.features = lambda image: [model.coarse(model.fine(image)), 2 * model.fine(image)]
    model.predict = lambda features: predict(features[:1])
    with pytest.raises(ConfigError, match="do not depend on the last feature map"):
        single_pass_attributions(model, *batch)


class SmallTransformer(SmallCnn):
    """The same network with its last map as tokens behind a class token that classifies."""

    def features(self, image):
        fine, coarse = super().features(image)
        tokens = coarse.flatten(2).transpose(1, 2)
        return [fine, coarse, torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)]

    def predict(self, features):
        tokens = features[-1]
        attention = (tokens[:, :1] @ tokens.transpose(1, 2)).softmax(dim=-1)
        return SimpleNamespace(logits=self.head((attention @ tokens)[:, 0]))


def test_tokens_become_maps(batch):
    torch.manual_seed(0)
    model, (image, target) = SmallTransformer().eval(), batch

    def token_map(tokens, image):
        return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, 5, 7)

    maps, _ = single_pass_attributions(model, image, target, token_map=token_map)
    # By hand for one sample: the gradient of its logit at the tokens, class token dropped.
    tokens = model.features(image[2:3])[-1].detach().requires_grad_()
    model.predict([tokens]).logits[0, target[2]].backward()
    weight = tokens.grad[0, 1:].mean(dim=0)
    expected = (tokens[0, 1:] @ weight).relu().reshape(5, 7)
    torch.testing.assert_close(maps["gradcam"][2], expected.detach(), atol=1e-6, rtol=1e-5)
    with pytest.raises(ConfigError, match="give token_map"):
        single_pass_attributions(model, image, target)
