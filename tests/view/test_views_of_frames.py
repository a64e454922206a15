"""Tables with pictures: what a notebook draws is what the rows hold."""

from __future__ import annotations

import base64
import re
from typing import Any

import cv2
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import cosdask
from cosdask.errors import DataError
from cosdask.view import get_image, get_np_array, image_tag


def picture(channels: int = 3, seed: int = 0) -> np.ndarray:
    """RGB or gray pixels, (12, 16, channels)."""
    return np.random.default_rng(seed).integers(0, 256, (12, 16, channels), dtype=np.uint8)


def shown(html: str) -> list[np.ndarray]:
    """The pictures in a piece of HTML, RGB."""
    found = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', html)
    return [
        cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1] for text in found
    ]


def forms(pixels: np.ndarray) -> dict[str, dict[str, Any]]:
    """One picture as each kind of row; raw pixels and files are BGR."""
    bgr = pixels[:, :, ::-1]
    data = bytes(cv2.imencode(".png", bgr)[1])
    return {
        "encoded": {"data": data},
        "raw": {"data": bgr.tobytes(), "height": 12, "width": 16},
        "raw with all": {"data": bgr.tobytes(), "height": 12, "width": 16, "channels": bgr.shape[2], "encoded": False},
        "struct": {"data": {"image": data, "height": 12, "width": 16}},
        "struct of signed numbers": {
            "data": {"image": np.frombuffer(data, np.int8).tolist(), "height": 12, "width": 16}
        },
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", list(forms(picture())))
def test_every_kind_of_row_is_drawn_as_it_is(form: str, channels: int) -> None:
    """Colour, gray, encoded, raw: the PNG in the table has the row's pixels, red as red."""
    pixels = picture(channels)
    row = forms(pixels)[form]
    np.testing.assert_array_equal(get_np_array(row), pixels if channels == 3 else pixels[:, :, 0])
    table = cosdask.show_df(pd.DataFrame([{"id": "a<b", "label": "7", **row}]))
    (drawn,) = shown(table._repr_html_())
    np.testing.assert_array_equal(drawn, np.broadcast_to(pixels, (12, 16, 3)))
    assert "a&lt;b" in str(table) and "<td>7</td>" in str(table)


def test_the_first_rows_of_a_dask_frame_are_shown() -> None:
    """As many as asked for, over partitions, empty ones among them; Arrow types as sources give them."""
    data = pd.array(
        pa.array([forms(picture(seed=i))["encoded"]["data"] for i in range(5)], pa.binary()),
        dtype=pd.ArrowDtype(pa.binary()),
    )
    frame = pd.DataFrame({"id": [f"n{i}" for i in range(5)], "data": data})
    parts = [frame.iloc[:0], frame.iloc[:2], frame.iloc[2:]]
    lazy = dd.from_map(lambda i: parts[i], range(3), meta=frame.iloc[:0])
    table = str(cosdask.show_df(lazy, nrows=3))
    assert re.findall("<td>(n[0-9])", table) == ["n0", "n1", "n2"]
    for i, drawn in enumerate(shown(table)):
        np.testing.assert_array_equal(drawn, picture(seed=i))


def test_captions_stand_beside_their_pictures() -> None:
    """Image Id, Image, Prediction; text is escaped."""
    frame = pd.DataFrame([{"id": "1", "prediction": "A <b> cat.", **forms(picture())["struct"]}])
    table = str(cosdask.show_captions(frame))
    assert re.findall("<th>(.*?)</th>", table) == ["Image Id", "Image", "Prediction"]
    assert "A &lt;b&gt; cat." in table and len(shown(table)) == 1
    with pytest.raises(DataError, match=r"no column \'caption\'"):
        cosdask.show_captions(frame, column="caption")


def test_captions_stand_under_pictures_side_by_side() -> None:
    """Each caption in its picture's cell, so many cells a row, the last row as short as it is."""
    rows = [{"id": str(i), "prediction": f"Cat {i}.", **forms(picture(seed=i))["struct"]} for i in range(5)]
    table = str(cosdask.show_captions(pd.DataFrame(rows), across=2))
    assert [row.count("<td") for row in table.split("<tr>")[1:]] == [2, 2, 1]
    for i, cell in enumerate(table.split("<td")[1:]):
        np.testing.assert_array_equal(shown(cell)[0], picture(seed=i))
        assert f"<br>Cat {i}.</td>" in cell


def test_large_pictures_become_small_and_small_ones_large() -> None:
    """A notebook's file stays small, and a digit can be seen."""
    photo = cv2.resize(picture(), (1500, 600))
    (drawn,) = shown(image_tag(photo))
    assert drawn.shape == (77, 192, 3) and len(image_tag(photo)) < 40_000
    digit = image_tag(np.linspace(0, 1, 28 * 28).reshape(28, 28).astype(np.float32))
    assert 'height="56" width="56"' in digit
    assert shown(digit)[0][:, :, 0].ravel()[[0, -1]].tolist() == [0, 255]


def test_what_is_no_picture_is_refused_by_its_row() -> None:
    """The error says which row and what was missing (invariant 8)."""
    good = forms(picture())["raw"]
    with pytest.raises(DataError, match=r"row b: 576 bytes .* height 5"):
        cosdask.show_df(pd.DataFrame([{"id": "a", **good}, {"id": "b", **good, "height": 5}]))
    with pytest.raises(DataError, match="no column 'data'"):
        cosdask.show_df(pd.DataFrame({"date": [1]}))
    with pytest.raises(DataError, match="shape"):
        image_tag(np.zeros((2, 3, 4, 5)))
    with pytest.raises(DataError, match="no image"):
        get_image(b"nothing")
