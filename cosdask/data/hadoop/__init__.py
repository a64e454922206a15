"""Hadoop's own formats: SequenceFiles, Writables, and the Java keys that CaffeOnSpark put into them."""

from cosdask.data.hadoop.codecs import CODECS
from cosdask.data.hadoop.keys import KeyReader, RowKey, pair_key, read_key, row_key
from cosdask.data.hadoop.sequence import Chunk, Header, Record, SequenceReader
from cosdask.data.hadoop.writables import BYTES, TEXT, read_bytes, read_writable, write_bytes, write_text
from cosdask.data.hadoop.write import COMPRESSIONS, SequenceWriter

__all__ = [
    "BYTES",
    "CODECS",
    "COMPRESSIONS",
    "TEXT",
    "Chunk",
    "Header",
    "KeyReader",
    "Record",
    "RowKey",
    "SequenceReader",
    "SequenceWriter",
    "pair_key",
    "read_bytes",
    "read_key",
    "read_writable",
    "row_key",
    "write_bytes",
    "write_text",
]
