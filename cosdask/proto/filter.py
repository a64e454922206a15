"""Which layers of a network belong to a phase, level and set of stages (Caffe's NetState and NetStateRule)."""

from __future__ import annotations

from collections.abc import Sequence

from cosdask.errors import ConfigError, ProtoError, did_you_mean
from cosdask.proto import caffe_pb2


def own_phase(layer: caffe_pb2.LayerParameter, phase: str) -> str:
    """The phase that a layer runs in: its own where it states one, else the net's (Caffe's ``Net::Init``).

    Example:
        >>> own_phase(caffe_pb2.LayerParameter(phase=caffe_pb2.TRAIN), "TEST")
        'TRAIN'
        >>> own_phase(caffe_pb2.LayerParameter(), "TEST")
        'TEST'
    """
    return caffe_pb2.Phase.Name(layer.phase) if layer.HasField("phase") else phase


def filter_net(
    net: caffe_pb2.NetParameter, phase: str | int = "TEST", level: int = 0, stages: Sequence[str] = ()
) -> caffe_pb2.NetParameter:
    """The net with only the layers of one state.

    Args:
        net: an upgraded net; it stays as it is.
        phase: ``"TRAIN"`` or ``"TEST"`` (or the enum's number); wins over the net's own ``state``.
        level: wins over the net's own ``state``, as in pycaffe's ``Net``.
        stages: added to the stages of the net's own ``state``, as in pycaffe's ``Net``.

    Returns:
        A new net; its ``state`` is the one used.

    Raises:
        ConfigError: no such phase.
        ProtoError: a layer has both ``include`` and ``exclude`` rules.

    Example:
        >>> net = caffe_pb2.NetParameter(layer=[{"name": "a"}, {"name": "b", "include": [{"phase": "TRAIN"}]}])
        >>> [layer.name for layer in filter_net(net, "TEST").layer]
        ['a']
    """
    if isinstance(stages, str):
        raise ConfigError(f"stages={stages!r}: give the stages as a list, such as [{stages!r}]")
    own = net.state.stage
    state = caffe_pb2.NetState(phase=_phase(phase), level=level, stage=[*own, *(s for s in stages if s not in own)])
    return filter_by_state(net, state)


def filter_by_state(net: caffe_pb2.NetParameter, state: caffe_pb2.NetState) -> caffe_pb2.NetParameter:
    """The net with only the layers that belong to ``state``, which replaces the net's own.

    Raises:
        ProtoError: a layer has both ``include`` and ``exclude`` rules.
    """
    kept = caffe_pb2.NetParameter()
    kept.CopyFrom(net)
    del kept.layer[:]
    kept.layer.extend(layer for layer in net.layer if layer_included(layer, state))
    kept.state.CopyFrom(state)
    return kept


def layer_included(layer: caffe_pb2.LayerParameter, state: caffe_pb2.NetState) -> bool:
    """Whether a layer belongs to a state: some ``include`` rule met (or none written), and no ``exclude`` rule met.

    Raises:
        ProtoError: the layer has both kinds of rules, which Caffe forbids too.
    """
    if layer.include and layer.exclude:
        raise ProtoError(
            f'layer "{layer.name}" has both include and exclude rules; write only one kind', layer=layer.name
        )
    if layer.include:
        return any(state_meets_rule(state, rule) for rule in layer.include)
    return not any(state_meets_rule(state, rule) for rule in layer.exclude)


def state_meets_rule(state: caffe_pb2.NetState, rule: caffe_pb2.NetStateRule) -> bool:
    """Whether all conditions of a rule hold; those not written always do."""
    if rule.HasField("phase") and rule.phase != state.phase:
        return False
    if rule.HasField("min_level") and state.level < rule.min_level:
        return False
    if rule.HasField("max_level") and state.level > rule.max_level:
        return False
    stages = set(state.stage)
    return stages.issuperset(rule.stage) and stages.isdisjoint(rule.not_stage)


def _phase(phase: str | int) -> str:
    names = caffe_pb2.Phase.keys()
    name = caffe_pb2.Phase.Name(phase) if phase in caffe_pb2.Phase.values() else str(phase)
    if name not in names:
        near = did_you_mean(name.upper(), names)
        raise ConfigError(f'no phase "{phase}"; the phases are {" and ".join(names)}.{near}')
    return name
