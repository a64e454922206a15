"""SequenceFiles: what was written is read from any place, and damage is an error that says where."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosdask.data.hadoop import (
    BYTES,
    CODECS,
    SequenceReader,
    SequenceWriter,
    read_bytes,
    read_writable,
    write_bytes,
    write_text,
)
from cosdask.data.hadoop.codecs import codec_by_class
from cosdask.data.hadoop.writables import read_vint, write_vint
from cosdask.errors import ConfigError, DataError
from tests.data.sequence_rows import Row, hadoop_rows

FORMS = [("none", "default"), *((form, codec) for form in ("record", "block") for codec in CODECS)]
SYNC = bytes(range(100, 116))


def written(rows: list[Row], compression: str = "none", codec: str = "default") -> bytes:
    file = io.BytesIO()
    with SequenceWriter(file, compression=compression, codec=codec, sync=SYNC) as writer:
        for key, value in rows:
            writer.append(write_bytes(key), write_bytes(value))
    return file.getvalue()


def opened(data: bytes) -> SequenceReader:
    return SequenceReader(io.BytesIO(data), "rows.seq", len(data))


def read_all(data: bytes, offset: int | None = None, skip: int = 0) -> list[Row]:
    return [(read_bytes(r.key), read_bytes(r.value)) for r in opened(data).records(offset, skip)]


@pytest.mark.parametrize(("compression", "codec"), FORMS)
def test_rows_come_back_in_every_form(compression: str, codec: str) -> None:
    """Every compression, over several marks and blocks, and values of no bytes."""
    rows = hadoop_rows(400)
    rows += [(b"noise", random.Random(1).randbytes(1 << 20))] * 2
    data = written(rows, compression, codec)
    header = opened(data).header
    assert (header.key_class, header.value_class, header.compression) == (BYTES, BYTES, compression)
    assert data.count(header.mark) >= 2
    assert read_all(data) == rows


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parent / "hadoop").glob("hadoop-*-*.seq")), ids=lambda p: p.stem
)
def test_what_hadoop_wrote_is_read(file: Path) -> None:
    """Files that Hadoop 3.4.2 wrote, see SequenceFiles.java; its zstd by zstd-jni, see ZStandardCodec.java."""
    data = file.read_bytes()
    _, compression, codec = file.stem.split("-")
    header = opened(data).header
    assert (header.version, header.compression) == (6, compression)
    assert header.codec is (None if compression == "none" else CODECS[codec])
    assert read_all(data) == hadoop_rows(12)


def test_hadoops_numbers_texts_and_metadata() -> None:
    """Keys and values of Hadoop's simple classes come as Python values."""
    reader = opened((Path(__file__).parent / "hadoop" / "hadoop-texts.seq").read_bytes())
    classes = reader.header.key_class, reader.header.value_class
    rows = [tuple(map(read_writable, classes, (record.key, record.value))) for record in reader.records()]
    assert rows == [(-5, "caf\u00e9"), (1 << 40, "")]
    assert reader.header.metadata == {"made by": "Hadoop"}


def test_zstd_frames_without_a_size_are_read() -> None:
    """Hadoop's zstd is a stream: its frames do not say how much they hold, and several may follow each other."""
    data = b"rows" * 100_000
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    packed = sink.getvalue().to_pybytes()
    assert CODECS["zstd"].decompress(packed, len(data)) == data
    assert CODECS["zstd"].decompress(packed * 2, 2 * len(data)) == data * 2


def test_hadoops_snappy_chunks_are_read() -> None:
    """One length of the raw data may stand for several chunks."""
    snappy = pa.Codec("snappy")
    parts = [snappy.compress(part, asbytes=True) for part in (b"a" * 300, b"b" * 20)]
    data = struct.pack(">i", 320) + b"".join(struct.pack(">i", len(part)) + part for part in parts)
    assert CODECS["snappy"].decompress(data, 320) == b"a" * 300 + b"b" * 20


@given(
    sizes=st.lists(st.integers(0, 3000), max_size=60),
    form=st.sampled_from([("none", "default"), ("record", "snappy"), ("block", "default")]),
    width=st.integers(1, 40_000),
    rows=st.integers(1, 20),
)
def test_ranges_count_each_row_once(sizes: list[int], form: tuple[str, str], width: int, rows: int) -> None:
    """However a file is cut, ranges together count every record once, and reading begins at any chunk and row."""
    wanted = [(str(i).encode(), bytes([i]) * size) for i, size in enumerate(sizes * 3)]
    data = io.BytesIO()
    writer = SequenceWriter(data, compression=form[0], codec=form[1], sync=SYNC)
    for i, (key, value) in enumerate(wanted):
        writer.append(write_bytes(key), write_bytes(value))
        if i % 7 == 6 and form[0] == "block":
            writer.close()
        elif i % 7 == 6:
            data.write(b"\xff" * 4 + SYNC)
    writer.close()
    content = data.getvalue()
    reader = opened(content)
    chunks = [
        chunk
        for start in range(0, max(1, len(content)), width)
        for chunk in reader.chunks(start, start + width, rows, 1 << 20)
    ]
    assert sum(chunk.rows for chunk in chunks) == len(wanted)
    done = 0
    for chunk in chunks:
        assert read_all(content, chunk.offset, skip=1) == wanted[done + 1 :]
        done += chunk.rows


def test_records_in_front_of_a_chunk_are_not_decompressed() -> None:
    """Skipping costs no decompression: a damaged value in front does not matter."""
    data = bytearray(written([(b"a", b"x" * 50), (b"b", b"y")], "record"))
    place = bytes(data).index(zlib.compress(write_bytes(b"x" * 50)))
    data[place : place + 4] = b"\0" * 4
    assert read_all(bytes(data), skip=1) == [(b"b", b"y")]
    with pytest.raises(DataError, match=r"rows.seq: byte \d+, row 0: damaged SequenceFile: compressed data is damaged"):
        read_all(bytes(data))


@pytest.mark.parametrize(("version", "codec"), [(0, None), (1, None), (2, None), (3, "zlib"), (4, None), (5, "zlib")])
def test_old_versions(version: int, codec: str | None) -> None:
    """Class names with two bytes of length before version 4, no marks before version 2."""
    name = BYTES.encode()
    texts = (struct.pack(">H", len(name)) if version < 4 else write_vint(len(name))) + name
    head = b"SEQ" + bytes([version]) + texts * 2
    head += bytes([codec is not None]) if version > 2 else b""
    head += b"\0" if version > 3 else b""
    head += write_text("org.apache.hadoop.io.compress.DefaultCodec") if codec and version >= 5 else b""
    head += SYNC if version > 1 else b""
    body = b""
    for key, value in hadoop_rows(3):
        content = write_bytes(value)
        content = zlib.compress(content) if codec else content
        body += struct.pack(">ii", len(key) + 4 + len(content), len(key) + 4) + write_bytes(key) + content
    assert read_all(head + body) == hadoop_rows(3)
    assert [chunk.rows for chunk in opened(head + body).chunks(0, 1 << 20, 100, 1 << 20)] == [3]


@pytest.mark.parametrize("form", [("none", "default"), ("record", "gzip"), ("block", "snappy")])
@pytest.mark.parametrize("seed", range(4))
def test_damage_is_an_error_or_harmless(form: tuple[str, str], seed: int) -> None:
    """A byte changed or an end cut off: an error naming the file and byte, never another one, never endless memory."""
    data = written(hadoop_rows(60), *form)
    draw = random.Random(seed)
    for _ in range(60):
        broken = bytearray(data)
        broken[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        cut = bytes(broken[: draw.randrange(len(data))] if draw.random() < 0.3 else broken)
        for look in (
            lambda cut=cut: list(opened(cut).records()),
            lambda cut=cut: list(opened(cut).chunks(0, 1 << 30, 10, 1 << 20)),
        ):
            try:
                look()
            except DataError as error:
                assert str(error).startswith("rows.seq: ")


def test_lies_about_sizes_are_refused_before_memory_is_taken() -> None:
    """A record larger than the file, a negative key, a bomb in a value and in a block, lengths that do not agree."""
    head = written([])
    for sizes, message in [
        ((1 << 27, 8), r"byte \d+, row 0: .*134217728 bytes where the file has 4 left"),
        ((8, -1), "key of -1"),
        ((4, 8), "a record of 4 bytes with a key of 8"),
        ((0x7FFFFFFF, 8), "at most 268,435,456"),
    ]:
        with pytest.raises(DataError, match=message):
            read_all(head + struct.pack(">ii", *sizes) + b"rest")
    for name, codec in CODECS.items():
        with pytest.raises(DataError, match="grows beyond the 1,000 bytes"):
            codec.decompress(codec.compress(bytes(100_000)), 1000)
        with pytest.raises(DataError, match="compressed data"):
            codec.decompress(codec.compress(bytes(range(256)) * 9)[:-3], 1 << 20)
        assert codec.decompress(codec.compress(b""), 0) == b"", name
    block = written(hadoop_rows(5), "block")
    lies = block.replace(b"\xff" * 4 + SYNC + b"\x05", b"\xff" * 4 + SYNC + b"\x06")
    with pytest.raises(DataError, match=r"row 0: .*a block of 6 records with 5 lengths"):
        read_all(lies)


def test_other_files_say_what_they_are() -> None:
    """No SequenceFile, a newer version, an unknown codec, a missing mark."""
    with pytest.raises(DataError, match="does not begin with SEQ"):
        opened(b"PAR1....")
    with pytest.raises(DataError, match="version 9"):
        opened(b"SEQ\x09....")
    lzo = b"SEQ\x06" + write_text(BYTES) * 2 + b"\x01\x01" + write_text("com.hadoop.compression.lzo.LzoCodec")
    with pytest.raises(DataError, match=r"rows.seq: compressed with com.hadoop.*LzoCodec.*Snappy"):
        opened(lzo + bytes(20))
    block = written(hadoop_rows(5), "block").replace(b"\xff" * 4 + SYNC, b"\xff" * 4 + SYNC[::-1])
    with pytest.raises(DataError, match="not this file's"):
        read_all(block)
    with pytest.raises(ConfigError, match=r'no codec "gzp".*"gzip"'):
        SequenceWriter(io.BytesIO(), codec="gzp")
    with pytest.raises(ConfigError, match=r'no compression "blok".*"block"'):
        SequenceWriter(io.BytesIO(), compression="blok")
    assert codec_by_class("org.apache.hadoop.io.compress.GzipCodec") is CODECS["gzip"]


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_numbers_of_variable_length(value: int) -> None:
    """Every 64-bit number comes back, and takes Hadoop's number of bytes."""
    data = write_vint(value)
    assert read_vint(data) == (value, len(data))
    assert len(data) == 1 if -112 <= value <= 127 else 2 <= len(data) <= 9
    with pytest.raises(DataError):
        read_vint(data[:-1])


@pytest.mark.parametrize(
    ("name", "data", "value"),
    [
        ("IntWritable", "ffffffff", -1),
        ("VIntWritable", "8f80", 128),
        ("BooleanWritable", "01", True),
        ("DoubleWritable", "3ff8000000000000", 1.5),
        ("NullWritable", "", None),
        ("Text", "03636174", "cat"),
        ("BytesWritable", "0000000103", b"\x03"),
    ],
)
def test_writables(name: str, data: str, value: object) -> None:
    """Hadoop's simple classes; bytes too many or too few are refused; unknown classes stay bytes."""
    full = "org.apache.hadoop.io." + name
    assert read_writable(full, bytes.fromhex(data)) == value
    with pytest.raises(DataError):
        read_writable(full, bytes.fromhex(data) + b"\0\0\0")
    assert read_writable("example.Own", bytes.fromhex(data)) == bytes.fromhex(data)
