"""Writes ``caffe_pb2.py`` and ``caffe_pb2.pyi`` from ``caffe.proto``: ``python -m cosdask.proto.generate``.

Needed only after a change to ``caffe.proto``; it asks for the ``grpcio-tools`` package, which cosdask itself never
uses. protoc's own module would register its messages in protobuf's default pool, where a second ``caffe.proto``
(pycaffe's, or the user's) clashes with it; ours keeps a pool of its own.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
BYTES_A_LINE = 40

HEAD = '''\
# Written by `python -m cosdask.proto.generate` from caffe.proto; change that file, not this one.
# ruff: noqa
# fmt: off
"""The messages of caffe.proto, in a descriptor pool of their own."""

import copyreg

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal import enum_type_wrapper
from google.protobuf.message_factory import GetMessageClass

_FILE = (
'''

TAIL = '''\
)

POOL = DescriptorPool()
DESCRIPTOR = POOL.AddSerializedFile(_FILE)


def _restore(cls, data):
    """A pickled message read back."""
    return cls.FromString(data)


def _reduce(message):
    """What pickle keeps of a message; protobuf's own way looks for the class in the default pool."""
    return _restore, (type(message), message.SerializePartialToString())


def _message(descriptor, outer):
    """The class of a message, placed where pickle looks for it."""
    found = GetMessageClass(descriptor)
    found.__module__ = __name__
    found.__qualname__ = outer + descriptor.name
    copyreg.pickle(found, _reduce)
    for nested in descriptor.nested_types:
        inner = _message(nested, found.__qualname__ + ".")
        if not hasattr(found, nested.name):  # protobuf's C parts have it by themselves, its pure Python has not
            setattr(found, nested.name, inner)
    return found


for _descriptor in DESCRIPTOR.message_types_by_name.values():
    globals()[_descriptor.name] = _message(_descriptor, "")
for _descriptor in DESCRIPTOR.enum_types_by_name.values():
    globals()[_descriptor.name] = enum_type_wrapper.EnumTypeWrapper(_descriptor)
    globals().update({_value.name: _value.number for _value in _descriptor.values})
'''


def compile_proto(proto: Path) -> tuple[bytes, str]:
    """Runs protoc on a .proto file.

    Returns:
        The file's serialized ``FileDescriptorProto``, and the text of its type stub.

    Raises:
        SystemExit: protoc refused the file (its message is on stderr).
    """
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "set"
        status = protoc.main(
            ["protoc", f"-I{proto.parent}", f"--descriptor_set_out={found}", f"--pyi_out={folder}", proto.name]
        )
        if status != 0:
            raise SystemExit(f"protoc refused {proto} (status {status}); see its message above")
        files = FileDescriptorSet.FromString(found.read_bytes()).file
        stub = (Path(folder) / f"{proto.stem}_pb2.pyi").read_text()
    return files[0].SerializeToString(deterministic=True), stub


def render(proto: Path = HERE / "caffe.proto") -> dict[str, str]:
    """The text of both generated files, by file name."""
    descriptor, stub = compile_proto(proto)
    starts = range(0, len(descriptor), BYTES_A_LINE)
    literal = "".join(f"    {descriptor[at : at + BYTES_A_LINE]!r}\n" for at in starts)
    banner = HEAD.partition('"""')[0]
    stub = banner + "from google.protobuf.descriptor_pool import DescriptorPool as _DescriptorPool\n" + stub
    stub = stub.replace(
        "DESCRIPTOR: _descriptor.FileDescriptor\n", "DESCRIPTOR: _descriptor.FileDescriptor\nPOOL: _DescriptorPool\n", 1
    )
    return {"caffe_pb2.py": HEAD + literal + TAIL, "caffe_pb2.pyi": stub}


def main() -> int:
    """Writes the generated files beside ``caffe.proto``."""
    for name, text in render().items():
        (HERE / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
