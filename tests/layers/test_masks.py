# SPDX-License-Identifier: MIT
"""Masks of dropout and zoneout: how often, of what, and what is kept of them."""

import itertools
import math

import pytest
import torch
from cases import need
from torch import Tensor
from varied_layers import noted_masks

import fused_rnn
from fused_rnn.backends.reference.draws import philox
from fused_rnn.testing import assert_within_budget

T, B, INPUT, H = 6, 5, 4, 10


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The masks of the last call."""
    return noted_masks(monkeypatch)


def test_masks(drawn: dict[str, Tensor]) -> None:
    layer = fused_rnn.FusedLSTM(
        INPUT, 1000, zoneout=0.25, zoneout_cell=0.75, recurrent_dropout=0.125
    )
    x = torch.randn(T, B, INPUT)
    layer(x)
    # Marks of T * B * H = 30,000, and one of B * H = 5,000: five standard deviations.
    for name, chance, count in (("hold", 0.25, 30_000), ("hold_cell", 0.75, 30_000)):
        share = drawn[name].float().mean().item()
        assert abs(share - chance) < 5 * math.sqrt(chance * (1 - chance) / count)
    keep = drawn["keep"]
    assert keep.dtype == torch.bool and bool((keep == keep[:1]).all())
    assert abs(keep[0].float().mean().item() - 0.875) < 5 * math.sqrt(0.125 * 0.875 / 5_000)
    before = {name: mask.clone() for name, mask in drawn.items()}
    layer(x)
    assert not any(torch.equal(before[name], mask) for name, mask in drawn.items())
    layer.eval()(x)
    assert not drawn


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_mark_begins_a_new_mask(direction: str, drawn: dict[str, Tensor]) -> None:
    layer = fused_rnn.FusedGRU(INPUT, 64, recurrent_dropout=0.5, direction=direction)
    resets = torch.zeros(T, 2, dtype=torch.bool)
    resets[2, 0] = resets[5, 0] = True
    layer(torch.randn(T, 2, INPUT), resets=resets)
    keep = drawn["keep"][:, :, 0]
    same = [[torch.equal(keep[t, b], keep[t - 1, b]) for t in range(1, T)] for b in range(2)]
    assert same == [[True, False, True, True, False], [True] * 5]


def test_the_generator() -> None:
    # Known answers, of counters and keys of all zeros and all ones.
    for word, answer in (
        (0, (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
        (0xFFFFFFFF, (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662)),
    ):
        counter = (torch.tensor(word),) * 4
        found = philox(counter, torch.tensor(-1 if word else 0))
        assert tuple(int(one) for one in found) == answer


def test_a_mask_is_of_its_row_and_place(drawn: dict[str, Tensor]) -> None:
    """What is drawn depends on a row's seed alone; recurrences, steps and uses differ."""
    layer = fused_rnn.FusedLSTM(
        INPUT, 64, bidirectional=True, zoneout=0.5, zoneout_cell=0.5, recurrent_dropout=0.5,
        recurrent_dropout_mode="update",
    )  # fmt: skip
    x = torch.randn(T, B, INPUT)
    torch.manual_seed(3)
    layer(x)
    longer = {name: mask.clone() for name, mask in drawn.items()}
    torch.manual_seed(3)
    layer(x[:4])
    assert all(torch.equal(mask, longer[name][:4]) for name, mask in drawn.items())
    every = itertools.product(drawn.values(), range(4), range(B), range(2))
    places = [mask[t, b, n] for mask, t, b, n in every]
    assert len({tuple(place.tolist()) for place in places}) == len(places)


@pytest.mark.parametrize("mode", ["variational", "update"])
@pytest.mark.parametrize("batch", [1, 64])
def test_training_keeps_a_seed_for_each_row_and_no_masks(mode: str, batch: int) -> None:
    need("native")
    kept = {}
    for chance in (0.0, 0.3):
        layer = fused_rnn.FusedLSTM(
            INPUT, 32, layer_norm=True, zoneout=chance, recurrent_dropout=chance,
            recurrent_dropout_mode=mode,
        )  # fmt: skip
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: saved.append(t.numel() * t.element_size()) or t, lambda t: t
        ):
            layer(torch.randn(20, batch, INPUT))
        kept[chance] = sum(saved)
    assert kept[0.3] - kept[0.0] == 8 * batch


@pytest.mark.parametrize("chance", [0.0, 1.0])
@pytest.mark.parametrize("mode", ["variational", "update"])
def test_all_or_nothing(mode: str, chance: float) -> None:
    layer = fused_rnn.FusedLSTM(
        INPUT, H, recurrent_dropout=chance, recurrent_dropout_mode=mode, zoneout=chance
    )
    x, state = torch.randn(T, B, INPUT), tuple(torch.randn(2, 1, B, H))
    y, (hn, _) = layer(x, state)
    if chance:
        assert torch.equal(y, state[0].expand_as(y)) and torch.equal(hn, state[0])
    else:
        plain = torch.nn.LSTM(INPUT, H)
        plain.load_state_dict(layer.state_dict())
        truth = plain.double()(x.double(), tuple(s.double() for s in state))[0]
        assert_within_budget(y, truth, plain.float()(x, state)[0])
