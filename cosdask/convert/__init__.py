"""Data sets from one format to another, their mean image, and a look at their first rows."""

from cosdask.convert.inputs import INPUT_KINDS, detect, open_input
from cosdask.convert.job import KINDS, Converted, convert
from cosdask.convert.listed import ListInput
from cosdask.convert.parts import Form
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
    "Pictures",
    "SourceInput",
    "convert",
    "detect",
    "open_input",
    "row_schema",
]
