"""A Caffe net as a PyTorch module, built from the same prototxt message: what the comparisons run on PyTorch's side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cosdask.proto import caffe_pb2

_DATA = ("MemoryData", "Data", "Input", "CoSData")


class TorchNet(nn.Module):
    """The layers in their order, each on the blobs that it names; returns the weighted sum of the losses.

    Args:
        message: the net, of one phase.
        batch: the blobs that its data layer makes; only their shapes count. Word ids are whole numbers.
    """

    def __init__(self, message: caffe_pb2.NetParameter, batch: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._layers = [layer for layer in message.layer if layer.type not in (*_DATA, "Accuracy")]
        self._modules_of = nn.ModuleDict()
        blobs = dict(batch)
        with torch.no_grad():
            for layer in self._layers:
                if "Loss" in layer.type:
                    continue
                bottoms = [blobs[name] for name in layer.bottom]
                module = _module(layer, bottoms)
                if module is not None:
                    self._modules_of[layer.name.replace(".", "_")] = module.eval()
                    frozen = len(layer.param) > 0 and all(param.lr_mult == 0 for param in layer.param)
                    module.requires_grad_(not frozen)
                blobs[layer.top[0]] = self._run(layer, bottoms)
        self.train()

    def forward(self, batch: Mapping[str, torch.Tensor], scores: bool = False) -> torch.Tensor:
        """The loss, or the last layer's scores."""
        blobs = dict(batch)
        total, last = torch.zeros(()), torch.zeros(())
        for layer in self._layers:
            if "Loss" not in layer.type:
                last = blobs[layer.top[0]] = self._run(layer, [blobs[name] for name in layer.bottom])
            elif not scores:
                weight = layer.loss_weight[0] if layer.loss_weight else 1.0
                total = total + weight * _cross_entropy(layer, *(blobs[name] for name in layer.bottom))
        return last if scores else total

    def _run(self, layer: caffe_pb2.LayerParameter, bottoms: list[torch.Tensor]) -> torch.Tensor:
        name = layer.name.replace(".", "_")
        if layer.type == "Concat":
            return torch.cat(bottoms, dim=1)
        if layer.type == "Eltwise":
            return bottoms[0] + bottoms[1]
        if layer.type == "InnerProduct":
            return self._modules_of[name](bottoms[0].flatten(layer.inner_product_param.axis))
        if layer.type == "Scale":
            return bottoms[0]  # the BatchNorm before it has the same weights
        if layer.type == "LSTM":
            # every sentence begins at the first step, so that the indicators say nothing more
            x, _, *static = bottoms
            steps = [x, *(blob.expand(len(x), *blob.shape) for blob in static)]
            return self._modules_of[name](torch.cat(steps, dim=2))[0]
        return self._modules_of[name](bottoms[0])


def _cross_entropy(layer: caffe_pb2.LayerParameter, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss over the axis of classes, which is the last one; labels to ignore count for nothing."""
    param = layer.loss_param
    ignored = param.ignore_label if param.HasField("ignore_label") else -100
    return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels.reshape(-1), ignore_index=ignored)


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
            full = layer.inner_product_param
            return nn.Linear(bottoms[0].flatten(full.axis).shape[-1], full.num_output)
        case "Embed":
            return nn.Embedding(layer.embed_param.input_dim, layer.embed_param.num_output)
        case "LSTM":
            x, _, *static = bottoms
            return nn.LSTM(x.shape[2] + sum(blob.shape[1] for blob in static), layer.recurrent_param.num_output)
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
