"""A Caffe net as a PyTorch module, built from the same prototxt message: what the comparisons run on PyTorch's side."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cosdask.proto import caffe_pb2

_DATA = ("MemoryData", "Data", "Input")


class TorchNet(nn.Module):
    """The layers in their order, each on the blobs that it names; returns the weighted sum of the losses.

    Args:
        message: the net, of one phase.
        images: a batch, (N, C, H, W); only its shape is looked at.
    """

    def __init__(self, message: caffe_pb2.NetParameter, images: torch.Tensor) -> None:
        super().__init__()
        self._layers = [layer for layer in message.layer if layer.type not in (*_DATA, "Accuracy")]
        self._modules_of = nn.ModuleDict()
        shapes = {"data": images[:1]}
        with torch.no_grad():
            for layer in self._layers:
                if "Loss" in layer.type:
                    continue
                module = _module(layer, [shapes[name] for name in layer.bottom])
                if module is not None:
                    self._modules_of[layer.name.replace(".", "_")] = module.eval()
                shapes[layer.top[0]] = self._run(layer, [shapes[name] for name in layer.bottom])
        self.train()

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """The loss; without labels the last layer's scores."""
        blobs = {"data": images}
        total, last = images.new_zeros(()), images
        for layer in self._layers:
            if "Loss" in layer.type:
                if labels is not None:
                    weight = layer.loss_weight[0] if layer.loss_weight else 1.0
                    total = total + weight * F.cross_entropy(blobs[layer.bottom[0]], labels)
                continue
            last = blobs[layer.top[0]] = self._run(layer, [blobs[name] for name in layer.bottom])
        return last if labels is None else total

    def _run(self, layer: caffe_pb2.LayerParameter, bottoms: list[torch.Tensor]) -> torch.Tensor:
        name = layer.name.replace(".", "_")
        if layer.type == "Concat":
            return torch.cat(bottoms, dim=1)
        if layer.type == "Eltwise":
            return bottoms[0] + bottoms[1]
        if layer.type == "InnerProduct":
            return self._modules_of[name](bottoms[0].flatten(1))
        if layer.type == "Scale":
            return bottoms[0]  # the BatchNorm before it has the same weights
        return self._modules_of[name](bottoms[0])


def _module(layer: caffe_pb2.LayerParameter, bottoms: list[torch.Tensor]) -> Any:
    """PyTorch's module for a layer; None for those that have none."""
    match layer.type:
        case "Convolution":
            conv = layer.convolution_param
            return nn.Conv2d(
                bottoms[0].shape[1],
                conv.num_output,
                conv.kernel_size[0],
                conv.stride[0] if conv.stride else 1,
                conv.pad[0] if conv.pad else 0,
                groups=conv.group,
                bias=conv.bias_term,
            )
        case "Pooling":
            pool = layer.pooling_param
            if pool.global_pooling:
                return nn.AdaptiveAvgPool2d(1)
            kind = nn.MaxPool2d if pool.pool == pool.MAX else nn.AvgPool2d
            return kind(pool.kernel_size, pool.stride, pool.pad, ceil_mode=True)
        case "InnerProduct":
            return nn.Linear(bottoms[0][0].numel(), layer.inner_product_param.num_output)
        case "LRN":
            lrn = layer.lrn_param
            return nn.LocalResponseNorm(lrn.local_size, lrn.alpha, lrn.beta, lrn.k)
        case "BatchNorm":
            return nn.BatchNorm2d(bottoms[0].shape[1])
        case "ReLU":
            return nn.ReLU(inplace=True)
        case "Dropout":
            return nn.Dropout(layer.dropout_param.dropout_ratio)
        case "Concat" | "Eltwise" | "Scale":
            return None
    raise ValueError(f'no PyTorch module for layer "{layer.name}" of type {layer.type}')
