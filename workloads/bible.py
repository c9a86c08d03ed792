"""The Bible in English and Spanish as a corpus: verses in subwords, whole books held out for evaluation.

bible.xz and bible_es.xz hold the same books, and the same verses of each line by line; a line of the latter is empty
where no verse answers. bible_subwords.xz was learnt from the books that are not held out (data/build.py makes all).
"""

from pathlib import Path

from perfsuite.workloads import subwords
from perfsuite.workloads.translation import SPECIALS, Corpus, Pairs, pairs, read_documents, unpacked

FILES = ("bible.xz", "bible_es.xz", "bible_subwords.xz")
HELD_OUT = ("Esther", "Job", "Daniel", "John", "1 Corinthians", "James", "Revelation")


def read_verses(folder: Path, eval_samples: int) -> Corpus:
    """English verses to Spanish ones. Evaluation: `eval_samples` verses at even distances in the held-out books.

    A training verse is left out where its text, in either language and whatever its case, is also a held-out verse's.
    Raises FileNotFoundError for a missing file and ValueError where fewer verses are held out.
    """
    english, spanish = (read_documents(folder / name) for name in FILES[:2])
    text = subwords.parse(unpacked(folder / FILES[2]).splitlines(), SPECIALS)
    train, held_out = [], []
    for book in english:
        verses = zip(english[book].split("\n"), spanish[book].split("\n"), strict=True)
        (held_out if book in HELD_OUT else train).extend(verse for verse in verses if verse[1])
    if len(held_out) < eval_samples:
        raise ValueError(f"only {len(held_out)} verses are held out, not {eval_samples}: choose fewer eval_samples")
    known = {side.casefold() for verse in held_out for side in verse}
    train = [verse for verse in train if not known & {side.casefold() for side in verse}]
    evaluation = [held_out[index * len(held_out) // eval_samples] for index in range(eval_samples)]

    def of(verses: list[tuple[str, str]]) -> Pairs:
        return pairs((text.ids(source) for source, _ in verses), (text.ids(target) for _, target in verses))

    return Corpus(of(train), of(evaluation), [target for _, target in evaluation], len(text.vocabulary), text.text)
