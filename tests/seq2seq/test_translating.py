# SPDX-License-Identifier: MIT
"""Sentences in, sentences out: what is found, whatever the batch, and how it is scored."""

from typing import Any

import pytest
import torch
from translators import BOS, CODECS, NUMBERS, build

from fused_rnn.seq2seq import (
    Draws,
    Ensemble,
    SearchOptions,
    corpus_scores,
    greedy_search,
    translate,
)
from fused_rnn.testing import assert_within_budget


def test_translations_of_sentences() -> None:
    model = build(attention="dot", bidirectional=False)
    sentences = [NUMBERS[0].source, "", "学 one", NUMBERS[1].source, " "]
    options = SearchOptions(beam_size=3, n_best=2, longest=12, attention=True)
    found = list(translate(model, *CODECS, iter(sentences), options, batch_size=2))
    assert [one.source for one in found] == sentences
    assert [one.unknown for one in found] == [0, 0, 2, 0, 1]
    assert found[1].candidates == [("", [], 0.0, 0.0, [], True, None, ())]
    for one in (found[0], *found[2:]):
        assert one.tokens == list(one.source) and len(one.candidates) == 2
        for candidate in one.candidates:
            assert not {"<pad>", "<bos>", "<unk>"} & set(candidate.tokens)
            length = len(candidate.tokens)
            assert len(candidate.token_log_probs) == length == len(candidate.attention)
            assert {len(look) for look in candidate.attention} == {len(one.tokens) + 1}
            assert candidate.text == "".join(t for t in candidate.tokens if t != "<eos>")
            assert candidate.finished == (candidate.tokens[-1] == "<eos>")
    # Each as it would be alone, and with one beam as greedy search has it.
    alone = [next(translate(model, *CODECS, [s], options)) for s in sentences]
    for one, other in zip(found, alone, strict=True):
        assert [c.tokens for c in one.candidates] == [c.tokens for c in other.candidates]
    greedy = next(translate(model, *CODECS, sentences[:1], SearchOptions(beam_size=1, longest=9)))
    vocab = CODECS[1].vocab
    tokens = torch.tensor([[*CODECS[0].vocab.encode(sentences[0]), CODECS[0].vocab.eos]])
    ban = (vocab.pad, vocab.bos, vocab.unknown)
    with torch.no_grad():
        state = model.eval().encode(tokens)
    expected = greedy_search(
        model, state, bos=BOS, eos=vocab.eos, pad=vocab.pad, max_length=9, ban=ban
    )
    length = int(expected.lengths[0, 0])
    assert vocab.encode(greedy.candidates[0].tokens) == expected.tokens[0, 0, :length].tolist()


@pytest.mark.parametrize(
    "options",
    [
        SearchOptions(length_penalty=1.5),
        SearchOptions(length_penalty=1.5, stop="k", n_best=3),
        SearchOptions(beam_size=1),
        SearchOptions(beam_size=2, normalization="gnmt", length_penalty=2.0, attention=True),
        SearchOptions(beam_size=2, min_length=25, no_repeat_ngram=2),
        SearchOptions(beam_size=2, prefix="deux", ban=("x", "e"), longest=9),
        SearchOptions(n_best=2, draws=Draws(temperature=2.0, top_k=9)),
    ],
    ids=["long", "stop-k", "greedy", "gnmt", "min-length", "prefix", "drawn"],
)
def test_translations_do_not_depend_on_the_batch(options: SearchOptions) -> None:
    model = build(seed=1)
    with torch.no_grad():
        # Ends come now and then.
        model.decoder.output.bias[CODECS[1].vocab.eos] += 1
    sentences = [pair.source[: 1 + 3 * i] for i, pair in enumerate(NUMBERS[:9])] + ["", "two"]
    alone, together = (
        [[candidate.tokens for candidate in one.candidates] for one in found]
        for found in (
            translate(model, *CODECS, sentences, options, batch_size=size) for size in (1, 11)
        )
    )
    assert alone == together
    # And each has its own limit, not that of the longest sentence beside it.
    for sentence, candidates in zip(sentences, alone, strict=True):
        limit = options.longest or max(2 * (len(sentence) + 1) + 10, options.min_length)
        assert all(len(tokens) <= limit for tokens in candidates)


def test_what_translations_must_and_must_not_hold() -> None:
    model = build(seed=1)
    sentences = [pair.source for pair in NUMBERS[:4]]

    def texts(**options: Any) -> list[str]:
        found = translate(model, *CODECS, sentences, SearchOptions(**options))
        return [candidate.text for one in found for candidate in one.candidates]

    assert all(text.startswith("cent ") for text in texts(prefix="cent "))
    likeliest = max("".join(texts()), key="".join(texts()).count)
    assert likeliest not in "".join(texts(ban=(likeliest,)))
    assert min(map(len, texts(min_length=30, longest=40))) >= 29
    for text in texts(no_repeat_ngram=1):
        assert len(set(text)) == len(text)
    drawn = texts(draws=Draws(seed=1), n_best=3)
    assert drawn == texts(draws=Draws(seed=1), n_best=3) != texts(draws=Draws(seed=2), n_best=3)
    assert len(drawn) == 12 and len(set(drawn)) > 6
    # The place in the input, not in the call, says what is drawn.
    later = SearchOptions(draws=Draws(seed=1), n_best=3)
    one = next(translate(model, *CODECS, sentences[2:], later, first=2))
    assert [candidate.text for candidate in one.candidates] == drawn[6:9]
    for wrong, message in [
        (dict(prefix="学"), "prefix: expected tokens of the target's vocabulary, got"),
        (dict(ban=("学",)), "ban: expected tokens of the target's vocabulary, got"),
        (dict(ban=("ab",)), "ban: expected tokens of the target's vocabulary, got"),
    ]:
        with pytest.raises(ValueError, match=message):
            texts(**wrong)
    with pytest.raises(TypeError, match="sentences: expected strings"):
        next(translate(model, *CODECS, "one"))
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        next(translate(model, *CODECS, ["one"], batch_size=0))


def test_names_are_copied_from_where_the_model_looked() -> None:
    codecs = tuple(codec._replace(tokenizer="space") for codec in CODECS)
    model = build(seed=1)
    with torch.no_grad():
        # Nothing but unknown words, and an end now and then.
        model.decoder.output.bias.fill_(-50.0)
        model.decoder.output.bias[[0, codecs[1].vocab.eos]] = torch.tensor([1.0, 0.0])
    sentences = ["Ada meets Grace", "Niklaus"]
    options = SearchOptions(replace_unknown=True, attention=True, longest=5, beam_size=2)
    for sentence, one in zip(sentences, translate(model, *codecs, sentences, options), strict=True):
        best, names = one.candidates[0], sentence.split()
        end = len(best.tokens) - best.finished
        assert best.copied == tuple(range(end)) and end
        for place in range(end):
            look = best.attention[place][: len(names)]
            assert best.tokens[place] == names[look.index(max(look))]
        assert best.text == " ".join(best.tokens[:end])
    plain = SearchOptions(longest=5)
    assert not next(translate(model, *codecs, sentences, plain)).candidates[0].copied
    with pytest.raises(ValueError, match="model: expected one with attention"):
        next(translate(build(attention="none"), *codecs, sentences, options))


def test_an_ensemble_averages_probabilities() -> None:
    models = [build(seed=1, attention=kind).eval() for kind in ("additive", "general")]
    both = Ensemble(models).eval()
    source, target = torch.randint(9, (3, 4)), torch.randint(9, (3, 5))
    lengths = torch.tensor([4, 1, 2])
    with torch.no_grad():
        parts = [model.double()(source, target, lengths).logits.softmax(-1) for model in models]
        whole = both(source, target, lengths).logits
        assert_within_budget(whole.exp(), (parts[0] + parts[1]) / 2)
        state = both.encode(source, lengths)
        for step in range(5):
            logits, state = both.step(target[:, step], state)
            assert_within_budget(logits, whole[:, step])
        looks = [model.attention(own) for model, own in zip(models, state, strict=True)]
        assert_within_budget(both.attention(state), (looks[0] + looks[1]) / 2)
    found = list(translate(both.float(), *CODECS, [pair.source for pair in NUMBERS[:3]]))
    assert len(found) == 3 and both.capturable
    with pytest.raises(ValueError, match="models: expected at least one"):
        Ensemble([])


def test_corpus_scores_with_several_references() -> None:
    scores = corpus_scores(["a b c d e", "f g h i"], [["x", "a b c d e"], ["f g h i"]])
    assert scores["bleu"] == pytest.approx(100) and scores["chrf"] > 99
    for references in ([["a"]], [["a"], []]):
        with pytest.raises(ValueError, match="references: expected at least one for each of 2"):
            corpus_scores(["a", "b"], references)
    with pytest.raises(ValueError, match="translations: expected at least one, got none"):
        corpus_scores([], [])
    for arguments, name in [
        ((["a b"], ["a b"]), "references"),
        ((["a b"], "a b"), "references"),
        (("a", [["a"]]), "translations"),
    ]:
        with pytest.raises(TypeError, match=f"{name}: expected strings, such as a list of them"):
            corpus_scores(*arguments)
