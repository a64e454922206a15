"""Generated sentences: what the loops choose is what the net says, alone or in a batch, here or on a cluster."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import cv2
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from small_lrcn import IMAGE_NET, WORD_NET, WORDS, captioner, features, nets, pictures

from cosdask import Net
from cosdask.captions import Captioner, Vocab
from cosdask.captions.search import beam_words
from cosdask.errors import ConfigError, DataError, NetError, WeightsError

LONGEST = 6


def step_by_step(row: np.ndarray, words: list[int]) -> list[np.ndarray]:
    """The probabilities of the next word after each beginning, from ``Net.forward`` with its carried state."""
    _, net = nets()
    found = []
    for step, word in enumerate([0, *words]):
        inputs = {
            "cont_sentence": np.full((1, 1), float(step > 0)),
            "input_sentence": np.full((1, 1), float(word)),
            "image_features": row[None],
        }
        found.append(net.forward(inputs, ["probs"])["probs"].ravel())
    return found


def greedy(row: np.ndarray) -> tuple[int, ...]:
    words: list[int] = []
    while len(words) < LONGEST:
        best = int(step_by_step(row, words)[-1].argmax())
        if best == 0:
            break
        words.append(best)
    return tuple(words)


def score(row: np.ndarray, words: tuple[int, ...], ended: bool) -> float:
    probs = step_by_step(row, list(words))
    chosen = [*words, *([0] if ended else [])]
    return float(sum(np.log(p[word]) for p, word in zip(probs, chosen, strict=False)))


def test_greedy_is_the_likeliest_word_at_each_step() -> None:
    """The compiled loop does what one net.forward a word does (sheet 5.5), sentence end and length limit included."""
    rows = features(12)
    found = captioner().generate(rows, longest=LONGEST)
    assert [caption.words for caption in found] == [greedy(row) for row in rows]
    assert len({caption.words for caption in found}) > 3 and {caption.ended for caption in found} == {True, False}
    for row, caption in zip(rows, found, strict=True):
        assert caption.score == pytest.approx(score(row, caption.words, caption.ended), rel=1e-4)


def test_the_text_is_a_sentence() -> None:
    """First letter large; a full stop where the net ended it, three where the length did."""
    vocab = Vocab(WORDS)
    for caption in captioner().generate(features(12), longest=LONGEST):
        text = vocab.decode(caption.words)
        assert caption.text == text[:1].upper() + text[1:] + ("." if caption.ended else "...")


@pytest.mark.parametrize("how", [{}, {"temperature": 2.5, "seed": 4}, {"beam": 3}], ids=str)
def test_together_or_one_by_one_is_the_same(how: dict[str, Any]) -> None:
    """A sentence depends on its image (and, drawn, on its id), never on who else is in the batch of 4."""
    rows = features(10)
    together = captioner().generate(rows, longest=LONGEST, **how)
    alone = [captioner(1).generate(rows[i : i + 1], longest=LONGEST, ids=[i], **how)[0] for i in range(10)]
    assert [c.words for c in together] == [c.words for c in alone]
    np.testing.assert_allclose([c.score for c in together], [c.score for c in alone], rtol=1e-4)


def test_a_beam_of_one_is_greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the beam search's own loop, which generate() would not use for a beam of 1."""
    rows = features(8)
    greedy_found = [caption.words for caption in captioner().generate(rows, longest=LONGEST)]
    called = []

    def by_beam(step: Any, states: Any, count: int, longest: int, *_: Any) -> Any:
        called.append(count)
        return beam_words(step, states, count, longest, 1)

    monkeypatch.setattr("cosdask.captions.captioner.choose_words", by_beam)
    # another length limit, so that nothing compiled before is used
    found = captioner().generate(rows, longest=LONGEST + 1)
    assert [caption.words[:LONGEST] for caption in found] == greedy_found and called == [4]


def test_a_beam_as_wide_as_all_sentences_finds_the_likeliest_one() -> None:
    """Two words at most: 1 + 7 + 49 sentences; the beam keeps more beginnings than there are words."""
    rows = features(3)
    found = captioner().generate(rows, beam=8, longest=2)
    for row, caption in zip(rows, found, strict=True):
        ended = [()] + [(word,) for word in range(1, 8)]
        every = {words: score(row, words, True) for words in ended}
        every.update({words: score(row, words, False) for words in itertools.product(range(1, 8), repeat=2)})
        best = max(every, key=lambda words: every[words])
        assert caption.words == best and caption.score == pytest.approx(every[best], rel=1e-4)


def test_a_length_power_prefers_longer_sentences() -> None:
    """Mean logarithms instead of sums: no sentence gets shorter, some get longer."""
    rows = features(8)
    short, long = (captioner().generate(rows, beam=4, longest=LONGEST, length_power=p) for p in (0.0, 1.0))
    assert sum(len(c.words) for c in long) > sum(len(c.words) for c in short)
    assert sum(c.score for c in long) <= sum(c.score for c in short) + 1e-4


def test_draws_follow_the_probabilities() -> None:
    """Temperature 1 draws first words as often as the net says; the seed decides, and is all that decides."""
    row = features(1)
    many = np.repeat(row, 1500, axis=0)
    wide = captioner(500)
    found = wide.generate(many, temperature=1, longest=1, seed=5)
    counts = np.bincount([c.words[0] if c.words else 0 for c in found], minlength=8) / 1500
    np.testing.assert_allclose(counts, step_by_step(row[0], [])[0], atol=0.05)
    assert wide.generate(many, temperature=1, longest=1, seed=5) == found
    assert wide.generate(many, temperature=1, longest=1, seed=6) != found


# -- images and frames -----------------------------------------------------------------------------------------------


def encoded(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image[:, :, ::-1])[1])


def test_images_in_any_form_give_the_same_sentence() -> None:
    """The bytes of a file, or RGB pixels; gray pixels are three equal channels."""
    images = pictures(3)
    as_pixels = captioner().generate(images, longest=LONGEST)
    assert captioner().generate([encoded(image) for image in images], longest=LONGEST) == as_pixels
    gray = images[0][:, :, 0]
    np.testing.assert_array_equal(
        captioner().features([gray, np.repeat(gray[:, :, None], 3, axis=2)]),
        captioner().features([gray[:, :, None]] * 2),
    )


def test_a_frame_gets_a_prediction_a_row() -> None:
    """pandas and dask, bytes or structs; partitions, even empty ones, change nothing; the captioner pickles."""
    images = [encoded(image) for image in pictures(7)]
    ids = [f"image-{i}" for i in range(7)]
    expected = [c.text for c in captioner().generate(images, temperature=1, longest=LONGEST, ids=ids)]
    kind = pa.struct([("height", pa.int32()), ("width", pa.int32()), ("image", pa.binary())])
    cells = pa.array([{"height": 20, "width": 26, "image": data} for data in images], kind)
    frame = pd.DataFrame(
        {"id": pd.array(ids, dtype=pd.ArrowDtype(pa.string())), "data": pd.array(cells, dtype=pd.ArrowDtype(kind))}
    )
    twin = pickle.loads(pickle.dumps(captioner()))
    assert list(twin.predictions(frame, temperature=1, longest=LONGEST)["prediction"]) == expected
    parts = [frame.iloc[:3], frame.iloc[3:3], frame.iloc[3:]]
    lazy = captioner().predictions(
        dd.from_map(lambda i: parts[i], range(3), meta=frame.iloc[:0]), temperature=1, longest=LONGEST
    )
    assert list(lazy.columns) == ["id", "prediction"]
    found = lazy.compute(scheduler="threads")
    assert list(found["id"]) == ids and list(found["prediction"]) == expected
    assert (lazy.dtypes == found.dtypes).all()
    bare = pd.DataFrame({"id": ids, "data": images})
    assert list(captioner().predictions(bare, temperature=1, longest=LONGEST)["prediction"]) == expected


# -- what is refused -------------------------------------------------------------------------------------------------


def test_wrong_settings_are_refused_with_the_remedy(tmp_path: Path) -> None:
    """Before anything is generated (invariant 8)."""
    image, words = nets()
    with pytest.raises(ConfigError, match=r"8 classes, the vocabulary 7.*legacy=False"):
        Captioner(image, words, Vocab(WORDS, legacy=True))
    with pytest.raises(ConfigError, match=r"8 classes, the vocabulary 5.*Take 6 words"):
        Captioner(image, words, Vocab(WORDS[:3]))
    with pytest.raises(NetError, match=r'no blob "fc9".*"fc8"'):
        Captioner(image, words, Vocab(WORDS), features="fc9")
    with pytest.raises(NetError, match=r'no input "image_feature".*"image_features"'):
        Captioner(image, words, Vocab(WORDS), inputs=("cont_sentence", "input_sentence", "image_feature"))
    image.save(tmp_path / "image.caffemodel")
    with pytest.raises(WeightsError, match='lacks weights of the net "words"'):
        Captioner(image, words, Vocab(WORDS), weights=tmp_path / "image.caffemodel")
    for how, problem in (
        ({"beam": 0}, "beam"),
        ({"beam": 9}, "8 classes"),
        ({"beam": 2, "temperature": 1}, "draws"),
        ({"temperature": 0}, "above 0"),
    ):
        with pytest.raises(ConfigError, match=problem):
            captioner().generate(features(1), **how)  # type: ignore[arg-type]


def test_both_nets_load_from_one_file(tmp_path: Path) -> None:
    """By layer name, as the deploy nets of LRCN do."""
    both = Net.from_text(IMAGE_NET + WORD_NET.replace('name: "words"', ""), seed=9)
    both.save(tmp_path / "both.caffemodel")
    made = Captioner(
        Net.from_text(IMAGE_NET), Net.from_text(WORD_NET), Vocab(WORDS), weights=tmp_path / "both.caffemodel"
    )
    for net in (made.image_net, made.word_net):
        for layer, blobs in net.to_blobs(net.params).items():
            for mine, wanted in zip(blobs, both.to_blobs(both.params)[layer], strict=True):
                np.testing.assert_array_equal(mine, wanted)


def test_a_damaged_image_is_named() -> None:
    """By its number, or in a frame by its id."""
    good = encoded(pictures(1)[0])
    with pytest.raises(DataError, match="image 1: no image"):
        captioner().generate([good, b"nothing"])
    frame = pd.DataFrame({"id": ["x", "y"], "data": [good, good[:60]]})
    with pytest.raises(DataError, match=r"rows x to y of 'data': image 1"):
        captioner().predictions(frame)
    with pytest.raises(DataError, match=r"no column 'image'"):
        captioner().predictions(frame, column="image")
    with pytest.raises(DataError, match="float32"):
        captioner().generate([np.zeros((4, 4, 3), np.float32)])


def test_weights_that_are_no_numbers_are_noticed() -> None:
    """Never a made-up sentence."""
    image, words = nets()
    broken = words.copy()
    blobs = broken.to_blobs(broken.params)
    blobs["predict"][0][:] = np.nan
    broken.params = broken.from_blobs(blobs)
    with pytest.raises(NetError, match="no numbers"):
        Captioner(image, broken, Vocab(WORDS), batch=4).generate(features(2), longest=LONGEST)
