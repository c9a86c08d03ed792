"""What the translators (transformer, gnmt) share: parallel data, batches of padded ids, beam search and the metrics.

A corpus is read once, after run_start, into flat tensors of ids; batches are cut from it by a seeded generator:

    corpus = read_words(folder / "cmudict.xz", eval_samples)
    for batch in batches(corpus.train, buckets, batch_size, generator): ...      Batch(source, source_lengths, target)
    hypotheses = search_all(corpus.evaluation, eval_batch, lambda source, lengths: beam_search(step, state, ...))
    quality = corpus.quality(hypotheses, "phoneme error rate")

Ids 0 to 3 are PAD, EOS, BOS and UNKNOWN. Source and target share one vocabulary. Tensors are made on the CPU.
"""

import lzma
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

PAD, EOS, BOS, UNKNOWN = 0, 1, 2, 3
SPECIALS = ("<pad>", "</s>", "<s>", "<unk>")

PHONEME_ERROR_RATE, BLEU = "phoneme error rate", "BLEU"


class Vocabulary:
    """Symbols and their ids: the specials come first, then `symbols` in their order.

    specials: SPECIALS, or its first two for a vocabulary that needs no BOS and knows every symbol.
    """

    def __init__(self, symbols: Iterable[str], specials: Sequence[str] = SPECIALS) -> None:
        self.specials = len(specials)
        self.symbols = (*specials, *symbols)
        self._ids = {symbol: index for index, symbol in enumerate(self.symbols)}

    def __len__(self) -> int:
        return len(self.symbols)

    def ids(self, symbols: Iterable[str]) -> list[int]:
        """The id of each symbol, UNKNOWN for those that have none."""
        return [self._ids.get(symbol, UNKNOWN) for symbol in symbols]

    def text_of(self, ids: Iterable[int]) -> list[str]:
        """The symbols of one sequence up to its first EOS or PAD; other specials are left out."""
        found = []
        for index in ids:
            if index in (EOS, PAD):
                break
            if index >= self.specials:
                found.append(self.symbols[index])
        return found


class Sequences:
    """Many sequences of ids, at least one id in all, in flat tensors.

    ids: int32, one sequence behind the other. lengths, starts: (count,) int64, of each and where it begins.
    """

    def __init__(self, sequences: Iterable[Iterable[int]]) -> None:
        ids, ends = array("i"), array("q")
        for sequence in sequences:
            ids.extend(sequence)
            ends.append(len(ids))
        self.ids = torch.frombuffer(ids, dtype=torch.int32)
        self.lengths = torch.frombuffer(ends, dtype=torch.int64).diff(prepend=torch.zeros(1, dtype=torch.int64))
        self.starts = self.lengths.cumsum(0) - self.lengths

    def __len__(self) -> int:
        return len(self.starts)

    def padded(self, which: Tensor, length: int) -> Tensor:
        """The sequences `which` (rows,) int64 as (rows, length) int64, PAD behind each; none may be longer."""
        starts, place = self.starts[which][:, None], torch.arange(length)
        inside = place < self.lengths[which][:, None]
        at = (starts + place).clamp(max=len(self.ids) - 1)
        return self.ids[at].long().where(inside, PAD)


@dataclass(frozen=True)
class Pairs:
    """Parallel sequences, the same number of both."""

    sources: Sequences
    """Each ends in EOS."""
    targets: Sequences
    """Each begins with BOS and ends in EOS."""

    def __len__(self) -> int:
        return len(self.sources)


class Batch(NamedTuple):
    """Pairs of one bucket, padded; a tuple of three tensors."""

    source: Tensor
    """(B, S) int64: ids, EOS, then PAD."""
    source_lengths: Tensor
    """(B,) int64: EOS included."""
    target: Tensor
    """(B, T + 1) int64: BOS, ids, EOS, then PAD. The decoder reads [:, :-1] and is to say [:, 1:]."""


def pairs(sources: Iterable[list[int]], targets: Iterable[list[int]], bos: int = BOS) -> Pairs:
    """Ids without specials to Pairs with them."""
    return Pairs(Sequences([*source, EOS] for source in sources), Sequences([bos, *target, EOS] for target in targets))


@dataclass(frozen=True)
class Corpus:
    """Training pairs, evaluation pairs, and what tells how good hypotheses are."""

    train: Pairs
    evaluation: Pairs
    references: list[str]
    """The evaluation's targets as text, in its order."""
    vocabulary_size: int
    """Ids are below it."""
    text: Callable[[list[int]], str]
    """Ids of one hypothesis to text."""

    def quality(self, hypotheses: list[list[int]], metric: str) -> float:
        """PHONEME_ERROR_RATE or BLEU of hypotheses (ids) in the evaluation's order; both as shares of 1."""
        texts = [self.text(hypothesis) for hypothesis in hypotheses]
        return (phoneme_error_rate if metric == PHONEME_ERROR_RATE else bleu)(texts, self.references)


# -- cmudict -----------------------------------------------------------------------------------------------------------


def read_documents(path: Path) -> dict[str, str]:
    """The documents of a packed file by name (data/build.py has the format). FileNotFoundError where it is missing."""
    return dict(document.split("\n", 1) for document in unpacked(path).split("\f"))


def unpacked(path: Path) -> str:
    """The text of a packed file. Raises FileNotFoundError where it is missing."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: it comes with perfsuite, and data/build.py makes it anew")
    return lzma.decompress(path.read_bytes()).decode()


def read_words(path: Path, eval_samples: int) -> Corpus:
    """Spellings (a symbol a letter) to pronunciations (a symbol a phoneme, without stress), from cmudict.xz.

    Training: all words of the document of that name. Evaluation: the first `eval_samples` held-out words.
    """
    documents = read_documents(path)
    rows = {name: [line.split() for line in text.split("\n")] for name, text in documents.items()}
    train, evaluation = rows["training"], rows["held out"][:eval_samples]
    vocabulary = Vocabulary(sorted({symbol for word, *phonemes in train for symbol in (*word, *phonemes)}))

    def of(words: list[list[str]]) -> Pairs:
        ids = vocabulary.ids
        return pairs((ids(word) for word, *_ in words), (ids(phonemes) for _, *phonemes in words))

    return Corpus(
        train=of(train),
        evaluation=of(evaluation),
        references=[" ".join(phonemes) for _, *phonemes in evaluation],
        vocabulary_size=len(vocabulary),
        text=lambda ids: " ".join(vocabulary.text_of(ids)),
    )


# -- batches -----------------------------------------------------------------------------------------------------------


def batches(
    data: Pairs, buckets: Sequence[tuple[int, int]], batch_size: int, generator: torch.Generator
) -> Iterator[Batch]:
    """Endless training batches, on the CPU, epoch by epoch, each of one bucket and of `batch_size` pairs.

    buckets: (S, T), the padded lengths of source and target, rising; a pair is in the first that it fits (source with
    EOS within S, target with EOS but without BOS within T), and left out where none does. An epoch takes the pairs of
    each bucket in a new order, as many whole batches as there are, and these in a new order: a bucket's last, smaller
    part sits out that epoch. Raises ValueError where no bucket fills a batch.
    """
    members = bucketed(data, buckets)
    if all(len(which) < batch_size for which in members):
        raise ValueError(f"no batch of {batch_size} pairs can be made of {len(data)}: choose a smaller batch_size")
    while True:
        cut = []
        for which, bucket in zip(members, buckets, strict=True):
            order = which[torch.randperm(len(which), generator=generator)]
            whole = len(order) // batch_size * batch_size
            cut += [(part, bucket) for part in order[:whole].split(batch_size)] if whole else []
        for index in torch.randperm(len(cut), generator=generator).tolist():
            yield batch_of(data, *cut[index])


def bucketed(data: Pairs, buckets: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Which pairs are in each bucket: int64 indices."""
    sources, targets = data.sources.lengths, data.targets.lengths - 1
    left = torch.ones(len(data), dtype=torch.bool)
    members = []
    for source_length, target_length in buckets:
        fits = left & (sources <= source_length) & (targets <= target_length)
        members.append(fits.nonzero()[:, 0])
        left &= ~fits
    return members


def batch_of(data: Pairs, which: Tensor, bucket: tuple[int, int]) -> Batch:
    """The pairs `which`, padded to the lengths of a bucket (S, T) that they fit."""
    source_length, target_length = bucket
    return Batch(
        data.sources.padded(which, source_length),
        data.sources.lengths[which],
        data.targets.padded(which, target_length + 1),
    )


def made_up_batches(buckets: Sequence[tuple[int, int]], batch_size: int, vocabulary_size: int) -> Iterator[Batch]:
    """Endless batches of made-up ids, all of full length: for the warm-up. The buckets take turns, the first begins."""
    generator = torch.Generator().manual_seed(0)

    def ids(length: int) -> Tensor:
        return torch.randint(len(SPECIALS), vocabulary_size, (batch_size, length), generator=generator)

    while True:
        for source_length, target_length in buckets:
            source, target = ids(source_length), ids(target_length + 1)
            source[:, -1], target[:, 0], target[:, -1] = EOS, BOS, EOS
            yield Batch(source, torch.full((batch_size,), source_length), target)


# -- beam search -------------------------------------------------------------------------------------------------------


def search_all(data: Pairs, batch_size: int, search: Callable[[Tensor, Tensor], Tensor]) -> list[list[int]]:
    """Hypotheses for all sources, in their order, as ids with PAD behind them.

    search(source (B, S), lengths (B,)) -> (B, any) int64. Sources come shortest first, so that little is padding.
    """
    lengths = data.sources.lengths
    found: list[list[int]] = [[]] * len(data)
    for which in lengths.argsort(stable=True).split(batch_size):
        source = data.sources.padded(which, int(lengths[which].max()))
        for index, row in zip(which.tolist(), search(source, lengths[which]).tolist(), strict=True):
            found[index] = row
    return found


Step = Callable[[Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]]


def beam_search(
    step: Step,
    state: list[Tensor],
    sentences: int,
    *,
    beam: int,
    max_length: int,
    length_penalty: float,
    device: Any = "cpu",
    bos: int = BOS,
) -> Tensor:
    """The best hypothesis of each sentence: (sentences, max_length) int64, without BOS and EOS, PAD behind it.

    step(last (N,) int64, state) -> (log-probabilities (N, V), state), with N = sentences * beam, the beams of a
    sentence beside each other. state: tensors of N rows each, which are reordered with the beams, within a sentence
    only: what is the same for all beams of a sentence need not be in it. The first `last` is bos for every row.

    A hypothesis Y scores log P(Y) / ((5 + |Y|) / 6)^length_penalty, EOS counted (Wu et al., 2016, equation 14, without
    coverage); 0: no penalty. Of the 2 beam best continuations, those with EOS end and the best of them is kept, the
    `beam` best others go on, until none of them can overtake it or they are max_length long (EOS included). beam 1 is
    greedy search. Where no hypothesis ended, the best unfinished one is the answer.
    """

    def penalty(length: int) -> float:
        return ((5 + length) / 6) ** length_penalty

    first = torch.arange(sentences, device=device)[:, None] * beam
    alive = torch.full((sentences, beam), -torch.inf, device=device)
    alive[:, 0] = 0  # all beams begin alike: only one may count
    written = torch.full((sentences, beam, max_length), PAD, device=device)
    best = torch.full((sentences,), -torch.inf, device=device)
    answer = written[:, 0].clone()
    last = torch.full((sentences * beam,), bos, device=device)
    for place in range(max_length):
        log_p, state = step(last, state)
        classes = log_p.shape[-1]
        scores = alive[:, :, None] + log_p.float().view(sentences, beam, classes)
        top, index = scores.flatten(1).topk(2 * beam)
        parents, symbols = index // classes, index % classes
        ended = symbols == EOS

        score, which = (top / penalty(place + 1)).masked_fill(~ended, -torch.inf).max(1)
        better = score > best
        best = score.where(better, best)
        parent = parents.gather(1, which[:, None])
        answer = _of_beams(written, parent)[:, 0].where(better[:, None], answer)

        alive, which = top.masked_fill(ended, -torch.inf).topk(beam)
        parents, last = parents.gather(1, which), symbols.gather(1, which).flatten()
        if beam > 1:
            written = _of_beams(written, parents)
            rows = (first + parents).flatten()
            state = [tensor.index_select(0, rows) for tensor in state]
        written[:, :, place] = last.view(sentences, beam)
        # Log-probabilities only fall, and no penalty is larger than that of the longest hypothesis.
        if bool((best >= alive[:, 0] / penalty(max_length)).all()):
            break
    return answer.where((best > -torch.inf)[:, None], written[:, 0])


def _of_beams(written: Tensor, parents: Tensor) -> Tensor:
    return written.gather(1, parents[:, :, None].expand(-1, -1, written.shape[2]))


# -- metrics -----------------------------------------------------------------------------------------------------------


def phoneme_error_rate(hypotheses: list[str], references: list[str]) -> float:
    """Substitutions, deletions and insertions over the number of reference symbols; symbols are separated by blanks."""
    symbols: dict[str, int] = {}

    def padded(texts: list[str], pad: int) -> tuple[Tensor, Tensor]:
        rows = [[symbols.setdefault(symbol, len(symbols)) for symbol in text.split()] for text in texts]
        longest = max(1, *(len(row) for row in rows))
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        return ids, torch.tensor([len(row) for row in rows])

    (a, a_lengths), (b, b_lengths) = padded(hypotheses, -1), padded(references, -2)
    return float(edit_distances(a, a_lengths, b, b_lengths).sum() / b_lengths.sum())


def edit_distances(a: Tensor, a_lengths: Tensor, b: Tensor, b_lengths: Tensor) -> Tensor:
    """Levenshtein distances of rows of ids, (rows, A) and (rows, B) of which the lengths count: (rows,) int64.

    The recurrence of Wagner and Fischer (1974), all rows at once.
    """
    rows, width = b.shape
    table = torch.arange(width + 1).expand(rows, -1)  # [:, j]: from the first i of a to the first j of b
    found = table
    for i in range(a.shape[1]):
        kept = torch.minimum(table[:, :-1] + (a[:, i, None] != b), table[:, 1:] + 1)
        # Insertions: the least kept[k] + (j - k) over k <= j is a running minimum of what is left of j.
        kept = torch.cat([torch.full((rows, 1), i + 1), kept], 1) - torch.arange(width + 1)
        table = kept.cummin(1).values + torch.arange(width + 1)
        found = table.where((a_lengths == i + 1)[:, None], found)
    return found.gather(1, b_lengths[:, None])[:, 0]


def bleu(hypotheses: list[str], references: list[str]) -> float:
    """Corpus BLEU by sacrebleu, case ignored, tokens by its "intl" as in MLPerf's references.

    As a share of 1, not in hundredths: MLPerf's logs have it so.
    """
    try:
        import sacrebleu
    except ImportError as error:
        raise ImportError("BLEU is measured by sacrebleu: pip install 'perfsuite[workloads]'") from error
    return sacrebleu.corpus_bleu(hypotheses, [references], lowercase=True, tokenize="intl").score / 100
