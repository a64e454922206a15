"""Data sets from one format to another, their mean image, and a look at their first rows."""

from cosdask.convert.features import extract_features
from cosdask.convert.inputs import INPUT_KINDS, detect, open_input
from cosdask.convert.job import KINDS, Converted, convert
from cosdask.convert.listed import ListInput
from cosdask.convert.mean import mean_image, write_mean
from cosdask.convert.parts import Form
from cosdask.convert.peek import Peek, peek
from cosdask.convert.pictures import ENCODINGS, Pictures
from cosdask.convert.rows import Input, SourceInput, row_schema

__all__ = [
    "ENCODINGS",
    "INPUT_KINDS",
    "KINDS",
    "Converted",
    "Form",
    "Input",
    "ListInput",
    "Peek",
    "Pictures",
    "SourceInput",
    "convert",
    "detect",
    "extract_features",
    "mean_image",
    "open_input",
    "peek",
    "row_schema",
    "write_mean",
]
