"""COCO's files to the tables that LRCN is trained on, as one job."""

from __future__ import annotations

from dataclasses import dataclass

from cosdask.captions.coco import coco_captions
from cosdask.captions.embedding import embed_captions, embed_images
from cosdask.captions.vocab import Vocab
from cosdask.data import write_table
from cosdask.errors import ConfigError
from cosdask.storage import exists, refuse_overwrite

__all__ = ["CocoTables", "convert_coco"]


@dataclass(frozen=True)
class CocoTables:
    """What :func:`convert_coco` wrote.

    Attributes:
        captions: rows of the caption table; 0 where none was asked for.
        embedded: rows of the embedded table; 0 where none was asked for.
        vocab: None for images without captions.
        vocab_reused: whether the vocabulary was there before.
    """

    captions: int
    embedded: int
    vocab: Vocab | None
    vocab_reused: bool


def convert_coco(
    caption_file: str,
    image_root: str = "",
    *,
    captions: str = "",
    vocab: str = "",
    embedded: str = "",
    vocab_size: int = -1,
    length: int = 20,
    form: str = "json",
    overwrite: bool = False,
) -> CocoTables:
    """Write the caption table, the vocabulary and the embedded table of a captions file.

    Rows are read, embedded and written by the workers of the current Dask client, or by threads without one.

    Args:
        caption_file: captions in COCO's JSON; see :func:`cosdask.captions.coco_captions`.
        image_root: folder of the images; needed for the embedded table.
        captions: folder for the caption table (JSON lines); none without a name.
        vocab: the vocabulary. One that is there is used as it is, so that test rows get the training's numbers; else it
            is made from the captions and, where it has a name, saved.
        embedded: folder for the embedded table; none without a name. Without captions in the file it has images alone.
        vocab_size: words of a new vocabulary; all for 0 or less.
        length: of the caption vectors.
        form: ``"json"`` or ``"parquet"``, of the embedded table.
        overwrite: replace tables that are there.

    Raises:
        ConfigError: nothing to write, or no ``image_root`` for the embedded table.
        StorageError: a table is there already, or the vocabulary's or the captions' file is missing.
        DataError: a file that is not what it should be, or an image that cannot be read, with its row.
    """
    if not (captions or vocab or embedded):
        raise ConfigError(
            "nothing to write: name the caption table, the vocabulary or the embedded table (-imageCaptionDFDir, "
            "-vocabDir, -embeddingDFDir)"
        )
    if embedded and not image_root:
        raise ConfigError("the embedded table holds images: name their folder with -imageRoot", option="imageRoot")
    for table in filter(None, (captions, embedded)):
        refuse_overwrite(table, overwrite)
    frame = coco_captions(caption_file)
    told = write_table(frame, captions, "json", overwrite) if captions else 0
    if "caption" not in frame.columns:
        rows = write_table(embed_images(frame, image_root), embedded, form, overwrite) if embedded else 0
        return CocoTables(told, rows, None, False)
    reused = bool(vocab) and exists(vocab)
    words = Vocab.load(vocab) if reused else Vocab.from_captions(frame, size=vocab_size)
    if vocab and not reused:
        words.save(vocab)
    rows = 0
    if embedded:
        rows = write_table(embed_captions(frame, image_root, words, length), embedded, form, overwrite)
    return CocoTables(told, rows, words, reused)
