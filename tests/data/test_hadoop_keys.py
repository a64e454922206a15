"""CaffeOnSpark's Java keys: reference streams of a JDK byte for byte, and nothing that a stream says is executed."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosdask.data.hadoop import KeyReader, RowKey, pair_key, read_key, row_key
from cosdask.data.hadoop.java import JavaObject, modified_utf8, read_java, utf8
from cosdask.errors import DataError

_FIELD = "4c00025f317400124c6a6176612f6c616e672f4f626a6563743b4c00025f3271007e0001"
_PAIR_END = "7870740008636174312e6a706774000130"
TUPLE2 = "aced00057372000c7363616c612e5475706c65322e94667d5b92f9f5020002" + _FIELD + _PAIR_END
TUPLE2_OLD = TUPLE2.replace("2e94667d5b92f9f5", "bc7daadf46211a99")
PAIR = (
    "aced00057372001a636f6d2e7961686f6f2e6d6c2e646c2e63616666652e50616972674440f0533c10ca0200024c000566697273747400"
    "124c6a6176612f6c616e672f4f626a6563743b4c00067365636f6e6471007e0001" + _PAIR_END
)
TUPLE6 = (
    "aced00057372000c7363616c612e5475706c653637e43eda2c161eaa020006" + _FIELD + "4c00025f3371007e00014c00025f34"
    "71007e00014c00025f3571007e00014c00025f3671007e00017870740008303030303030303074000137737200116a6176612e6c616e67"
    "2e496e746567657212e2a0a4f781873802000149000576616c7565787200106a6176612e6c616e672e4e756d62657286ac951d0b94e08b"
    "0200007870000000017371007e00050000001c71007e0008737200116a6176612e6c616e672e426f6f6c65616ecd207280d59cfaee0200"
    "015a000576616c7565787000"
)
CAT = RowKey("cat1.jpg", "0", 1, 0, 0, True)
DIGIT = RowKey("00000000", "7", 1, 28, 28, False)


@pytest.mark.parametrize(
    ("stream", "row"), [(TUPLE2, CAT), (TUPLE2_OLD, CAT), (PAIR, CAT), (TUPLE6, DIGIT)], ids=["2", "2old", "pair", "6"]
)
def test_reference_streams(stream: str, row: RowKey) -> None:
    """Keys that a JDK serialized, of both lines of Scala."""
    assert read_key(bytes.fromhex(stream)) == row


def test_written_streams_are_the_references() -> None:
    """Byte for byte what Scala 2.11 on a JDK writes, back-references included."""
    assert pair_key("cat1.jpg", "0").hex() == TUPLE2
    assert row_key(DIGIT).hex() == TUPLE6


_TEXT = st.text(max_size=20)
_SIZE = st.integers(0, 2**31 - 1)


@given(_TEXT, _TEXT, st.lists(st.sampled_from([0, 3, 127, 128, 256]) | _SIZE, min_size=3, max_size=3), st.booleans())
def test_any_row_comes_back(name: str, label: str, sizes: list[int], encoded: bool) -> None:
    """Names beyond ASCII, zeros and surrogates, and numbers beyond Java's cache of boxed ones."""
    row = RowKey(name, label, *sizes, encoded)
    assert read_key(row_key(row)) == row
    assert read_key(pair_key(name, label))[:2] == (name, label)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["cat.jpg", "caf\u00e9", "", "xp\0", "t"]) | _TEXT,
            st.sampled_from(["0", "12", "xpt"]),
            st.sampled_from([(1, 28, 28), (3, 256, 256), (120, 120, 3)]),
            st.booleans(),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_reading_many_keys_is_reading_each(rows: list[tuple[str, str, tuple[int, int, int], bool, bool]]) -> None:
    """What is looked up and what is read anew are the same, whatever came before; damage is found behind good keys."""
    keys = KeyReader()
    streams = [
        pair_key(name, label) if pair else row_key(RowKey(name, label, *sizes, encoded))
        for name, label, sizes, encoded, pair in rows
    ]
    streams += [bytes.fromhex(text) for text in (TUPLE2, TUPLE2_OLD, PAIR, TUPLE6)]
    assert [keys.read(stream) for stream in streams] == [read_key(stream) for stream in streams]
    for stream in streams:
        with pytest.raises(DataError):
            keys.read(stream[:-1])
        with pytest.raises(DataError):
            keys.read(stream + b"x")


def test_strings_are_modified_utf8() -> None:
    """Zero takes two bytes, and a character beyond 16 bits two surrogates of three bytes each."""
    assert modified_utf8("a\0\U0001f600").hex() == "61c080eda0bdedb880"
    assert utf8(bytes.fromhex("61c080eda0bdedb880")) == "a\0\U0001f600"
    with pytest.raises(DataError, match="cannot be decoded"):
        utf8(b"\xff")


def test_objects_with_formats_of_their_own() -> None:
    """What a class's writeObject added is passed over; arrays of bytes are bytes; null is None."""
    head = "aced000573720001" + "41" + "00" * 8 + "03" + "0001" + "5b000162" + "7400025b42" + "7870"
    array = "75720002" + "5b42" + "00" * 8 + "02" + "0000" + "7870" + "00000003" + "010203"
    found = read_java(bytes.fromhex(head + array + "7702abcd" + "740001" + "78" + "78"))
    assert found == JavaObject("A", {"b": b"\1\2\3"})
    assert read_java(bytes.fromhex("aced000570")) is None


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ("", "not a serialized Java object"),
        ("cafebabe", "begins with cafebabe"),
        ("aced0005", "cut short"),
        (TUPLE2[:-4], "cut short"),
        (TUPLE2 + "00", "1 bytes behind"),
        ("aced0005" + "71007e0000", "a reference to nothing"),
        ("aced0005" + "7d00000000", "kind 0x7d"),
        ("aced0005" + "73720001" + "41" + "00" * 8 + "0c" + "0000" + "7870", "a format of its own"),
        ("aced0005" + "75720002" + "5b49" + "00" * 8 + "02" + "0000" + "7870" + "7fffffff", "other things than bytes"),
        ("aced0005" + "75720002" + "5b42" + "00" * 8 + "02" + "0000" + "7870" + "7fffffff", "cut short"),
        ("aced0005" + "73720001" + "41" + "00" * 8 + "02" + "ffff", "65535 fields"),
        ("aced0005" + ("73720001" + "41" + "00" * 8 + "02" + "0001" + "4c000161740001" + "4c" + "7870") * 40, "deep"),
        ("aced0005" + "73" + ("720001" + "41" + "00" * 8 + "02" + "0000" + "78") * 1500, "classes more than 32 deep"),
        ("aced0005" + ("73720001" + "41" + "00" * 8 + "02" + "0000") * 1500, "more than 32 deep"),
        ("aced0005" + "740003636174", "a key of the class str"),
        (TUPLE2.replace("5475706c6532", "5475706c6533"), "a key of the class scala.Tuple3"),
        (TUPLE2[:-8] + "70", "whose label is None"),
        (TUPLE6.replace("0000001c", "ffffffff"), "channels, height, width"),
    ],
)
def test_other_streams_are_refused(stream: str, message: str) -> None:
    """Damage, lying sizes, depth, and classes that are not data: an error, no execution, no memory."""
    with pytest.raises(DataError, match=message):
        read_key(bytes.fromhex(stream))


@given(st.integers(0, len(TUPLE6) // 2 - 1), st.integers(0, 255))
def test_any_changed_byte_gives_a_row_or_an_error(place: int, byte: int) -> None:
    """Nothing but DataError comes out of a damaged key."""
    stream = bytearray.fromhex(TUPLE6)
    stream[place] = byte
    with contextlib.suppress(DataError):
        read_key(bytes(stream))
