"""Where and when a photograph was taken: from a sample's ``.json``, a table, or its EXIF."""

from __future__ import annotations

import datetime
import math
import os
import posixpath
import re
import struct
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

from preprocess.add import (
    FILE_COLUMNS,
    LIMITS,
    METADATA_COLUMNS,
    dict_reader,
    first_of,
    rows_of,
)
from preprocess.csv_text import describe_header, open_csv
from shards.errors import UserError

PLACE_AND_DATE = ("latitude", "longitude", "date")
# ISO 8601, EXIF and what GBIF and iNaturalist write; a month or a span of days is no day.
_DAY = re.compile(r"(\d{4})([-:/])(\d{1,2})\2(\d{1,2})(?:[T ].*)?")


@dataclass(frozen=True, slots=True)
class Sighting:
    """What is known of place and date."""

    place: tuple[float, float] | None = None
    """Latitude and longitude [degrees]."""
    day: int | None = None
    """Of the year, 1 to 366."""

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return self.place is not None or self.day is not None

    def __str__(self) -> str:
        """``place and season``, one of them, or nothing."""
        known = (("place", self.place), ("season", self.day))
        return " and ".join(name for name, value in known if value is not None)


def sighting_of(known: Mapping[str, Any]) -> Sighting:
    """From any of ``latitude``, ``longitude`` and ``date``; what makes no sense counts as not known."""
    latitude, longitude = (_degrees(known, name) for name in ("latitude", "longitude"))
    place = None if latitude is None or longitude is None else (latitude, longitude)
    return Sighting(place, _day_of_year(str(known.get("date", ""))))


def _degrees(known: Mapping[str, Any], name: str) -> float | None:
    try:
        value = float(known[name])
    except (KeyError, TypeError, ValueError):
        return None
    return value if abs(value) <= LIMITS[name] else None


def _day_of_year(text: str) -> int | None:
    found = _DAY.fullmatch(text.strip())
    if found is None:
        return None
    try:
        date = datetime.date(int(found[1]), int(found[3]), int(found[4]))
    except ValueError:
        return None
    return date.timetuple().tm_yday


def read_places(file: Path) -> dict[str, Sighting]:
    """Place and date of the photographs of a table, by the path that it gives.

    Args:
        file: CSV with the columns that ``--add`` takes; labels need not be there.

    Raises:
        UserError: It is no such table, tells of no place and no date, or says two things of one
            photograph.
    """
    known: dict[str, Sighting] = {}
    senseless: list[str] = []
    with open_csv(file) as stream:
        reader = dict_reader(stream, file, ("file",))
        columns = list(reader.fieldnames or ())
        if not any(set(METADATA_COLUMNS[name]) & set(columns) for name in PLACE_AND_DATE):
            raise UserError(
                f"{file} has no column for place or date: its header is {describe_header(columns)}"
                f", expected any of {','.join(PLACE_AND_DATE)}"
            )
        for row in rows_of(reader, file):
            if path := first_of(row, FILE_COLUMNS):
                values = {name: first_of(row, METADATA_COLUMNS[name]) for name in PLACE_AND_DATE}
                found, name = sighting_of(values), posixpath.normpath(path)
                if known.setdefault(name, found) != found:
                    raise UserError(
                        f"{file} names {path} twice, with different places or dates; leave one row"
                    )
                where = f"{values['latitude']},{values['longitude']}"
                if found.place is None and where != ",":
                    senseless.append(where)
                if found.day is None and values["date"]:
                    senseless.append(str(values["date"]))
    if not any(known.values()):
        raise UserError(
            f"{file} tells place or date of none of {len(known):,} photographs; expected degrees such "
            "as 47.5,-122.3 and dates such as 2026-09-14"
        )
    if senseless:
        click.echo(
            f"note: {file}: {len(senseless):,} places or dates make no sense and count as not known, such "
            f"as {senseless[0]!r}",
            err=True,
        )
    return known


def exif_sighting(photo: Path) -> Sighting:
    """From a photograph's own EXIF: its GPS position and DateTimeOriginal; empty where it has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about EXIF that is damaged
            with Image.open(photo) as image:
                exif = image.getexif()
                gps, details = exif.get_ifd(IFD.GPSInfo), exif.get_ifd(IFD.Exif)
        return sighting_of(
            {
                "latitude": _from_gps(gps, GPS.GPSLatitude, "S"),
                "longitude": _from_gps(gps, GPS.GPSLongitude, "W"),
                "date": details.get(Base.DateTimeOriginal, ""),
            }
        )
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        SyntaxError,
        ArithmeticError,
        struct.error,
        Image.DecompressionBombError,
    ):
        return Sighting()


def _from_gps(gps: Mapping[int, Any], tag: int, negative: str) -> float:
    """Degrees, minutes and seconds as one number; its sign is in the tag before."""
    degrees, minutes, seconds = (float(each) for each in gps.get(tag, (math.nan,) * 3))
    value = degrees + minutes / 60 + seconds / 3600
    return -value if str(gps.get(tag - 1, "")).strip("\0 ").upper() == negative else value


def places_by_file(tables: Iterable[Path]) -> dict[str, Sighting]:
    """Of the photographs of tables, by absolute path: files are relative to their table.

    Raises:
        UserError: As in :func:`read_places`.
    """
    return {
        os.path.abspath(table.parent / path): known
        for table in tables
        for path, known in read_places(table).items()
    }


def photo_sighting(photo: Path, by_file: Mapping[str, Sighting]) -> Sighting:
    """As tables have it; where they say nothing, as EXIF has it."""
    return by_file.get(os.path.abspath(photo)) or exif_sighting(photo)
