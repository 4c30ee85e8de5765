# SPDX-License-Identifier: MIT
"""Translators made from a configuration, what they lose on pairs, and their training."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...text.pairs import PairData, TranslationBatch
from ..search.stepping import evaluating
from ..training import parallel
from ..training.options import Options, check_at_least, check_choice
from ..training.training import Evaluation, Loss, Training
from .attention import ATTENTIONS
from .decoder import ATTENDS, AttentionDecoder, RNNDecoder
from .encoder import RNNEncoder
from .interfaces import EncoderDecoder
from .recurrence import CELLS


@dataclass(frozen=True, kw_only=True)
class TranslatorConfig:
    """The configuration of a translator.

    Args:
        source_vocab_size, target_vocab_size: numbers of tokens.
        cell: one of CELLS. Default "gru".
        hidden_size: size of the state of each layer, and of each direction, H. Default 256.
        num_layers: layers of the encoder and of the decoder, L. Default 1.
        embedding_size: size of a token's vector. Default 256.
        bidirectional: whether the encoder reads both ways. Default True.
        attention: one of ATTENTIONS, or "none" for one context a sentence. Default "general".
        attend: "after" or "before" the step. Default "after".
        dropout: between layers. Default 0.
        outer_dropout: on embeddings and before the output layer. Default 0.2.
        tied: whether the output layer's weight is the target embedding's. Default False.
        shared_embedding: whether source and target have one embedding, for which they need one
            vocabulary. Default False.
    """

    source_vocab_size: int
    target_vocab_size: int
    cell: str = "gru"
    hidden_size: int = 256
    num_layers: int = 1
    embedding_size: int = 256
    bidirectional: bool = True
    attention: str = "general"
    attend: str = "after"
    dropout: float = 0.0
    outer_dropout: float = 0.2
    tied: bool = False
    shared_embedding: bool = False

    def __post_init__(self) -> None:
        check_choice("cell", self.cell, CELLS)
        check_choice("attention", self.attention, ("none", *ATTENTIONS))
        check_choice("attend", self.attend, ATTENDS)
        for name in (
            "source_vocab_size",
            "target_vocab_size",
            "hidden_size",
            "num_layers",
            "embedding_size",
        ):
            check_at_least(name, getattr(self, name), 1)
        if self.shared_embedding and self.source_vocab_size != self.target_vocab_size:
            raise ValueError(
                f"shared_embedding: expected one vocabulary, got {self.source_vocab_size} and "
                f"{self.target_vocab_size} tokens"
            )
        for name in ("dropout", "outer_dropout"):
            if not 0 <= getattr(self, name) < 1:
                given = getattr(self, name)
                raise ValueError(f"{name}: expected at least 0, below 1, got {given}")


class Translator(EncoderDecoder):
    """The encoder and decoder of a configuration.

    Args:
        config: their sizes.
        backend: of the recurrent layers. Default "auto".

    Raises:
        ValueError: parts of the configuration do not fit together.
    """

    encoder: RNNEncoder

    def __init__(self, config: TranslatorConfig, *, backend: str = "auto") -> None:
        shared: dict[str, Any] = {
            "cell": config.cell,
            "dropout": config.dropout,
            "outer_dropout": config.outer_dropout,
            "backend": backend,
        }
        sizes = (config.embedding_size, config.hidden_size, config.num_layers)
        encoder = RNNEncoder(
            config.source_vocab_size, *sizes, bidirectional=config.bidirectional, **shared
        )
        decoder: RNNDecoder | AttentionDecoder
        if config.attention == "none":
            decoder = RNNDecoder(config.target_vocab_size, *sizes, tied=config.tied, **shared)
        else:
            decoder = AttentionDecoder(
                config.target_vocab_size,
                *sizes,
                attention=config.attention,
                attend=config.attend,
                memory_size=encoder.output_size,
                tied=config.tied,
                **shared,
            )
        if config.shared_embedding:
            encoder.embedding.weight = decoder.embedding.weight
        super().__init__(encoder, decoder)
        self.config = config


def masked_cross_entropy(
    logits: Tensor, targets: Tensor, lengths: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """Returns the negative log-likelihood of targets, summed over all places before the lengths.

    Args:
        logits: (B, T, V).
        targets: token numbers, (B, T).
        lengths: tokens of each row that count, (B,).
        label_smoothing: part of the probability that is to go to any token alike. Default 0.
    """
    past = torch.arange(targets.size(1), device=targets.device) >= lengths.unsqueeze(1)
    labels = targets.masked_fill(past, -100)
    return F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="sum", label_smoothing=label_smoothing
    )


def teacher_forced_loss(
    model: EncoderDecoder, batch: TranslationBatch, bos: int, label_smoothing: float = 0.0
) -> Tensor:
    """Returns the summed loss of a minibatch, whose right tokens the decoder is fed.

    Args:
        model: an EncoderDecoder, or what wraps one.
        batch: on the model's device.
        bos: the number of `<bos>`, fed first.
        label_smoothing: see `masked_cross_entropy`. Default 0.
    """
    source, source_lengths, target, target_lengths = batch
    fed = F.pad(target[:, :-1], (1, 0), value=bos)
    logits = model(source, fed, source_lengths).logits
    return masked_cross_entropy(logits, target, target_lengths, label_smoothing=label_smoothing)


def evaluate_translator(
    model: EncoderDecoder, pairs: PairData, bos: int, *, batch_size: int = 64
) -> Evaluation:
    """Returns how well a translator predicts the right translations, with teacher forcing.

    Args:
        model: the translator.
        pairs: read in their order.
        bos: the number of `<bos>` among the target tokens.
        batch_size: pairs read side by side; no influence on the result. Default 64.

    Raises:
        ValueError: there are no pairs.
    """
    device = next(model.parameters()).device
    total, count = 0.0, 0
    with evaluating(model):
        for batch in pairs.batches(batch_size):
            moved = TranslationBatch(*(part.to(device) for part in batch))
            total += teacher_forced_loss(model, moved, bos).item()
            count += int(batch.target_lengths.sum())
    if not count:
        raise ValueError("pairs: expected at least one, got none")
    return Evaluation(total, count)


class TranslatorTraining(Training):
    """A translator being trained, with teacher forcing and masked cross-entropy.

    Args:
        model: trained in place.
        pairs: what to train on.
        bos: the number of `<bos>` among the target tokens.
        options: how.

    Raises:
        ValueError: there are no pairs.
    """

    unit = "pair"

    def __init__(self, model: EncoderDecoder, pairs: PairData, bos: int, options: Options) -> None:
        self.model, self.pairs, self.bos, self.options = model, pairs, bos, options
        super().__init__(model, options, pairs.digest)
        if next(self._pass(), None) is None:
            raise ValueError("pairs: expected at least one, got none")

    def _minibatches(self, rng: random.Random) -> Iterator[TranslationBatch]:
        return self.pairs.batches(self.options.batch_size, rng)

    def _loss(self, batch: TranslationBatch) -> Loss:
        device = next(self.model.parameters()).device
        own = TranslationBatch(*(self._own_rows(part).to(device) for part in batch))
        if self._world.rank >= len(batch.source):
            # A process without a row reads one that does not count.
            own = own._replace(target_lengths=torch.zeros_like(own.target_lengths))
        smoothing = self.options.label_smoothing
        total = teacher_forced_loss(self._called, own, self.bos, smoothing)  # type: ignore[arg-type]
        return Loss(total, self._divisor(batch))

    def _divisor(self, batch: TranslationBatch) -> float:
        """The divisor of the summed loss of a minibatch: its number of target tokens."""
        return int(batch.target_lengths.sum())

    def _own_rows(self, part: Tensor) -> Tensor:
        return parallel.share(part) if self._world.rank < len(part) else part[:1]

    def _name(self, held_out: PairData) -> str:
        return held_out.digest

    def evaluate(self, held_out: PairData) -> Evaluation:
        """Returns how well held-out pairs are predicted."""
        return evaluate_translator(
            self.model, held_out, self.bos, batch_size=self.options.batch_size
        )
