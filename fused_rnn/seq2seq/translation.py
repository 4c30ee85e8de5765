# SPDX-License-Identifier: MIT
"""Sentences in, sentences out: a translator with its codecs and a search."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from ..text.codec import Codec
from ..text.pairs import pad_batch
from .hypotheses import Hypotheses
from .interfaces import EncoderDecoder
from .search import beam_search
from .stepping import evaluating


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How translations are searched for; see `beam_search`.

    Args:
        beam_size: hypotheses live at every step. Default 5.
        n_best: translations for each sentence. Default 1.
        length_penalty, normalization: as in `beam_search`.
        stop: as there. Default "exact": of a model that is sure of itself, "k" may be given k
            short and unlikely ends before the likeliest translation has come to its own.
        longest: most tokens of a translation; None: twice those of the longest source sentence
            read along with it, and ten. Default None.
        attention: whether to return where the decoder looked. Default False.
    """

    beam_size: int = 5
    n_best: int = 1
    length_penalty: float = 0.75
    normalization: str = "length"
    stop: str = "exact"
    longest: int | None = None
    attention: bool = False


class Candidate(NamedTuple):
    """One translation of a sentence."""

    text: str
    tokens: list[str]
    score: float
    log_prob: float
    token_log_probs: list[float]
    finished: bool
    # Where each token's step looked, a weight for each source token; None if not asked for.
    attention: list[list[float]] | None


class Translation(NamedTuple):
    """A sentence and its translations, the best first."""

    source: str
    tokens: list[str]
    # How many of its tokens are outside the vocabulary.
    unknown: int
    candidates: list[Candidate]


def translate(
    model: EncoderDecoder,
    source: Codec,
    target: Codec,
    sentences: Iterable[str],
    options: SearchOptions | None = None,
    *,
    batch_size: int = 32,
) -> Iterator[Translation]:
    """Yields the translation of each sentence, in order; a stream is read batch by batch.

    `<pad>`, `<bos>` and `<unk>` are never generated. A sentence without any token has one empty
    translation.

    Args:
        model: the translator.
        source, target: its codecs.
        sentences: any number of them.
        options: of the search. Default: those of SearchOptions.
        batch_size: sentences searched side by side. Default 32.
    """
    options = SearchOptions() if options is None else options
    stream = iter(sentences)
    while some := list(islice(stream, batch_size)):
        tokens = [source.split(sentence) for sentence in some]
        filled = [i for i, own in enumerate(tokens) if own]
        found = iter(_searched(model, source, target, [tokens[i] for i in filled], options))
        for sentence, own in zip(some, tokens, strict=True):
            candidates = next(found) if own else [Candidate("", [], 0.0, 0.0, [], True, None)]
            unknown = sum(token not in source.vocab for token in own)
            yield Translation(sentence, own, unknown, candidates)


def _searched(
    model: EncoderDecoder,
    source: Codec,
    target: Codec,
    sentences: Sequence[list[str]],
    options: SearchOptions,
) -> list[list[Candidate]]:
    if not sentences:
        return []
    device = next(model.parameters()).device
    numbers = [[*source.vocab.encode(tokens), source.vocab.eos] for tokens in sentences]
    tokens, lengths = (part.to(device) for part in pad_batch(numbers, source.vocab.pad))
    vocab = target.vocab
    longest = 2 * tokens.size(1) + 10 if options.longest is None else options.longest
    with evaluating(model):
        state = model.encode(tokens, lengths)
    found = beam_search(
        model,
        state,
        bos=vocab.bos,
        eos=vocab.eos,
        pad=vocab.pad,
        max_length=longest,
        beam_size=options.beam_size,
        n_best=options.n_best,
        length_penalty=options.length_penalty,
        normalization=options.normalization,
        stop=options.stop,
        ban=(vocab.pad, vocab.bos, vocab.unknown),
        return_attention=options.attention,
    )
    sizes = lengths.tolist()
    return [_candidates(found, row, sizes[row], target) for row in range(len(sentences))]


def _candidates(found: Hypotheses, row: int, size: int, target: Codec) -> list[Candidate]:
    """The places of a row that something reached."""
    candidates = []
    for n, length in enumerate(found.lengths[row].tolist()):
        if not length:
            continue
        numbers = found.tokens[row, n, :length].tolist()
        finished = bool(found.finished[row, n])
        attention = None
        if found.attention is not None:
            attention = found.attention[row, n, :length, :size].tolist()
        candidates.append(
            Candidate(
                target.decode(numbers[:-1] if finished else numbers),
                target.vocab.decode(numbers),
                found.scores[row, n].item(),
                found.log_probs[row, n].item(),
                found.token_log_probs[row, n, :length].tolist(),
                finished,
                attention,
            )
        )
    return candidates


def corpus_scores(
    translations: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Returns sacrebleu's BLEU and chrF of translations, from 0 to 100.

    Args:
        translations: one for each sentence.
        references: of each sentence its right translations, at least one.

    Raises:
        ValueError: the numbers differ, or a sentence has no reference.
        ModuleNotFoundError: the `sacrebleu` package is not installed.
    """
    if len(translations) != len(references) or not all(references):
        raise ValueError(
            f"references: expected at least one for each of {len(translations)} sentences, got "
            f"{len(references)} lists, {sum(not own for own in references)} of them empty"
        )
    import sacrebleu

    most = max(map(len, references), default=0)
    # One stream for each place; sacrebleu passes over what is None.
    streams: Any = [[own[i] if i < len(own) else None for own in references] for i in range(most)]
    return {
        "bleu": sacrebleu.corpus_bleu(list(translations), streams).score,
        "chrf": sacrebleu.corpus_chrf(list(translations), streams).score,
    }
