"""Place and date are read where they are known, and nothing is made of what makes no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

from preprocess.sightings import (
    Sighting,
    exif_sighting,
    photo_sighting,
    places_by_file,
    read_places,
    sighting_of,
)
from shards.errors import UserError

SEATTLE = {
    GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: (47.0, 30.0, 36.0),
    GPS.GPSLongitudeRef: "W", GPS.GPSLongitude: (122.0, 15.0, 0.0),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2023-09-14", 257),
        ("2024-09-14T10:20:00Z", 258),
        ("2023:09:14 10:20:00", 257),
        ("2023/1/2", 2),
        ("2024-12-31", 366),
        ("2023-09", None),
        ("2023-09-01/2023-09-30", None),
        ("2023-02-30", None),
        ("autumn", None),
        ("", None),
    ],
)
def test_a_day_is_read_and_a_month_or_a_span_is_none(text: str, day: int | None) -> None:
    assert sighting_of({"date": text}).day == day


@pytest.mark.parametrize(
    ("latitude", "longitude", "known"),
    [(47.5, -122.25, True), ("47.5", "-122.25", True), (91, 0, False), (1, "nan", False), ("", 3, False)],
)  # fmt: skip
def test_a_place_needs_two_numbers_that_are_possible(
    latitude: Any, longitude: Any, known: bool
) -> None:
    found = sighting_of({"latitude": latitude, "longitude": longitude})
    assert found == (Sighting((47.5, -122.25)) if known else Sighting())


def test_exif_gives_place_and_date_with_their_signs(
    tmp_path: Path, photo: Any, rng: np.random.Generator
) -> None:
    exif = Image.Exif()
    exif.get_ifd(IFD.GPSInfo).update(SEATTLE)
    exif.get_ifd(IFD.Exif)[Base.DateTimeOriginal] = "2023:09:14 10:20:00"
    file = tmp_path / "a.jpg"
    Image.fromarray(photo(rng, 40, 30)).save(file, exif=exif)
    found = exif_sighting(file)
    assert found.place == pytest.approx((47.51, -122.25))
    assert found.day == 257


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"\xff\xd8\xff\xe1\x00\x10Exif\0\0II*\0\xff\xff\xff\xff", None],
    ids=["empty", "page", "damaged", "missing"],
)
def test_a_file_without_exif_tells_nothing(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.jpg").write_bytes(content)
    assert exif_sighting(tmp_path / "a.jpg") == Sighting()


@pytest.mark.parametrize("value", [("x", "y", "z"), (1.0,), "47", 3.0])
def test_a_position_of_another_form_tells_nothing(
    tmp_path: Path, photo: Any, rng: np.random.Generator, value: Any, monkeypatch: Any
) -> None:
    Image.fromarray(photo(rng, 40, 30)).save(tmp_path / "a.jpg")
    monkeypatch.setattr(Image.Exif, "get_ifd", lambda *_: {GPS.GPSLatitude: value})
    assert exif_sighting(tmp_path / "a.jpg") == Sighting()


def test_a_table_comes_before_exif_and_its_files_are_relative_to_it(
    tmp_path: Path, photo: Any, rng: np.random.Generator
) -> None:
    (tmp_path / "photos").mkdir()
    exif = Image.Exif()
    exif.get_ifd(IFD.GPSInfo).update(SEATTLE)
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(photo(rng, 40, 30)).save(tmp_path / "photos" / name, exif=exif)
    table = tmp_path / "gbif.tsv"
    table.write_text("file\tdecimalLatitude\tdecimalLongitude\tGBIFx\n./photos/a.jpg\t1\t2\t\n")
    by_file = places_by_file([table])
    assert photo_sighting(tmp_path / "photos" / "a.jpg", by_file).place == (1.0, 2.0)
    second = photo_sighting(tmp_path / "photos" / "b.jpg", by_file).place
    assert second == pytest.approx((47.51, -122.25))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.jpg,x\n", "has no column for place or date: its header is 'path,label', expected "
         "any of latitude,longitude,date"),
        ("name,date\na,2023-01-01\n", "has no file column: its header is 'name,date', expected file or"),
        ("file,date\na.jpg,spring\n", "tells place or date of none of 1 photographs; expected degrees such "
         "as 47.5,-122.3 and dates such as 2026-09-14"),
        ("file,date\na.jpg,2023-01-01\n./a.jpg,2023-02-01\n", "names ./a.jpg twice, with different places "
         "or dates; leave one row"),
    ],
)  # fmt: skip
def test_a_table_that_tells_nothing_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError) as raised:
        read_places(tmp_path / "t.csv")
    assert message in str(raised.value)


def test_values_that_make_no_sense_are_counted_in_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "places.csv"
    table.write_text(
        "file,latitude,longitude,date\na.jpg,47,8,2024-05-01\nb.jpg,91,8,2024-13-45\nc.jpg,,,\n"
    )
    assert [bool(each) for each in read_places(table).values()] == [True, False, False]
    assert capsys.readouterr().err == (
        f"note: {table}: 2 places or dates make no sense and count as not known, such as '91,8'\n"
    )
