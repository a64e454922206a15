"""Writing nets in Python, as pycaffe's ``net_spec`` does it: layers are calls, blobs are attributes of the net.

``layers`` (usually imported as ``L``) has a function for every layer type, ``params`` (``P``) has the enum values.

Example:
    >>> n = NetSpec()
    >>> n.data = layers.Input(shape=dict(dim=[1, 3]))
    >>> n.ip = layers.InnerProduct(n.data, num_output=2, weight_filler=dict(type="xavier"))
    >>> n.relu = layers.ReLU(n.ip, in_place=True)
    >>> [(layer.name, layer.type, list(layer.top)) for layer in n.to_proto().layer]
    [('data', 'Input', ['data']), ('ip', 'InnerProduct', ['ip']), ('relu', 'ReLU', ['ip'])]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from cosdask.errors import NetError, did_you_mean
from cosdask.proto import caffe_pb2

_LAYER = caffe_pb2.LayerParameter.DESCRIPTOR
#: the field of a layer type whose message is named after it: "InnerProduct" -> "inner_product_param"
_OWN_FIELD = {
    field.message_type.name.removesuffix("Parameter"): field.name
    for field in _LAYER.fields
    if field.message_type is not None and field.name.endswith("_param")
}
#: layer types that read another type's message; pycaffe wants that message spelled out, here both ways work
_SHARED_FIELD = {
    "CoSData": "cos_data_param",
    "Deconvolution": "convolution_param",
    "Im2col": "convolution_param",
    "LSTM": "recurrent_param",
    "RNN": "recurrent_param",
    "SoftmaxWithLoss": "loss_param",
}


class UnknownBlobError(NetError, AttributeError, KeyError):
    """A :class:`NetSpec` has no blob of that name."""

    def __str__(self) -> str:
        return self.message


class Top:
    """One top of a layer call: what other calls take as a bottom."""

    def __init__(self, fn: Function, n: int) -> None:
        self.fn, self.n = fn, n

    def to_proto(self) -> caffe_pb2.NetParameter:
        """The net that this top needs, with names made from the layer types."""
        return to_proto(self)


class Function:
    """One layer call.

    Args:
        type_name: the layer's type.
        inputs: tops of other calls.
        params: fields of the layer or of its own parameter message; also ``ntop`` (default 1) and ``in_place``.

    Raises:
        NetError: for an input that is no top.
    """

    def __init__(self, type_name: str, inputs: Sequence[Any], params: Mapping[str, Any]) -> None:
        for position, given in enumerate(inputs):
            if not isinstance(given, Top):
                several = " It has several tops: choose one, such as [0]." if isinstance(given, tuple) else ""
                raise NetError(
                    f"{type_name}: input {position} is no top of a layer but a {type(given).__name__}.{several}"
                )
        self.type_name = type_name
        self.inputs: tuple[Top, ...] = tuple(inputs)
        self.params: dict[str, Any] = dict(params)
        self.ntop: int = self.params.pop("ntop", 1)
        self.in_place: bool = self.params.pop("in_place", False)
        self.tops: tuple[Top, ...] = tuple(Top(self, n) for n in range(self.ntop))


class _Writer:
    """Turns calls into layer messages, each after the ones it reads."""

    def __init__(self, names: Mapping[Top | Function, str]) -> None:
        self._names = dict(names)
        self._numbers: Counter[str] = Counter()
        self._layers: dict[Function, caffe_pb2.LayerParameter] = {}

    def add(self, wanted: Function) -> None:
        """Write a call and all that it reads; no recursion, so that nets may be as deep as they like."""
        waiting: list[tuple[Function, Iterator[Top]]] = [(wanted, iter(wanted.inputs))]
        while waiting:
            fn, inputs = waiting[-1]
            missing = next((top.fn for top in inputs if top.fn not in self._layers), None)
            if missing is not None:
                waiting.append((missing, iter(missing.inputs)))
                continue
            waiting.pop()
            if fn not in self._layers:
                self._layers[fn] = self._written(fn)

    def net(self) -> caffe_pb2.NetParameter:
        """The layers written so far."""
        return caffe_pb2.NetParameter(layer=self._layers.values())

    def _written(self, fn: Function) -> caffe_pb2.LayerParameter:
        bottoms = [self._layers[top.fn].top[top.n] for top in fn.inputs]
        tops = bottoms if fn.in_place else [self._name(top, fn.type_name) for top in fn.tops]
        layer = caffe_pb2.LayerParameter(
            name=self._name(fn.tops[0] if fn.tops else fn, fn.type_name), type=fn.type_name, bottom=bottoms, top=tops
        )
        for field, value in fn.params.items():
            try:
                _assign(_home(layer, field), field, value)
            except (TypeError, ValueError) as error:
                if isinstance(error, NetError):
                    raise
                raise NetError(
                    f'layer "{layer.name}" ({layer.type}): {field} cannot be {value!r}: {error}', layer=layer.name
                ) from None
        return layer

    def _name(self, what: Top | Function, type_name: str) -> str:
        """The name that the user gave, else the type with a number."""
        if what not in self._names:
            self._numbers[type_name] += 1
            self._names[what] = f"{type_name}{self._numbers[type_name]}"
        return self._names[what]


def _home(layer: caffe_pb2.LayerParameter, field: str) -> Message:
    """The message that a keyword belongs to: the layer's own parameters first, then the layer.

    Raises:
        NetError: where neither has such a field.
    """
    own = _OWN_FIELD.get(layer.type) or _SHARED_FIELD.get(layer.type)
    known = list(_LAYER.fields_by_name)
    if own is not None and not field.endswith("param"):
        message: Message = getattr(layer, own)
        if field in message.DESCRIPTOR.fields_by_name:
            return message
        known += message.DESCRIPTOR.fields_by_name
    if field in _LAYER.fields_by_name:
        return layer
    raise NetError(
        f'layer "{layer.name}" ({layer.type}): there is no field "{field}".{did_you_mean(field, known)}',
        layer=layer.name,
    )


def _assign(message: Any, field: str, value: Any) -> None:
    """Set a field from plain Python values: dicts for messages, lists (or one value) for repeated fields."""
    if field not in message.DESCRIPTOR.fields_by_name:
        near = did_you_mean(field, message.DESCRIPTOR.fields_by_name)
        raise NetError(f'{message.DESCRIPTOR.name} has no field "{field}".{near}')
    place = getattr(message, field)
    if hasattr(place, "extend"):
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, Mapping):
                _fill(place.add(), item)
            else:
                place.append(item)
    elif isinstance(value, Mapping):
        place.SetInParent()
        _fill(place, value)
    elif isinstance(value, Message):
        place.CopyFrom(value)
    else:
        setattr(message, field, value)


def _fill(message: Message, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        _assign(message, name, value)


def to_proto(*tops: Top | Function) -> caffe_pb2.NetParameter:
    """The net that the given tops need, with names made from the layer types (``Convolution1``, ``Convolution2``).

    Raises:
        NetError: for a field that the layer type lacks or a value that does not fit it.

    Example:
        >>> to_proto(layers.ReLU(layers.Input(shape=dict(dim=[1])))).layer[1].name
        'ReLU1'
    """
    writer = _Writer({})
    for top in tops:
        writer.add(top.fn if isinstance(top, Top) else top)
    return writer.net()


class NetSpec:
    """A net under construction. Assigning a layer call to an attribute (or item) names the layer and its top.

    ``to_proto()`` gives the ``NetParameter``, which :class:`cosdask.Net` takes and ``str()`` or
    :func:`cosdask.proto.to_text` turn into prototxt.

    Example:
        >>> n = NetSpec()
        >>> n.data, n.label = layers.DummyData(shape=[dict(dim=[4, 2]), dict(dim=[4])], ntop=2)
        >>> n.score = layers.InnerProduct(n.data, num_output=3)
        >>> n.loss = layers.SoftmaxWithLoss(n.score, n.label)
        >>> [layer.name for layer in n.to_proto().layer]
        ['data', 'score', 'loss']
    """

    tops: dict[str, Top | Function]

    def __init__(self) -> None:
        object.__setattr__(self, "tops", {})

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, Top | Function):
            several = f" The call has {len(value)} tops: give as many names." if isinstance(value, tuple) else ""
            raise NetError(f'"{name}" is to be a top of a layer, not a {type(value).__name__}.{several}')
        self.tops[name] = value

    def __getattr__(self, name: str) -> Top:
        if name.startswith("__"):  # copy and pickle ask for names of their own
            raise AttributeError(name)
        if name not in self.tops:
            raise UnknownBlobError(f'the net has no blob "{name}" so far.{did_you_mean(name, self.tops)}', blob=name)
        return self.tops[name]  # type: ignore[return-value]  # a call without tops is never asked for

    def __delattr__(self, name: str) -> None:
        self.__getattr__(name)
        del self.tops[name]

    def __setitem__(self, name: str, value: Top | Function) -> None:
        setattr(self, name, value)

    def __getitem__(self, name: str) -> Top:
        return self.__getattr__(name)

    def __delitem__(self, name: str) -> None:
        self.__delattr__(name)

    def update(self, name: str, params: Mapping[str, Any]) -> None:
        """Change fields of the layer that makes the blob ``name``."""
        top = self.__getattr__(name)
        (top.fn if isinstance(top, Top) else top).params.update(params)

    def to_proto(self) -> caffe_pb2.NetParameter:
        """The net as a message.

        Raises:
            NetError: for a field that a layer type lacks or a value that does not fit it.
        """
        writer = _Writer({value: name for name, value in self.tops.items()})
        for value in self.tops.values():
            writer.add(value.fn if isinstance(value, Top) else value)
        return writer.net()


class Layers:
    """A function for every layer type: ``layers.Convolution(bottom, num_output=20, kernel_size=5)``.

    It returns a :class:`Top`, a tuple of them where ``ntop`` is above 1, and the :class:`Function` where it is 0.
    """

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*inputs: Top, **fields: Any) -> Any:
            fn = Function(name, inputs, fields)
            return fn if fn.ntop == 0 else fn.tops[0] if fn.ntop == 1 else fn.tops

        call.__name__ = call.__qualname__ = name
        return call


class Parameters:
    """Enum values by message: ``params.Pooling.MAX``, ``params.Data.LMDB``, ``params.Eltwise.SUM``."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(caffe_pb2, f"{name}Parameter", None)
        if found is None:
            known = [m.removesuffix("Parameter") for m in caffe_pb2.DESCRIPTOR.message_types_by_name]
            raise AttributeError(f'there is no message "{name}Parameter".{did_you_mean(name, known)}')
        return found


layers = Layers()
params = Parameters()

__all__ = ["Function", "Layers", "NetSpec", "Parameters", "Top", "UnknownBlobError", "layers", "params", "to_proto"]
