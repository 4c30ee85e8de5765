# SPDX-License-Identifier: MIT
"""Sentences in, sentences out: a translator with its codecs and a search."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...text.codec import Codec
from ...text.pairs import pad_batch
from ...text.reading import refuse_string
from ..models.interfaces import EncoderDecoder
from ..training.options import check_at_least
from .hypotheses import Hypotheses
from .sampling import sample
from .search import beam_search
from .stepping import evaluating

# With a length's penalty, "exact" ends once the likeliest live hypothesis is as much less likely
# than the best one as a divisor of the longest says: beyond so many tokens, of a bad model, never.
_LONGEST_EXACT = 10_000


class Draws(NamedTuple):
    """The options of drawing translations at random; see `sample`.

    What is drawn for a sentence depends on the seed and on its place in the input, not on the
    size of the batch.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The options of searching for translations; see `beam_search`.

    Args:
        beam_size: hypotheses live at every step. Default 5.
        n_best: translations for each sentence. Default 1.
        length_penalty, normalization: as in `beam_search`.
        stop: as there. Default "exact": of a model that is sure of itself, "k" may be given k
            short and unlikely ends before the likeliest translation has come to its own.
        longest: most tokens of a translation; with "exact" and a length_penalty at most 10,000.
            None: twice those of its source sentence, and ten, behind the prefix. Default None.
        attention: whether to return where the decoder looked. Default False.
        min_length, no_repeat_ngram: as in `beam_search`. Default 0.
        prefix: what every translation begins with. Default "": anything.
        ban: tokens never generated; each a token of the target's vocabulary, or a text of one.
            Default none.
        draws: translations are drawn instead, n_best of them. Default None.
        replace_unknown: whether `<unk>` may be generated, in whose place then stands the source
            token looked at most, which is how names get through. Default False.
    """

    beam_size: int = 5
    n_best: int = 1
    length_penalty: float = 0.75
    normalization: str = "length"
    stop: str = "exact"
    longest: int | None = None
    attention: bool = False
    min_length: int = 0
    no_repeat_ngram: int = 0
    prefix: str = ""
    ban: tuple[str, ...] = ()
    draws: Draws | None = None
    replace_unknown: bool = False

    def __post_init__(self) -> None:
        penalized = self.length_penalty > 0 and self.normalization != "none"
        exact = self.stop == "exact" and self.beam_size > 1 and self.draws is None
        if penalized and exact and self.longest is not None and self.longest > _LONGEST_EXACT:
            raise ValueError(
                f"longest (--max-length): expected at most {_LONGEST_EXACT:,} with stop 'exact' "
                f"and a length penalty, got {self.longest:,}: the search would hardly end; stop "
                "'k' has no such limit"
            )


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
    # Places of tokens that stand for `<unk>`, copied from the source.
    copied: tuple[int, ...] = ()


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
    first: int = 0,
) -> Iterator[Translation]:
    """Yields the translation of each sentence, in order; a stream is read batch by batch.

    `<pad>`, `<bos>` and `<unk>` are never generated. A sentence without any token has one empty
    translation.

    Args:
        model: the translator.
        source, target: its codecs.
        sentences: any number of them.
        options: of the search. Default: those of SearchOptions.
        batch_size: sentences searched side by side; no influence on the result. Default 32.
        first: the place of the first sentence, where others came before. Default 0.

    Raises:
        TypeError: sentences is one string.
        ValueError: an option does not fit.
    """
    refuse_string("sentences", sentences)
    check_at_least("batch_size", batch_size, 1)
    options = SearchOptions() if options is None else options
    search = _Search(model, source, target, options)
    stream = iter(sentences)
    place = first
    # Drawn one by one, as neighbours would draw from the same generator.
    while some := list(islice(stream, 1 if options.draws else batch_size)):
        tokens = [source.split(sentence) for sentence in some]
        filled = [i for i, own in enumerate(tokens) if own]
        found = iter(search([tokens[i] for i in filled], place))
        for sentence, own in zip(some, tokens, strict=True):
            candidates = next(found) if own else [Candidate("", [], 0.0, 0.0, [], True, None)]
            yield Translation(sentence, own, len(source.vocab.unread(own)), candidates)
        place += len(some)


class _Search:
    """Source tokens to candidates, by the search that options ask for."""

    def __init__(
        self, model: EncoderDecoder, source: Codec, target: Codec, options: SearchOptions
    ) -> None:
        self.model, self.source, self.target, self.options = model, source, target, options
        vocab = target.vocab
        self.prefix = _known("prefix", target.split(options.prefix), target)
        words = [_word(target, word) for word in options.ban]
        self.ban = [vocab.pad, vocab.bos, *_known("ban", words, target)]
        if not options.replace_unknown:
            self.ban.append(vocab.unknown)
        self.device = next(model.parameters()).device

    def __call__(self, sentences: Sequence[list[str]], place: int) -> list[list[Candidate]]:
        """The candidates of some sentences, the first of which has this place in the input."""
        if not sentences:
            return []
        vocab = self.source.vocab
        numbers = [[*vocab.encode(tokens), vocab.eos] for tokens in sentences]
        tokens, lengths = (part.to(self.device) for part in pad_batch(numbers, vocab.pad))
        with evaluating(self.model):
            state = self.model.encode(tokens, lengths)
        found = self._searched(state, lengths, place)
        return [self._candidates(found, row, own) for row, own in enumerate(sentences)]

    def _searched(self, state: Any, lengths: Tensor, place: int) -> Hypotheses:
        vocab, own = self.target.vocab, self.options
        prefix = None
        if self.prefix:
            prefix = torch.tensor([self.prefix] * len(lengths), device=self.device)
        shared: dict[str, Any] = {
            "bos": vocab.bos,
            "eos": vocab.eos,
            "pad": vocab.pad,
            "max_length": self._limits(lengths),
            "length_penalty": own.length_penalty,
            "normalization": own.normalization,
            "min_length": own.min_length,
            "no_repeat_ngram": own.no_repeat_ngram,
            "prefix": prefix,
            "ban": self.ban,
            "return_attention": own.attention or own.replace_unknown,
        }
        if own.draws is None:
            sizes: dict[str, Any] = {
                "beam_size": own.beam_size,
                "n_best": own.n_best,
                "stop": own.stop,
            }
            return beam_search(self.model, state, **shared, **sizes)
        temperature, top_k, top_p, seed = own.draws
        draws: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        # As a string, which mixes the bits of both well.
        mixed = random.Random(f"{seed} {place}").getrandbits(63)
        generator = torch.Generator(self.device).manual_seed(mixed)
        return sample(
            self.model, state, **shared, **draws, num_samples=own.n_best, generator=generator
        )

    def _candidates(self, found: Hypotheses, row: int, source: list[str]) -> list[Candidate]:
        """The places of a row that something reached; source has no `<eos>`."""
        candidates = []
        for n, length in enumerate(found.lengths[row].tolist()):
            if not length:
                continue
            numbers = found.tokens[row, n, :length]
            finished = bool(found.finished[row, n])
            tokens = self.target.vocab.decode(numbers.tolist())
            copied: list[int] = []
            look: Tensor | None = None
            if found.attention is not None:
                # The encoder reads an end, too.
                look = found.attention[row, n, :length, : len(source) + 1]
                copied = (numbers == self.target.vocab.unknown).nonzero().flatten().tolist()
                for place in copied:
                    tokens[place] = source[int(look[place, :-1].argmax())]
            candidates.append(
                Candidate(
                    self.target.join(tokens[:-1] if finished else tokens),
                    tokens,
                    found.scores[row, n].item(),
                    found.log_probs[row, n].item(),
                    found.token_log_probs[row, n, :length].tolist(),
                    finished,
                    look.tolist() if look is not None and self.options.attention else None,
                    tuple(copied),
                )
            )
        return candidates

    def _limits(self, lengths: Tensor) -> Tensor:
        """The most tokens of each sentence's translation, (B,)."""
        own = self.options
        if own.longest is not None:
            return torch.full_like(lengths, own.longest)
        return (2 * lengths + 10 + len(self.prefix)).clamp(min=own.min_length)


def _word(target: Codec, text: str) -> str:
    """The one token that a text is; the text itself if it is none or several."""
    split = target.split(text)
    return split[0] if text not in target.vocab and len(split) == 1 else text


def _known(name: str, tokens: Sequence[str], target: Codec) -> list[int]:
    """The numbers of tokens.

    Raises:
        ValueError: one is not in the vocabulary.
    """
    if strange := target.vocab.unread(tokens):
        raise ValueError(f"{name}: expected tokens of the target's vocabulary, got {strange}")
    return target.vocab.encode(tokens)


def corpus_scores(
    translations: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Returns sacrebleu's BLEU and chrF of translations, from 0 to 100.

    Args:
        translations: one for each sentence.
        references: of each sentence its right translations, at least one.

    Raises:
        ValueError: the numbers differ, there is no sentence, or one has no reference.
        TypeError: one string stands where several belong.
        ModuleNotFoundError: the `sacrebleu` package is not installed.
    """
    refuse_string("translations", translations)
    for own in (references, *references):
        refuse_string("references", own)
    if not translations:
        raise ValueError("translations: expected at least one, got none")
    if len(translations) != len(references) or not all(references):
        raise ValueError(
            f"references: expected at least one for each of {len(translations)} sentences, got "
            f"{len(references)} lists, {sum(not own for own in references)} of them empty"
        )
    import sacrebleu

    most = max(map(len, references))
    # One stream for each place; sacrebleu passes over what is None.
    streams: Any = [[own[i] if i < len(own) else None for own in references] for i in range(most)]
    return {
        "bleu": sacrebleu.corpus_bleu(list(translations), streams).score,
        "chrf": sacrebleu.corpus_chrf(list(translations), streams).score,
    }
