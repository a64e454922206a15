"""caffe_pb2: Caffe's messages, numbers and defaults, in a pool of their own."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from cosdask.proto import caffe_pb2, generate

_LABELS = {"optional": (False, False), "repeated": (True, False), "required": (False, True)}


def _messages(descriptors: Any) -> Iterator[Descriptor]:
    for descriptor in descriptors:
        yield descriptor
        yield from _messages(descriptor.nested_types)


def _values(enum: EnumDescriptor) -> dict[str, int]:
    return {value.name: value.number for value in enum.values}


def _type_name(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return field.message_type.full_name.removeprefix("caffe.")
    if field.enum_type is not None:
        return field.enum_type.full_name.removeprefix("caffe.")
    names = {value: name for name, value in descriptor_pb2.FieldDescriptorProto.Type.items()}
    return names[field.type].removeprefix("TYPE_").lower()  # type: ignore[index]


def _default(field: FieldDescriptor) -> object:
    if field.enum_type is not None:
        return field.enum_type.values_by_number[field.default_value].name
    return field.default_value


def _same_default(field: FieldDescriptor, fact: str) -> bool:
    value = _default(field)
    if isinstance(value, bool):
        return str(value).lower() == fact
    if isinstance(value, float):
        return value == pytest.approx(float(fact), rel=1e-6)
    return str(value) == fact


def test_every_message_field_and_enum_is_as_the_facts_of_caffe_say(repository: Path) -> None:
    """Invariant 1: files of real Caffe read and write unchanged, so numbers, types, labels and defaults are Caffe's."""
    path = repository.parent / "shared" / "caffe_schema.json"
    if not path.is_file():
        pytest.skip("the table of Caffe's messages (../shared/caffe_schema.json) is not here")
    facts = json.loads(path.read_text())
    ours = {
        message.full_name.removeprefix("caffe."): message
        for message in _messages(caffe_pb2.DESCRIPTOR.message_types_by_name.values())
    }
    assert set(ours) == set(facts["messages"])
    for name, enum in facts["enums"].items():
        assert _values(caffe_pb2.DESCRIPTOR.enum_types_by_name[name]) == enum
    for name, message in facts["messages"].items():
        assert {enum.name: _values(enum) for enum in ours[name].enum_types} == message.get("enums", {}), name
        assert {field.name for field in ours[name].fields} == {fact["name"] for fact in message["fields"]}, name
        for fact in message["fields"]:
            field = ours[name].fields_by_name[fact["name"]]
            place = f"{name}.{fact['name']}"
            assert field.number == fact["number"], place
            assert _type_name(field) == fact["type"], place
            assert (field.is_repeated, field.is_required) == _LABELS[fact["label"]], place
            assert bool(field.GetOptions().packed) == fact.get("packed", False), place
            assert field.has_default_value == ("default" in fact), place
            assert "default" not in fact or _same_default(field, fact["default"]), place


def test_the_generated_files_are_those_of_caffe_proto() -> None:
    """caffe.proto is the one source: a change there without running the generator is caught."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools generates the module, and is for developers only")
    for name, text in generate.render().items():
        assert (generate.HERE / name).read_text() == text, f"{name}: run python -m cosdask.proto.generate"


def test_bytes_written_by_real_caffe_come_back_the_same(golden: Path) -> None:
    """Invariant 1: a caffemodel and a solverstate of real Caffe are read and written back byte for byte."""
    for name, message in (
        ("snap_iter_5.caffemodel", caffe_pb2.NetParameter()),
        ("snap_iter_5.solverstate", caffe_pb2.SolverState()),
    ):
        data = (golden / "solvers" / "adam" / name).read_bytes()
        message.ParseFromString(data)
        assert message.SerializeToString(deterministic=True) == data


def test_another_caffe_proto_lives_in_the_default_pool() -> None:
    """pycaffe's caffe_pb2, or a user's own with other fields, is used beside ours in one process."""
    other = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    other.message_type.add(name="NetParameter").field.add(name="other_field", number=1, type=5, label=1)
    pool = descriptor_pool.Default()
    pool.Add(other) if hasattr(pool, "Add") else pool.AddSerializedFile(other.SerializeToString())
    theirs: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))(other_field=3)
    ours = caffe_pb2.NetParameter(name="net")
    assert (theirs.other_field, ours.name) == (3, "net")
    assert type(theirs) is not type(ours)
    assert pickle.loads(pickle.dumps(ours)) == ours


@pytest.mark.parametrize("keep", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, copy.copy])
@pytest.mark.parametrize("path", [(), ("layer", 0), ("layer", 0, "cos_data_param", "top", 0)])
def test_messages_at_any_depth_are_pickled_and_copied(keep: Any, path: tuple[str | int, ...]) -> None:
    """Jobs carry messages between processes, and users keep copies: neither may need the default pool."""
    message: Any = caffe_pb2.NetParameter(name="net")
    message.layer.add(name="a", loss_weight=[0.5]).cos_data_param.top.add(name="image", channels=3)
    for step in path:
        message = message[step] if isinstance(step, int) else getattr(message, step)
    kept = keep(message)
    assert kept == message
    assert type(kept) is type(message)
    assert kept is not message


def test_cloudpickle_and_classes_too() -> None:
    """Dask pickles with cloudpickle; classes go by name."""
    for kind in (caffe_pb2.NetParameter, caffe_pb2.CoSDataParameter.TopBlob):
        assert cloudpickle.loads(cloudpickle.dumps(kind)) is kind
        assert cloudpickle.loads(cloudpickle.dumps(kind(name="x"))) == kind(name="x")
