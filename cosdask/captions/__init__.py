"""Captions for images with LRCN: COCO's files, tokens and vocabularies, training rows, and generated sentences.

The names that CaffeOnSpark had are in ``docs/from-caffeonspark.md`` beside those here.
"""

from cosdask.captions.captioner import Caption, Captioner, Search
from cosdask.captions.coco import coco_captions
from cosdask.captions.convert import CocoTables, convert_coco
from cosdask.captions.embedding import caption_vectors, embed_captions, embed_images, embedding_to_captions
from cosdask.captions.pictures import prepare_image
from cosdask.captions.tokens import tokenize
from cosdask.captions.vocab import Vocab

__all__ = [
    "Caption",
    "Captioner",
    "CocoTables",
    "Search",
    "Vocab",
    "caption_vectors",
    "coco_captions",
    "convert_coco",
    "embed_captions",
    "embed_images",
    "embedding_to_captions",
    "prepare_image",
    "tokenize",
]
