"""Rows: where they lie, who reads which when, and how they become the arrays a net is fed."""

from cosdask.data.base import Partition, Source
from cosdask.data.draw import Draw
from cosdask.data.feed import Feed, take
from cosdask.data.frame_source import CosFrameSource, FrameSource, arrow_table, frame_source
from cosdask.data.index import Block, Extent, Index
from cosdask.data.plan import RowPlan, Segment, window
from cosdask.data.registry import is_data_layer, layer_top_shapes, open_source, register_source, registered_sources
from cosdask.data.select import get_source
from cosdask.data.shuffle import Shuffle
from cosdask.data.skips import BadRow, Skips
from cosdask.data.table_files import write_table
from cosdask.data.user_modules import allow_source_modules, sources_by_value
from cosdask.data.writers import write_lmdb, write_parquet
from cosdask.data.zipped import ZippedSource

__all__ = [
    "BadRow",
    "Block",
    "CosFrameSource",
    "Draw",
    "Extent",
    "Feed",
    "FrameSource",
    "Index",
    "Partition",
    "RowPlan",
    "Segment",
    "Shuffle",
    "Skips",
    "Source",
    "ZippedSource",
    "allow_source_modules",
    "arrow_table",
    "frame_source",
    "get_source",
    "is_data_layer",
    "layer_top_shapes",
    "open_source",
    "register_source",
    "registered_sources",
    "sources_by_value",
    "take",
    "window",
    "write_lmdb",
    "write_parquet",
    "write_table",
]
