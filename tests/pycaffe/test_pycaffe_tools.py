"""``caffe.io``, ``Detector``, ``coord_map``, module names, and what a Python layer may be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cosdask.pycaffe as caffe
from cosdask.errors import DataError, NetError
from cosdask.proto import parse_net
from cosdask.pycaffe import coord_map
from cosdask.pycaffe import layers as L

MEAN = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
layer { name: "mean" type: "Pooling" bottom: "data" top: "mean" pooling_param { pool: AVE global_pooling: true } }
"""


def test_pictures_are_read_as_rgb_between_0_and_1(tmp_path: Path) -> None:
    """OpenCV's BGR does not come through; gray has one channel; what is no picture is named."""
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 1] = (255, 51, 0)  # blue, green, red
    cv2.imwrite(str(tmp_path / "p.png"), pixels)
    found = caffe.io.load_image(str(tmp_path / "p.png"))
    assert found.shape == (2, 3, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found[0, 1], [0, 0.2, 1])
    gray = caffe.io.load_image(tmp_path / "p.png", color=False)
    # as scikit-image weighs red, green and blue, which pycaffe reads with
    assert gray.shape == (2, 3, 1) and gray[0, 1, 0] == pytest.approx(0.7154 * 0.2 + 0.0721, abs=1e-6)
    (tmp_path / "no.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"no\.png"):
        caffe.io.load_image(tmp_path / "no.png")


def test_resize_keeps_values_and_any_number_of_channels() -> None:
    """Values are not squeezed into [0, 1], and five channels are as good as three."""
    ramp = np.repeat(np.arange(0, 80, 10, dtype=np.float32)[None, :, None], 5, axis=2)
    found = caffe.io.resize_image(ramp, (1, 4))
    np.testing.assert_allclose(found[0, :, 4], [5, 25, 45, 65])
    assert caffe.io.resize_image(ramp, (3, 8), interp_order=0)[2, :, 0].tolist() == ramp[0, :, 0].tolist()
    with pytest.raises(DataError, match="interp_order"):
        caffe.io.resize_image(ramp, (1, 4), interp_order=7)


@given(swap=st.permutations([0, 1, 2]), raw=st.floats(0.5, 255), scale=st.floats(0.1, 4), seed=st.integers(0, 99))
def test_deprocess_undoes_preprocess(swap: list[int], raw: float, scale: float, seed: int) -> None:
    """Whatever the settings, a picture of the net's size comes back."""
    rng = np.random.default_rng(seed)
    transformer = caffe.io.Transformer({"data": (1, 3, 4, 5)})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_channel_swap("data", swap)
    transformer.set_raw_scale("data", raw)
    transformer.set_mean("data", rng.uniform(0, 200, 3 if seed % 2 else (3, 4, 5)))
    transformer.set_input_scale("data", scale)
    picture = rng.random((4, 5, 3)).astype(np.float32)
    ready = transformer.preprocess("data", picture)
    assert ready.shape == (3, 4, 5)
    np.testing.assert_allclose(transformer.deprocess("data", ready), picture, atol=1e-3)


def test_the_order_of_preprocessing_is_caffes() -> None:
    """Raw scale comes before the mean, the mean is in the net's order of channels, input scale comes last."""
    transformer = caffe.io.Transformer({"data": (1, 3, 1, 1)})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_channel_swap("data", (2, 1, 0))
    transformer.set_raw_scale("data", 255)
    transformer.set_mean("data", [104, 117, 123])
    transformer.set_input_scale("data", 0.5)
    red = transformer.preprocess("data", np.array([[[1, 0, 0]]], np.float32))
    np.testing.assert_allclose(red[:, 0, 0], [-52, -58.5, 66])
    with pytest.raises(DataError, match="3 channels, the mean has 2"):
        transformer.set_mean("data", [1, 2])
    with pytest.raises(DataError, match=r'"dat" is no input.*"data"'):
        transformer.set_raw_scale("dat", 1)


def test_oversample_gives_corners_centre_and_mirrors() -> None:
    """Ten crops a picture, in Caffe's order."""
    picture = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
    crops = caffe.io.oversample([picture], (2, 2))
    assert crops.shape == (10, 2, 2, 1)
    assert crops[:5, 0, 0, 0].tolist() == [0, 2, 8, 10, 5]
    np.testing.assert_array_equal(crops[5:], crops[:5, :, ::-1])


def test_messages_and_arrays() -> None:
    """Datum and BlobProto come back as they went in, gradient and label included."""
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    datum = caffe.io.array_to_datum(pixels, 7)
    np.testing.assert_array_equal(caffe.io.datum_to_array(datum), pixels)
    floats = caffe.io.datum_to_array(caffe.io.array_to_datum(pixels / 2))
    assert datum.label == 7 and floats.dtype == np.float32
    np.testing.assert_array_equal(floats, pixels / 2)
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    blob = caffe.io.array_to_blobproto(values, -values)
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(blob), values)
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(blob, return_diff=True), -values)
    text = caffe.io.arraylist_to_blobprotovector_str([values, pixels])
    assert [array.shape for array in caffe.io.blobprotovector_str_to_arraylist(text)] == [(2, 3), (3, 2, 2)]
    with pytest.raises(DataError, match="needs 12 numbers"):
        caffe.io.datum_to_array(caffe.proto.caffe_pb2.Datum(channels=3, height=2, width=2, data=b"123"))


def test_detector_scores_windows_with_their_context(tmp_path: Path) -> None:
    """Windows in pixels; beyond the picture lies the mean; any number of windows of any size."""
    picture = np.zeros((20, 20, 3), np.float32)
    picture[:10] = 1
    cv2.imwrite(str(tmp_path / "p.png"), (picture * 255).astype(np.uint8))
    plain = caffe.Detector(parse_net(MEAN))
    found = plain.detect_windows([(str(tmp_path / "p.png"), [(0, 0, 10, 10), (5, 0, 15, 20), (12, 3, 18, 9)])])
    np.testing.assert_allclose([entry["prediction"][0] for entry in found], [1, 0.5, 0], atol=0.05)
    assert found[0]["window"].tolist() == [0, 0, 10, 10] and found[0]["filename"].endswith("p.png")
    padded = caffe.Detector(parse_net(MEAN), mean=np.full(3, 0.25), context_pad=1)
    corner = padded.crop(picture, (0, 0, 8, 8))
    assert corner.shape == (6, 6, 3)
    np.testing.assert_allclose(corner[0], 0.25)
    np.testing.assert_allclose(corner[1:, 1:], 1)
    with pytest.raises(DataError, match="holds nothing"):
        plain.crop(picture, (5, 5, 5, 9))
    with pytest.raises(DataError, match="detect_windows"):
        plain.detect_selective_search([])


def test_coord_map_aligns_a_score_map_with_its_picture() -> None:
    """Convolution, pooling and deconvolution are followed; the crop has the offset that Caffe's rule gives."""
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 1, 100, 100]))
    n.conv = L.Convolution(n.data, kernel_size=5, pad=10, num_output=1)
    n.relu = L.ReLU(n.conv, in_place=True)
    n.pool = L.Pooling(n.relu, kernel_size=2, stride=2)
    n.up = L.Deconvolution(n.pool, convolution_param=dict(kernel_size=4, stride=2, num_output=1))
    axis, a, b = coord_map.coord_map_from_to(n.up, n.data)
    assert axis == 1 and a == 1 and b == -9
    n.crop = coord_map.crop(n.up, n.data)
    layer = n.to_proto().layer[-1]
    assert layer.crop_param.axis == 2 and list(layer.crop_param.offset) == [9]
    net = caffe.Net(n.to_proto(), caffe.TEST)
    assert net.blobs["crop"].shape == (1, 1, 100, 100)
    with pytest.raises(NetError, match="differ in scale"):
        coord_map.crop(n.pool, n.data)
    with pytest.raises(coord_map.UndefinedMapException, match="no path"):
        coord_map.coord_map_from_to(L.InnerProduct(n.data, num_output=1), n.data)
    with pytest.raises(coord_map.AxisMismatchException):
        coord_map.compose((1, 1, 0), (2, 1, 0))


def test_a_net_is_drawn_to_a_file_and_to_bytes(tmp_path: Path) -> None:
    """``caffe.draw`` without Graphviz: the layers of the phase asked for, in the format of the name."""
    text = MEAN + 'layer { name: "only_test" type: "ReLU" bottom: "mean" top: "r" include { phase: TEST } }'
    caffe.draw.draw_net_to_file(parse_net(text), tmp_path / "net.svg", "TB", caffe.TEST)
    assert "only_test" in (tmp_path / "net.svg").read_text()
    assert b"only_test" not in caffe.draw.draw_net(parse_net(text), ext="svg", phase=caffe.TRAIN)
    assert caffe.draw.draw_net(parse_net(text)).startswith(b"\x89PNG")


def test_module_names_are_caffes(repository: Path) -> None:
    """Submodules import by name, and after install_as_caffe under the name caffe; a real one is not hidden unasked."""
    code = (
        "import cosdask.pycaffe.proto.caffe_pb2 as one\n"
        "from cosdask.pycaffe.proto import caffe_pb2 as two\n"
        "import cosdask.pycaffe as ours\n"
        "ours.install_as_caffe()\n"
        "import caffe, caffe.io\n"
        "from caffe.proto import caffe_pb2 as three\n"
        "from caffe import layers as L, params as P, to_proto\n"
        "assert one is two is three and caffe is ours and caffe.io is ours.io\n"
        "assert 'Convolution' in caffe.layer_type_list() and (caffe.TRAIN, caffe.TEST) == (0, 1)\n"
        "ours.uninstall_as_caffe()\n"
        "import sys, types; sys.modules['caffe'] = types.ModuleType('caffe')\n"
        "try: ours.install_as_caffe()\n"
        "except ours.alias.ConfigError as error: print(error)\n"
        "ours.install_as_caffe(replace=True); assert sys.modules['caffe'] is ours\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repository, timeout=120)
    assert done.returncode == 0 and "replace=True" in done.stdout, done.stderr


def test_a_prototxt_names_no_module_that_was_not_loaded_or_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 10: a net file runs no code that its user did not run or allow himself."""
    (tmp_path / "lurking.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = 'layer { name: "p" type: "Python" top: "x" python_param { module: "lurking" layer: "Evil" } }'
    with pytest.raises(NetError, match="allow_python_layers"):
        caffe.Net(parse_net(text), caffe.TEST)
    with pytest.raises(NetError, match=r"no subclass of caffe\.Layer"):
        caffe.Net(parse_net(text.replace("lurking", "subprocess").replace("Evil", "Popen")), caffe.TEST)
