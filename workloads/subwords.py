"""Text to subwords and back, as tensor2tensor and MLPerf's transformer have them.

A text is cut into runs of letters and digits and runs of anything else; a single blank between two runs is left out, as
it is put back between two runs of letters and digits. A run ends in "_"; in it "\\" becomes "\\\\", "_" becomes "\\u",
and a character that no subword has becomes its number, "\\228;". From the left, the longest subword that fits is taken.
"""

import re
from collections.abc import Iterable

from perfsuite.workloads.translation import Vocabulary

RESERVED = ("<pad>_", "<EOS>_")
RUN = re.compile(r"[^\W_]+|[\W_]+")
ESCAPED = re.compile(r"\\u|\\\\|\\([0-9]+);")


class Subwords:
    """The subwords of a vocabulary, ids included."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        subwords = vocabulary.symbols[vocabulary.specials :]
        self._ids = dict(zip(subwords, vocabulary.ids(subwords), strict=True))
        self._characters = {character for subword in subwords for character in subword}
        self._longest = max(map(len, subwords))
        self._known: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Ids of a text, without specials. Raises ValueError where a character can neither be written nor escaped."""
        found: list[int] = []
        for index, run in enumerate(RUN.findall(text)):
            if run == " " and index:
                continue
            ids = self._known.get(run)
            if ids is None:
                ids = self._known[run] = self._cut(self._escape(run))
            found += ids
        return found

    def text(self, ids: Iterable[int]) -> str:
        """The text of ids up to the first EOS or PAD."""
        runs = [self._unescape(run) for run in "".join(self.vocabulary.text_of(ids)).split("_") if run]
        text, word_before = [], False
        for run in runs:
            word = run[:1].isalnum()
            text.append(f" {run}" if word and word_before else run)
            word_before = word
        return "".join(text)

    def _escape(self, run: str) -> str:
        run = run.replace("\\", "\\\\").replace("_", "\\u")
        return "".join(c if c in self._characters else f"\\{ord(c)};" for c in run) + "_"

    def _unescape(self, run: str) -> str:
        def character(match: re.Match[str]) -> str:
            if match[1] is None:
                return "_" if match[0] == "\\u" else "\\"
            number = int(match[1])
            return chr(number) if number <= 0x10FFFF else "\ufffd"

        return ESCAPED.sub(character, run)

    def _cut(self, run: str) -> list[int]:
        ids, start = [], 0
        while start < len(run):
            for end in range(min(len(run), start + self._longest), start, -1):
                if run[start:end] in self._ids:
                    ids.append(self._ids[run[start:end]])
                    start = end
                    break
            else:
                raise ValueError(f"no subword begins {run[start:]!r}: the vocabulary lacks {run[start]!r}")
        return ids


def parse(lines: Iterable[str], specials: Iterable[str]) -> Subwords:
    """Subwords of the lines of a vocabulary file, each in single quotes; its own <pad>_ and <EOS>_ are left out."""
    subwords = [line.strip()[1:-1] for line in lines if line.strip()]
    return Subwords(Vocabulary([subword for subword in subwords if subword not in RESERVED], tuple(specials)))
