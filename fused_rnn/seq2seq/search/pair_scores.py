# SPDX-License-Identifier: MIT
"""The scores of given translations by a translator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from ...text.codec import Codec
from ...text.pairs import Pair, encode_pair, pad_batch
from ..models.interfaces import EncoderDecoder
from ..training.options import check_at_least
from .exhaustive import score
from .stepping import evaluating


class ScoredPair(NamedTuple):
    """A sentence, a translation of it, and how likely a model holds that."""

    source: str
    target: str
    score: float
    log_prob: float
    # Those of the target, `<eos>` at the end; what the vocabulary lacks is `<unk>`.
    tokens: list[str]
    token_log_probs: list[float]


def score_pairs(
    model: EncoderDecoder,
    source: Codec,
    target: Codec,
    pairs: Iterable[Pair],
    *,
    length_penalty: float = 0.75,
    normalization: str = "length",
    batch_size: int = 32,
) -> Iterator[ScoredPair]:
    """Yields how likely a translator holds each translation given, in order.

    The figures are those that `translate` gives of the same tokens.

    Args:
        model: the translator.
        source, target: its codecs.
        pairs: any number of them; a stream is read batch by batch.
        length_penalty, normalization: as in `beam_search`.
        batch_size: pairs scored side by side; no influence on the result. Default 32.

    Raises:
        ValueError: an option does not fit.
    """
    check_at_least("batch_size", batch_size, 1)
    device = next(model.parameters()).device
    stream, vocab = iter(pairs), target.vocab
    while some := list(islice(stream, batch_size)):
        encoded = [encode_pair(pair, source, target, None) for pair in some]
        sources, lengths = pad_batch([pair.source for pair in encoded], source.vocab.pad)
        targets, _ = pad_batch([pair.target for pair in encoded], vocab.pad)
        with evaluating(model):
            state = model.encode(sources.to(device), lengths.to(device))
        found = score(
            model,
            state,
            targets.to(device),
            bos=vocab.bos,
            eos=vocab.eos,
            pad=vocab.pad,
            length_penalty=length_penalty,
            normalization=normalization,
        )
        for row, (pair, own) in enumerate(zip(some, encoded, strict=True)):
            yield ScoredPair(
                *pair,
                found.scores[row, 0].item(),
                found.log_probs[row, 0].item(),
                vocab.decode(own.target),
                found.token_log_probs[row, 0, : len(own.target)].tolist(),
            )
