"""Networks stage by stage: which modules lead from one map of the pyramid to the next."""

from typing import Any

from torch import nn

from aimbench.errors import ConfigError


def stage_modules(network: nn.Module, name: str) -> list[list[nn.Module]]:
    """The modules between S0 and S1, S1 and S2, S2 and S3, in order.

    S3 is the map that the network's classifier pools, so what follows the last stage belongs to the third list.

    Args:
        network: of timm.
        name: for the error.

    Raises:
        ConfigError: the network is of another family than those whose stages are a plain sequence.
    """
    from timm.models import ConvNeXt, EfficientNet, ResNet

    parts: Any = network
    if isinstance(network, ResNet):
        return [[parts.layer2], [parts.layer3], [parts.layer4]]
    if isinstance(network, ConvNeXt):
        return [[parts.stages[1]], [parts.stages[2]], [parts.stages[3], parts.norm_pre]]
    if isinstance(network, EfficientNet):
        blocks = list(parts.blocks)
        # A stride may span several groups of blocks; timm names the one that ends it, as "blocks.4".
        ends = {entry["reduction"]: int(entry["module"].rpartition(".")[2]) + 1 for entry in parts.feature_info}
        spans = [blocks[ends[stride] : ends[2 * stride]] for stride in (4, 8, 16)]
        return [*spans[:2], [*spans[2], parts.conv_head, parts.bn2]]
    raise ConfigError(
        f"the stages of backbone '{name}' cannot be run one by one;"
        " choose a ResNet, a ConvNeXt or an EfficientNet, see 'aimbench list backbones'"
    )
