"""WMT16 English-German as MLPerf's reference for gnmt prepares it: text files, split into subwords with BPE.

vocab.bpe.32000                     a symbol a line, none of them special
train.tok.clean.bpe.32000.en, .de   a sentence a line, a blank between symbols; "@@" joins a symbol to the next
newstest2014.tok.bpe.32000.en       the same, for evaluation
newstest2014.de                     its translations as plain text
"""

from collections.abc import Iterator
from pathlib import Path

from perfsuite.workloads.translation import BOS, EOS, Corpus, Pairs, Sequences, Vocabulary

FILES = (
    "vocab.bpe.32000",
    "train.tok.clean.bpe.32000.en",
    "train.tok.clean.bpe.32000.de",
    "newstest2014.tok.bpe.32000.en",
    "newstest2014.de",
)
JOINED = "@@"


def read(folder: Path, how: str) -> Corpus:
    """Training pairs, and newstest2014. Sources, too, begin with BOS, as in the reference.

    how: to get the files, for the message. Raises FileNotFoundError, ImportError without the package sacremoses, and
    ValueError where files are not parallel.
    """
    paths = [folder / name for name in FILES]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: {how}")
    try:
        from sacremoses import MosesDetokenizer
    except ImportError as error:
        raise ImportError("translations are detokenized by sacremoses: pip install 'perfsuite[workloads]'") from error
    vocabulary_file, source, target, test, references = paths
    vocabulary = Vocabulary(lines(vocabulary_file))
    detokenizer = MosesDetokenizer(lang="en")  # the reference runs Moses without a language, which means this one

    def sequences(path: Path) -> Sequences:
        return Sequences([BOS, *vocabulary.ids(line.split()), EOS] for line in lines(path))

    def text(ids: list[int]) -> str:
        joined = " ".join(vocabulary.text_of(ids)).replace(f"{JOINED} ", "").removesuffix(JOINED)
        return detokenizer.detokenize(joined.split())

    train, tests, translations = Pairs(sequences(source), sequences(target)), sequences(test), list(lines(references))
    check_parallel(source, len(train.sources), target, len(train.targets))
    check_parallel(test, len(tests), references, len(translations))
    # Nobody reads the ids of the evaluation's targets: quality compares texts.
    return Corpus(train, Pairs(tests, tests), translations, len(vocabulary), text)


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file without white space around them."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.strip()


def check_parallel(a: Path, a_lines: int, b: Path, b_lines: int) -> None:
    """ValueError where two files have not one line for each sentence."""
    if a_lines != b_lines:
        raise ValueError(f"{a} has {a_lines} lines and {b} has {b_lines}: give files of the same sentences")
