# SPDX-License-Identifier: MIT
"""Subwords: what is learnt, what is known of other texts, and what they are learnt from."""

import pytest
import torch

from fused_rnn.text import RESERVED, Codec, Subwords, Vocab, number_pairs

NUMBERS = number_pairs(40, seed=1, limit=1000)


def test_subwords() -> None:
    texts = [pair.target for pair in NUMBERS]
    codec = Codec.learn(texts, tokenizer="subword", reserved=RESERVED, size=60)
    assert len(codec.vocab) <= 60 + len(RESERVED)
    for text in texts:
        assert codec.decode(codec.encode(text).tolist()) == text
        assert len(codec.split(text)) < len(text)
    assert Vocab.unknown in codec.encode("学")
    again = Codec.from_record(codec.record())
    assert again.vocab.tokens == codec.vocab.tokens
    assert torch.equal(again.encode(texts[0]), codec.encode(texts[0]))
    with pytest.raises(ValueError, match="model: expected a tokenizer's JSON"):
        Subwords("{}")
    with pytest.raises(ValueError, match="size: expected at least 2"):
        Subwords.train(texts, 1)
    with pytest.raises(ValueError, match="tokenizer: expected one of"):
        Codec.learn(texts, tokenizer="letters")


def test_characters_that_subwords_do_not_know() -> None:
    texts = [pair.target for pair in NUMBERS]
    codec = Codec.learn(texts, tokenizer="subword", reserved=RESERVED, size=60)
    # Each stands for itself, so that it can be counted and named.
    assert codec.vocab.unread(codec.split("学 cent 习 un")) == ["学", "习"]
    assert codec.encode("cent 学").tolist()[-1] == Vocab.unknown
    with pytest.warns(UserWarning, match="read as <unk>: <unk> 2"):
        codec = Codec.learn(["x <unk> y", "<unk>"], tokenizer="subword", reserved=RESERVED)
    assert codec.vocab.unread(codec.split("x <eos> y <unk>"))[-1] == "<unk>"
    assert codec.vocab.eos not in codec.encode("x <eos> y")


def test_texts_that_are_read_twice() -> None:
    texts = ["one two", "two three"]
    with pytest.raises(TypeError, match="texts: expected what can be read twice.* got generator"):
        Codec.learn((text for text in texts), tokenizer="subword", size=30)
    with pytest.raises(TypeError, match="texts: expected strings"):
        Subwords.train("one two", 30)
    assert len(Codec.learn(iter(texts), tokenizer="word").vocab) == 4
