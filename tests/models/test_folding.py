import pytest
import torch
from torch import Tensor, nn

from aimbench.models.backbones import create_pyramid
from aimbench.models.classifier import Classifier, LinearHead
from aimbench.models.folding import fold_batch_norms
from aimbench.models.global_norm import GlobalBatchNorm


def classifier(name: str) -> Classifier:
    torch.manual_seed(0)
    pyramid = create_pyramid(name)
    for module in pyramid.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics and weights that are not the identity
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return Classifier(pyramid, LinearHead(pyramid, 3)).eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", ["test_efficientnet.r160_in1k", "test_resnet.r160_in1k", "tf_efficientnet_lite0"])
def test_the_same_function_and_gradient_without_batch_norms(name: str) -> None:
    model = classifier(name).double()  # in single precision a rounding may switch a ReLU, and the gradient behind it
    before, state = norms(model), {k: v.clone() for k, v in model.state_dict().items()}
    image = torch.randn(2, 3, 96, 96).double()
    folded = fold_batch_norms(model, image, None)
    assert before > 5
    assert norms(folded) == 0
    assert norms(model) == before
    torch.testing.assert_close(dict(model.state_dict()), state)
    other = torch.randn(3, 3, 64, 64).double()
    gradients = []
    for one in (model, folded):
        x = other.clone().requires_grad_()
        features = one.features(x)
        (gradient,) = torch.autograd.grad(one.predict(features).logits[:, 0].sum(), x)
        gradients.append((features[-1].detach(), gradient))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-6, atol=1e-9)


def test_a_run_of_several_processes_is_folded_to_the_same_weights() -> None:
    model, image = classifier("test_efficientnet.r160_in1k"), torch.randn(1, 3, 64, 64)
    alone = fold_batch_norms(model, image, None)
    GlobalBatchNorm.replace_in(model)
    shared = fold_batch_norms(model.eval(), image, None)
    assert not any(isinstance(module, GlobalBatchNorm) for module in shared.modules())
    torch.testing.assert_close(dict(shared.state_dict()), dict(alone.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(shared.features(image)[-1], alone.features(image)[-1], rtol=0, atol=0)


def test_nothing_to_fold_leaves_the_model() -> None:
    model = classifier("test_vit.r160_in1k")
    assert fold_batch_norms(model, torch.randn(1, 3, 160, 160), None) is model


class TwoReaders(LinearHead):
    """Reads a convolution's output beside the batch norm that reads it: folding would change what is added."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__(classifier.pyramid, 3)
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean = torch.tensor([1.0, -1.0, 5.0])

    def forward(self, features: list[Tensor], mask: Tensor | None = None):  # type: ignore[no-untyped-def]
        output = super().forward(features)
        made = self.convolution(output.logits[:, :, None, None])
        output.logits = (made + self.norm(made))[:, :, 0, 0]
        return output


def test_a_convolution_with_a_second_reader_is_left_alone() -> None:
    model = classifier("test_convnext.r160_in1k")
    model = Classifier(model.pyramid, TwoReaders(model)).eval()
    assert fold_batch_norms(model, torch.randn(2, 3, 64, 64), None) is model
