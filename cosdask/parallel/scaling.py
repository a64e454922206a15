"""What more workers do to a training: the batch divided among them, the learning rate that grows with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from google.protobuf import text_format

from cosdask.config import Config
from cosdask.errors import ConfigError
from cosdask.parallel.job import Job
from cosdask.proto import caffe_pb2, parse_text, to_text

#: the fields in which TRAIN data layers have their batch size
_BATCHES = ("data_param", "memory_data_param", "cos_data_param", "hdf5_data_param", "image_data_param",
            "window_data_param")  # fmt: skip


def scale(param: caffe_pb2.SolverParameter, config: Config, devices: int) -> float:
    """Change a self-contained solver as the options ask for; returns the factor of the learning rate.

    ``batch_is_global`` divides the prototxt's batch among all devices. ``scale_lr="linear"`` multiplies the learning
    rate by the number of devices whose batches now make up one (Goyal et al., 2017, arXiv:1706.02677); the warm-up is
    the engine's.

    Args:
        param: the solver's message, nets inlined; changed in place.
        config: ``batch_is_global`` and ``scale_lr``.
        devices: how many share the work.

    Raises:
        ConfigError: a batch that cannot be divided evenly, or both options at once, which would not fit.
    """
    if config.batch_is_global and config.scale_lr != "none":
        raise ConfigError(
            "--batch-is-global keeps the effective batch, so the learning rate needs no --scale-lr; give one of them.",
            option="scale_lr",
        )
    if config.batch_is_global:
        for layer in _train_layers(param):
            _divide(layer, 1, devices)
    return rate_factor(config, devices)


def rate_factor(config: Config, devices: int) -> float:
    """What the learning rate is multiplied with on so many devices."""
    return float(devices) if config.scale_lr == "linear" else 1.0


def divided_anew(job: Job, before: int, devices: int) -> Job | None:
    """A job whose batch was divided among ``before`` devices, with the same batch divided among ``devices``.

    Returns:
        The job, all else as it was; None where the batch cannot be divided evenly.
    """
    param = parse_text(job.solver, caffe_pb2.SolverParameter())
    try:
        for layer in _train_layers(param):
            _divide(layer, before, devices)
        source = _spec_divided(job.source, before, devices)
    except ConfigError:
        return None
    return replace(job, solver=to_text(param), source=source)


def _spec_divided(spec: dict[str, Any], before: int, devices: int) -> dict[str, Any]:
    """A source's specification carries its layer; that of several sources theirs."""
    if "sources" in spec:
        return {**spec, "sources": [_spec_divided(part, before, devices) for part in spec["sources"]]}
    layer = text_format.Parse(spec["layer"], caffe_pb2.LayerParameter())
    _divide(layer, before, devices)
    return {**spec, "layer": text_format.MessageToString(layer, as_one_line=True)}


def _train_layers(param: caffe_pb2.SolverParameter) -> Iterator[caffe_pb2.LayerParameter]:
    """The layers that may be in the TRAIN net."""
    for net in (param.net_param, param.train_net_param):
        for layer in net.layer:
            phases = [rule.phase for rule in layer.include if rule.HasField("phase")]
            if not phases or caffe_pb2.TRAIN in phases:
                yield layer


def _divide(layer: caffe_pb2.LayerParameter, before: int, devices: int) -> None:
    """Make a batch of one of ``before`` devices that of one of ``devices``."""
    for name in _BATCHES:
        if not layer.HasField(name):
            continue
        settings = getattr(layer, name)
        batch = settings.batch_size * before
        if batch % devices:
            raise ConfigError(
                f'--batch-is-global: batch_size {batch} of layer "{layer.name}" cannot be divided among {devices} '
                "devices; use another number of workers, or another batch_size.",
                layer=layer.name,
            )
        settings.batch_size = batch // devices
