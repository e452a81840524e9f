"""Records: what a number is, the file it lives in, the frame it is read from. Nothing here needs torch."""

from softbench.records.files import FULL, append, check_writable, expand, latest, read, write_whole
from softbench.records.frame import load, to_frame
from softbench.records.record import (
    COMPARABLE,
    SCHEMA,
    STATUSES,
    UNFINISHED,
    UNITS,
    WHOLE_TASK,
    About,
    Origin,
    Point,
    Reading,
    Record,
    finite,
    from_json,
    make,
    origin,
)

__all__ = [
    "COMPARABLE", "FULL", "SCHEMA", "STATUSES", "UNFINISHED", "UNITS", "WHOLE_TASK", "About", "Origin",
    "Point", "Reading", "Record", "append", "check_writable", "expand", "finite", "from_json", "latest",
    "load", "make", "origin", "read", "to_frame", "write_whole",
]
