"""parse_text, to_text and layer_lines: prototxt in and out, and what is said of a damaged one."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import pytest
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from cosdask.errors import ProtoError
from cosdask.proto import caffe_pb2, layer_lines, parse_net, parse_solver, parse_text, read_net, read_solver, to_text


def _fails(text: str, path: str = "net.prototxt") -> ProtoError:
    with pytest.raises(ProtoError) as caught:
        parse_text(text, caffe_pb2.NetParameter(), path)
    return caught.value


@pytest.mark.parametrize(
    ("text", "place", "sentences"),
    [
        ('layer {\n  name: "c"\n  convolution_param { kernal_size: 5 }\n}', (3, 23), ['layer "c"', '"kernel_size"']),
        ("layers { type: CONVOLUTON }", (1, 16), ["CONVOLUTON", '"CONVOLUTION"']),
        ('layers { type: "CONVOLUTION" }', (1, 16), ["without quotes"]),
        ("layer { phase: test }", (1, 16), ['"TEST"']),
        ("layer { pooling_param { pool: 7 } }", (1, 31), ["MAX, AVE, STOCHASTIC"]),
        ('layer { name: "x" kernel_size: 3 }', (1, 19), ["convolution_param or pooling_param"]),
        ('net: "train.prototxt"', (1, 1), ["a field of a solver"]),
        ('name: "a"\nname: "b"', (2, 7), ["name is given twice"]),
        ("layer { lrn_param { }\n lrn_param { } }", (2, 12), ["lrn_param is given twice"]),
        ("layer {\n type: Convolution }", (2, 8), ["type: a text in quotes is needed", '"Convolution"']),
        ("input_dim: 3.5", (1, 12), ["input_dim: a whole number", '"3.5"']),
        ("input_dim: 99999999999", (1, 12), ["too large"]),
        ("layer { loss_weight: high }", (1, 22), ["loss_weight: a number", '"high"']),
        ("force_backward: yes", (1, 17), ["true or false"]),
        ('name: "lenet\nlayer { }', (1, 7), ["closing quote"]),
        ('name "lenet"', (1, 6), ['":" is needed']),
        ('layer: "x"', (1, 8), ['"{" is needed']),
        ('layer { name: "a" } }', (1, 21), ["the name of a field", '"}"']),
        ('layer {\n name: "a" # and nothing more\n', (2, 8), ['"layer" opened at line 1', "closing bracket"]),
        ("layer { name:", (1, 14), ["the text ends"]),
        (r'layer { data_param { source: "C:\data" } }', (1, 33), ["backslash"]),
        (r'name: "a\777"', (1, 9), ["backslash"]),
        (r'name: "a\377" force_backward: true', (1, 15), ["not UTF-8"]),
        ("\x01\x02", (1, 1), [r"'\x01'"]),
        (
            'layer {}\nlayer { name: "b"\n clip_param { min: 0 } }',
            (3, 22),
            ['layer "b", clip_param: layer[1].clip_param.max must be given'],
        ),
        ("[some.extension]: 3", (1, 7), ["without brackets"]),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, place: tuple[int, int], sentences: list[str]) -> None:
    """Invariants 8 and 10: a damaged prototxt gives path:line:column, a plain sentence, and the nearest names."""
    error = _fails(text)
    line, column = place
    assert str(error).startswith(f"net.prototxt:{line}:{column}: ")
    assert (error.where["path"], error.where["line"], error.where["column"]) == ("net.prototxt", line, column)
    for sentence in sentences:
        assert sentence in str(error)


def test_the_layer_is_named_wherever_its_name_stands() -> None:
    """The name may come after the mistake."""
    error = _fails('layer { name: "a" }\nlayer { typ: "ReLU" name: "b" }')
    assert error.where["layer"] == "b"
    assert 'in layer "b": there is no field "typ"' in str(error)


def test_a_solver_in_place_of_a_net_and_the_reverse() -> None:
    """The most usual mix-up is said as such."""
    with pytest.raises(ProtoError, match="a field of a net"):
        parse_solver('layer { name: "a" }')
    with pytest.raises(ProtoError, match="a field of a solver"):
        parse_net("base_lr: 0.1")


def test_nesting_and_blanks_have_limits() -> None:
    """Invariant 10: a text of brackets cannot use up the stack, nor one of blanks the memory."""
    with pytest.raises(ProtoError, match=r"^<text>:1:\d+: (\w+, ){2}\w+: blocks are nested more than 100 deep"):
        parse_text("list_value { values { " * 60, struct_pb2.Value())
    with pytest.raises(ProtoError, match="blanks"):
        parse_text("name:" + " " * 200_000 + '"a"', caffe_pb2.NetParameter())


def test_a_long_name_stays_out_of_the_message() -> None:
    """An error is for reading, whatever the file holds."""
    for text in ("a" * 10**6 + ": 3", 'layer { name: "' + "a" * 10**6 + '" typ: 3 }', "input_dim: " + "1" * 10**6):
        assert len(str(_fails(text))) < 500


def test_memory_stays_near_the_size_of_the_text() -> None:
    """Invariant 10: bounded memory, also on a damaged text."""
    for text in ("layer { " * 10**5, "\n" * 10**5 + "nme: 3", "#" * 10**6 + "\n{", " " * 10**6 + "{"):
        tracemalloc.start()
        _fails(text)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20 * len(text)


@given(st.integers(0, 10**6), st.sampled_from("{}<>:\"'\\#;,[]-+.0a\n\0 é\ud7ff"), st.booleans())
def test_a_damaged_text_is_read_or_refused_and_nothing_else(at: int, mark: str, cut: bool) -> None:
    """Invariant 10: any damage gives a message or a ProtoError."""
    whole = """name: "n" # comment
    layers { name: 'c' type: CONVOLUTION blobs_lr: 1. convolution_param < num_output: 2 kernel_size: [3, 5] > }
    layer { name: "a\\n\\x41" type: "ReLU" include { phase: TRAIN, not_stage: "x"; }
            relu_param { negative_slope: -1e-3 } }"""
    at %= len(whole)
    try:
        parse_text(whole[:at] + mark + ("" if cut else whole[at:]), caffe_pb2.NetParameter())
    except ProtoError as error:
        assert error.where["line"] >= 1


def test_forms_that_editors_and_old_files_use() -> None:
    """A byte-order mark, Windows line ends, commas, angle brackets, joined texts and comments are all legal."""
    net = parse_net('\ufeffname: "a" "b"\r\nlayer <name: \'c\', top: ["x", "y"];> # end')
    assert (net.name, net.layer[0].name, list(net.layer[0].top)) == ("ab", "c", ["x", "y"])


@given(
    st.lists(st.floats(width=32), max_size=8), st.text(st.characters(exclude_categories=["Cs"])), st.floats(width=32)
)
def test_text_of_a_message_reads_back_the_same(weights: list[float], name: str, rate: float) -> None:
    """to_text keeps every float32 (infinities and -0 too) and every text."""
    net = caffe_pb2.NetParameter(name=name)
    net.layer.add(loss_weight=weights).param.add(lr_mult=rate)
    again = parse_text(to_text(net), caffe_pb2.NetParameter())
    assert again.name == name
    for ours, theirs in zip(
        [*again.layer[0].loss_weight, again.layer[0].param[0].lr_mult], [*weights, rate], strict=True
    ):
        assert math.isnan(ours) == math.isnan(theirs)
        assert math.isnan(ours) or (ours == theirs and math.copysign(1, ours) == math.copysign(1, theirs))


def test_every_real_file_reads_upgrades_and_survives_a_round_trip(reference_prototxt: Path) -> None:
    """Users' own prototxt files work unchanged."""
    files = sorted(reference_prototxt.rglob("*.prototxt"))
    assert len(files) == 65
    for file in files:
        if "solver" in file.name:
            solver = read_solver(file)
            assert parse_solver(to_text(solver)) == solver, file.name
        else:
            net = read_net(file)
            assert net.layer and not net.layers and not net.input, file.name
            assert parse_net(to_text(net)) == net, file.name


def test_layer_lines_of_all_generations() -> None:
    """A layer's line is where its block begins, whatever stands around; names may come twice."""
    text = """name: "layer { not one }"  # layer { nor this }
    layer { name: "data" include { phase: TRAIN } }
    layer
    { type: "Data"
      name: "data" data_param { source: "}" } }
    layers { type: RELU name: 'v1' }
    layers { bottom: "a"
      layer { type: "conv" name: "v0" } }
    layer { type: "ReLU" }"""
    assert layer_lines(text) == {"data": [2, 3], "v1": [6], "v0": [7], "": [9]}
    assert layer_lines('layer: [{ name: "a" },\n { name: "b" }]') == {"a": [1], "b": [1]}
    assert layer_lines('net_param {\n layer { name: "in" } }') == {"in": [2]}


@given(st.text("{}<>:\"'\\#layer name\n"))
def test_layer_lines_takes_any_text(text: str) -> None:
    """It serves error messages, so it raises none of its own."""
    lines = layer_lines(text)
    assert all(1 <= line <= text.count("\n") + 1 for found in lines.values() for line in found)
