"""What the translators share: batches, subwords, metrics and splits, and beam search against an exhaustive one."""

import itertools
import random
import re

import pytest
import torch

from perfsuite.workloads import bible, registry, subwords, translation
from perfsuite.workloads.translation import BOS, EOS, PAD, SPECIALS, UNKNOWN, Vocabulary

FOLDER = registry.data_folder()


# -- vocabularies and subwords -----------------------------------------------------------------------------------------


def test_symbols_and_ids_are_each_others():
    vocabulary = Vocabulary("abc")
    assert len(vocabulary) == 7
    assert vocabulary.ids("cab?") == [6, 4, 5, UNKNOWN]
    assert vocabulary.text_of([BOS, 6, UNKNOWN, 4, EOS, 5]) == ["c", "a"]
    assert vocabulary.text_of([6, PAD, 5]) == ["c"]


@pytest.fixture(scope="module")
def pieces() -> subwords.Subwords:
    return subwords.parse(translation.unpacked(FOLDER / bible.FILES[2]).splitlines(), SPECIALS)


@pytest.mark.parametrize(
    "text",
    ["In the beginning, God", "a_b \\ c\\u", " begins  with blanks", "1st 2nd", "«漢字» ☃!", "¿Qué?", "x" * 50, ""],
)
def test_subwords_give_a_text_back(pieces, text):
    ids = pieces.ids(text)
    assert pieces.text([*ids, EOS, 9]) == text
    assert UNKNOWN not in ids


def test_the_longest_subword_is_taken():
    pieces = subwords.parse(["'<pad>_'", "'<EOS>_'", "'a'", "'ab'", "'b'", "'ba_'", "'_'", "'abc'"], SPECIALS[:2])
    symbols = pieces.vocabulary.symbols
    assert symbols[:2] == SPECIALS[:2] and len(symbols) == 8
    assert [symbols[index] for index in pieces.ids("abbba")] == ["ab", "b", "ba_"]
    with pytest.raises(ValueError, match=r"the vocabulary lacks '\\\\'"):
        pieces.ids("ç")


# -- batches -----------------------------------------------------------------------------------------------------------


def made_up_pairs(count: int) -> translation.Pairs:
    draw = random.Random(0)
    lengths = [(draw.randint(1, 9), draw.randint(1, 9)) for _ in range(count)]
    return translation.pairs(
        ([4 + index] * source for index, (source, _) in enumerate(lengths)),
        ([4 + index] * target for index, (_, target) in enumerate(lengths)),
    )


def test_an_epoch_shows_every_pair_that_fits_once_and_in_a_new_order():
    data, buckets = made_up_pairs(200), ((5, 5), (9, 8))
    members = [set(which.tolist()) for which in translation.bucketed(data, buckets)]
    batches = translation.batches(data, buckets, 1, torch.Generator().manual_seed(1))
    epochs = []
    for _ in range(2):
        order = []
        for source, lengths, target in itertools.islice(batches, len(members[0] | members[1])):
            index = int(source[0, 0]) - 4
            order.append(index)
            bucket = buckets[0] if index in members[0] else buckets[1]
            assert (source.shape[1], target.shape[1] - 1) == bucket
            assert source[0].tolist()[: lengths[0]] == [4 + index] * (int(lengths[0]) - 1) + [EOS]
            assert set(source[0].tolist()[lengths[0] :]) <= {PAD}
            said = [symbol for symbol in target[0].tolist() if symbol != PAD]
            assert said[0] == BOS and said[-1] == EOS and set(said[1:-1]) == {4 + index}
        epochs.append(order)
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(members[0] | members[1])
    assert epochs[0] != epochs[1]
    for index in range(200):
        source, target = int(data.sources.lengths[index]), int(data.targets.lengths[index]) - 1
        expected = 0 if max(source, target) <= 5 else 1 if source <= 9 and target <= 8 else None
        assert [index in which for which in members] == [expected == 0, expected == 1]


def test_batches_are_whole_and_too_large_ones_are_refused():
    data = made_up_pairs(100)
    batch = next(translation.batches(data, ((10, 10),), 32, torch.Generator().manual_seed(1)))
    made_up = next(translation.made_up_batches(((10, 10),), 32, 104))
    assert [(t.shape, t.dtype) for t in batch] == [(t.shape, t.dtype) for t in made_up]
    with pytest.raises(ValueError, match="no batch of 101 pairs"):
        next(translation.batches(data, ((10, 10),), 101, torch.Generator().manual_seed(1)))


# -- beam search -------------------------------------------------------------------------------------------------------


def chain(symbols: int, seed: int) -> torch.Tensor:
    """(symbols, symbols) log-probabilities of the next symbol after each; PAD is never said."""
    logits = torch.randn(symbols, symbols, generator=torch.Generator().manual_seed(seed))
    logits[:, PAD] = -torch.inf
    return logits.log_softmax(-1)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.5])
@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_the_best_of_all_hypotheses(length_penalty, seed):
    table, longest = chain(5, seed), 5
    others = [symbol for symbol in range(5) if symbol not in (PAD, EOS)]

    def score(hypothesis: tuple[int, ...]) -> float:
        path = [BOS, *hypothesis, EOS]
        total = sum(float(table[a, b]) for a, b in itertools.pairwise(path))
        return total / ((5 + len(hypothesis) + 1) / 6) ** length_penalty

    every = [h for length in range(longest) for h in itertools.product(others, repeat=length)]
    best = max(every, key=score)
    found = translation.beam_search(
        lambda last, state: (table[last], state), [], 2,
        beam=3**longest, max_length=longest, length_penalty=length_penalty,
    )  # fmt: skip
    assert found.tolist() == [[*best, *[PAD] * (longest - len(best))]] * 2


def test_the_state_follows_its_beam():
    """The state is all that was said: it must be that of the hypothesis, or the search would go astray."""
    table = chain(7, seed=3)
    table[:, EOS] -= 4

    def step(last: torch.Tensor, state: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        history = torch.cat([state[0], last[:, None]], 1)
        seen.append(history)
        return table[last] - 0.3 * (history[:, :, None] == torch.arange(7)).sum(1), [history]

    seen: list[torch.Tensor] = []
    found = translation.beam_search(
        step, [torch.zeros(4, 0, dtype=torch.int64)], 1, beam=4, max_length=8, length_penalty=0.0
    )
    answer = [symbol for symbol in found[0].tolist() if symbol != PAD]
    for place in range(len(answer)):
        assert [BOS, *answer[:place]] in seen[place].tolist()
    assert len(set(map(tuple, seen[-1].tolist()))) == 4


def test_one_beam_is_greedy_search_and_an_endless_hypothesis_is_cut():
    table = chain(6, seed=1)
    table[:, EOS] = -50.0
    found = translation.beam_search(
        lambda last, state: (table[last], state), [], 1, beam=1, max_length=4, length_penalty=0.0
    )
    expected, last = [], BOS
    for _ in range(4):
        last = int(table[last].argmax())
        expected.append(last)
    assert found[0].tolist() == expected


def test_hypotheses_come_in_the_order_of_their_sources():
    data = made_up_pairs(23)
    found = translation.search_all(data, 5, lambda source, lengths: source)
    assert [row[0] for row in found] == [4 + index for index in range(23)]


# -- metrics -----------------------------------------------------------------------------------------------------------


def edit_distance(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(edit_distance(a[1:], b[1:]) + (a[0] != b[0]), edit_distance(a[1:], b) + 1, edit_distance(a, b[1:]) + 1)


def test_phoneme_error_rate_is_edits_over_reference_symbols():
    assert translation.phoneme_error_rate(["K AE T"], ["K AE T"]) == 0
    assert translation.phoneme_error_rate(["", "K AE T S"], ["AH", "K AH T"]) == pytest.approx(3 / 4)
    draw = random.Random(0)
    texts = [[" ".join(draw.choices("ABC", k=draw.randint(0, 5))) for _ in range(60)] for _ in range(2)]
    texts[1][0] = "A"
    edits = sum(edit_distance(a.split(), b.split()) for a, b in zip(*texts, strict=True))
    symbols = sum(len(b.split()) for b in texts[1])
    assert translation.phoneme_error_rate(*texts) == pytest.approx(edits / symbols)


def test_bleu_is_a_share_and_ignores_case():
    pytest.importorskip("sacrebleu")
    references = ["The house is small and old.", "He said to them: it is so."]
    assert translation.bleu([text.upper() for text in references], references) == pytest.approx(1)
    assert 0 < translation.bleu(["The house is big and old.", "He said: it is so."], references) < 1


# -- the corpora -------------------------------------------------------------------------------------------------------


def inflections(word: str) -> set[str]:
    """What English makes of a word by an ending: also where its last letter is doubled, dropped or turned into i."""
    begin = {word, word + word[-1]}
    if word[-1] in "ey":
        begin.add(word[:-1])
    if word[-1] == "y":
        begin.add(f"{word[:-1]}i")
    endings = "e s es ed d er r ers rs est ing y ly ness less ful able ment ist ize ized".split()
    return {f"{stem}{ending}" for stem in begin for ending in endings} - {word}


def test_no_held_out_word_is_a_relative_of_a_training_word():
    """Neither its spelling nor its pronunciation occurs in training, nor an inflection of it, nor what it inflects."""
    documents = translation.read_documents(FOLDER / "cmudict.xz")
    assert list(documents) == ["training", "held out"]
    train, held_out = (dict(line.split(" ", 1) for line in text.split("\n")) for text in documents.values())
    assert len(train) + len(held_out) == 114_374 and len(held_out) >= 4000
    assert all(re.fullmatch("[a-z]{3,12}", word) for word in (*train, *held_out))
    assert not set(train) & set(held_out)
    assert not set(train.values()) & set(held_out.values())
    assert not [word for word in held_out if inflections(word) & train.keys()]
    assert not [word for word in train if inflections(word) & held_out.keys()]
    together = train | held_out
    related = sum(1 for word in train if inflections(word) & together.keys())
    assert related > 0.2 * len(train)  # the question is one: most families were kept out of the evaluation whole


def test_words_are_read_as_they_are():
    corpus = translation.read_words(FOLDER / "cmudict.xz", 800)
    again = translation.read_words(FOLDER / "cmudict.xz", 100)
    assert corpus.references[:100] == again.references
    targets = corpus.evaluation.targets.padded(torch.arange(800), 20).tolist()
    assert [corpus.text(row) for row in targets] == corpus.references
    assert corpus.quality([row[1:] for row in targets], translation.PHONEME_ERROR_RATE) == 0
    assert not re.search("[0-9]", " ".join(corpus.references))


def test_no_held_out_verse_is_a_training_verse():
    corpus = bible.read_verses(FOLDER, 600)
    documents = [translation.read_documents(FOLDER / name) for name in bible.FILES[:2]]
    held_out = {
        side.lower() for texts in documents for book in bible.HELD_OUT for side in texts[book].split("\n") if side
    }
    assert len(held_out) > 6000
    pieces = subwords.parse(translation.unpacked(FOLDER / bible.FILES[2]).splitlines(), SPECIALS)
    for side in (corpus.train.sources, corpus.train.targets):
        rows = side.ids.split(side.lengths.tolist())
        assert not held_out & {pieces.text(row.tolist()).lower() for row in rows}
    assert len(set(corpus.references)) > 590


def test_verses_of_both_languages_say_the_same():
    """Names of people and places are much the same in both: each half of a pair shares more of them than a stranger."""
    english, spanish = (translation.read_documents(FOLDER / name) for name in bible.FILES[:2])
    assert list(english) == list(spanish)

    def names(text: str) -> set[str]:
        return {word[:4].lower() for word in re.findall(r"(?<=[a-zíáéóú,] )[A-Z]\w{3,}", text)}

    for book in english:
        pairs = list(zip(english[book].split("\n"), spanish[book].split("\n"), strict=True))
        kept = [(names(a), names(b)) for a, b in pairs if b]
        right = sum(len(a & b) for a, b in kept)
        wrong = sum(len(a & b) for (a, _), (_, b) in itertools.pairwise(kept))
        if right + wrong > 40:
            assert right > 1.3 * wrong, book
