import pytest
import torch
from captum.attr import IntegratedGradients, Saliency
from torch import nn

from aimbench.errors import ConfigError
from aimbench.metrics.averaged_gradients import integrated_gradients, smoothgrad


class SmallCnn(nn.Module):
    """Smooth, so that the path integral converges quickly."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.GELU(), nn.Conv2d(6, 6, 3), nn.Softplus())
        self.head = nn.Linear(6, 4)

    def features(self, image):
        return [self.body(image)]

    def predict(self, features):
        self.logits = self.head(features[-1].mean(dim=(2, 3)))
        return self

    def forward(self, image):
        return self.predict(self.features(image)).logits


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SmallCnn().eval()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(5, 3, 11, 17), torch.tensor([0, 1, 2, 3, 0])


def test_integrated_gradients_agree_with_captum_image_by_image(model, batch):
    image, target = batch
    maps = integrated_gradients(model, image, target, steps=12)
    captum = IntegratedGradients(model)
    for i in range(len(image)):
        expected = captum.attribute(image[i : i + 1], target=int(target[i]), n_steps=12, method="gausslegendre")
        torch.testing.assert_close(maps[i], expected.sum(dim=1)[0].float(), atol=1e-5, rtol=1e-4)


def test_integrated_gradients_sum_to_the_difference_of_the_logits(model, batch):
    image, target = batch
    difference = model(image) - model(torch.zeros_like(image))
    sums = integrated_gradients(model, image, target).sum(dim=(1, 2))
    torch.testing.assert_close(sums, difference.gather(1, target[:, None])[:, 0].detach(), atol=1e-4, rtol=1e-3)


def test_smoothgrad_agrees_with_captum_on_the_same_noise(model, batch):
    image, target = batch
    maps = smoothgrad(model, image, target, copies=3, noise_level=0.2, seed=5)
    generator = torch.Generator().manual_seed(5)
    noise = [torch.randn(3, 11, 17, generator=generator) for _ in range(3)]
    saliency = Saliency(model)
    for i in range(len(image)):
        deviation = 0.2 * (image[i].max() - image[i].min())
        gradients = [
            saliency.attribute((image[i] + deviation * n)[None].requires_grad_(), target=int(target[i]), abs=False)
            for n in noise
        ]
        expected = torch.stack(gradients).mean(dim=0).abs().sum(dim=1)[0]
        torch.testing.assert_close(maps[i], expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("attribution", [integrated_gradients, smoothgrad])
def test_a_map_does_not_depend_on_its_batch_nor_on_gradients_around(model, batch, attribution):
    image, target = batch
    maps = attribution(model, image, target)
    assert maps.shape == (5, 11, 17)
    with torch.inference_mode():
        alone = attribution(model, image[3:4] * 1.0, target[3:4] * 1)
    torch.testing.assert_close(maps[3:4], alone.clone(), atol=1e-6, rtol=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("attribution", [integrated_gradients, smoothgrad])
def test_refuses_training_mode(model, batch, attribution):
    with pytest.raises(ConfigError, match=r"call model\.eval"):
        attribution(model.train(), *batch)


def test_refuses_no_points(model, batch):
    with pytest.raises(ConfigError, match="give at least 1"):
        integrated_gradients(model, *batch, steps=0)
    with pytest.raises(ConfigError, match="give at least 1"):
        smoothgrad(model, *batch, copies=0)


def test_points_and_noise_of_a_records_attributions(model, batch):
    """A definition names the attribution alone, so that other defaults would give other numbers under the same id."""
    stated = integrated_gradients(model, *batch, steps=32)
    torch.testing.assert_close(integrated_gradients(model, *batch), stated, atol=0, rtol=0)
    stated = smoothgrad(model, *batch, copies=16, noise_level=0.15, seed=0)
    torch.testing.assert_close(smoothgrad(model, *batch), stated, atol=0, rtol=0)
