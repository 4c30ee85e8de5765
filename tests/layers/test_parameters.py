# SPDX-License-Identifier: MIT
"""Parameters: torch.nn's names, order and first values; moved, tied, replaced, deleted at will."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from twins import ALL, LAYERS, assert_same, tensors, twins

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((kind, options) for kind in LAYERS for options in (
        {},
        dict(num_layers=2, bidirectional=True),
        dict(num_layers=3, bias=False),
    )),
    ("LSTM", dict(num_layers=2, bidirectional=True, proj_size=2)),
    ("LSTM", dict(bias=False, proj_size=2)),
    *((kind, dict(bias=bias)) for kind in ("RNNCell", "GRUCell", "LSTMCell") for bias in (0, 1)),
]  # fmt: skip


def input_for(kind: str, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*((2, 3) if kind.endswith("Cell") else (4, 2, 3)), dtype=dtype)


@pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=str)
def test_first_values_and_random_state(kind: str, options: dict[str, Any]) -> None:
    modules, following = [], []
    for cls in ALL[kind]:
        torch.manual_seed(7)
        modules.append(cls(3, 5, **options))
        following.append(torch.rand(3))
    ours, theirs = (list(module.state_dict().items()) for module in modules)
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    for (_, p), (_, q) in zip(ours, theirs, strict=True):
        assert p.dtype == q.dtype
        assert torch.equal(p, q)
    assert torch.equal(*following)
    assert not list(modules[0].buffers())
    torch.manual_seed(9)
    modules[0].reset_parameters()
    torch.manual_seed(9)
    modules[1].reset_parameters()
    for p, q in zip(*(module.parameters() for module in modules), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=str)
def test_state_dict_moves_both_ways(kind: str, options: dict[str, Any]) -> None:
    ours, theirs = (cls(3, 5, **options) for cls in ALL[kind])
    assert str(ours.load_state_dict(theirs.state_dict())) == "<All keys matched successfully>"
    fresh = ALL[kind][1](3, 5, **options)
    assert str(fresh.load_state_dict(ours.state_dict())) == "<All keys matched successfully>"
    with pytest.raises(RuntimeError, match="Missing key.*weight_ih"):
        ours.load_state_dict({})
    with pytest.raises(RuntimeError, match="size mismatch for weight_ih"):
        ours.load_state_dict(ALL[kind][1](4, 5, **options).state_dict())


@pytest.mark.parametrize("kind", LAYERS)
def test_lists_of_weights(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5, 2, bidirectional=True)
    for mine, yours in zip(ours.all_weights, theirs.all_weights, strict=True):
        assert_same(mine, yours)
    assert all(w is p for w, p in zip(sum(ours.all_weights, []), ours.parameters(), strict=True))
    assert all(w is p for w, p in zip(ours._flat_weights, ours.parameters(), strict=True))
    assert ours._flat_weights_names == theirs._flat_weights_names
    assert ours._all_weights == theirs._all_weights
    assert ours.flatten_parameters() is None


@pytest.mark.parametrize("kind", LAYERS)
def test_checks_by_hand(kind: str) -> None:
    options = dict(proj_size=2) if kind == "LSTM" else {}
    for module in twins(kind, 3, 5, 2, **options):
        x = torch.randn(4, 2, 3, dtype=torch.float64)
        out = module.get_expected_hidden_size(x, None)
        assert out == (2, 2, 2 if kind == "LSTM" else 5)
        hx = torch.zeros(out, dtype=torch.float64)
        if kind == "LSTM":
            cells = module.get_expected_cell_size(x, None)
            assert cells == (2, 2, 5)
            hx = (hx, torch.zeros(cells, dtype=torch.float64))
        module.check_input(x, None)
        module.check_forward_args(x, hx, None)
        module.check_hidden_size(tensors(hx)[0], out)
        with pytest.raises(RuntimeError, match=r"Expected 3, got 4"):
            module.check_input(torch.randn(4, 2, 4, dtype=torch.float64), None)
        order = torch.tensor([1, 0])
        assert_same(module.permute_hidden(hx, None), hx)
        permuted = tensors(module.permute_hidden(hx, order))
        assert all(torch.equal(p, h[:, order]) for p, h in zip(permuted, tensors(hx), strict=True))


@pytest.mark.parametrize("kind", ALL)
def test_write_through_data_is_seen(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    x = input_for(kind)
    with torch.no_grad():
        ours(x)
        for module in (ours, theirs):
            for p in module.parameters():
                p.data.mul_(0.5)
        assert_same(ours(x), theirs(x))
        for module in (ours, theirs):
            for p in module.parameters():
                p.data = torch.ones_like(p)
        assert_same(ours(x), theirs(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_tied_weights(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5, bidirectional=True)
    for module in (ours, theirs):
        module.bias_ih_l0_reverse = module.bias_ih_l0
        module.weight_hh_l0_reverse = module.weight_hh_l0
    assert len(list(ours.parameters())) == 6
    x = input_for(kind)
    for module in (ours, theirs):
        sum(result.sum() for result in tensors(module(x))).backward()
    assert_same(ours.weight_hh_l0.grad, theirs.weight_hh_l0.grad)
    assert_same(ours.bias_ih_l0.grad, theirs.bias_ih_l0.grad)
    twin = copy.deepcopy(ours).double()
    assert twin.weight_hh_l0 is twin.weight_hh_l0_reverse


@pytest.mark.parametrize("kind", ALL)
def test_plain_tensor_in_place_of_a_weight(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    name = "weight_hh" if kind.endswith("Cell") else "weight_hh_l0"
    x = input_for(kind)
    raw = torch.randn_like(getattr(ours, name), requires_grad=True)
    gradients = []
    for module in (ours, theirs):
        delattr(module, name)
        setattr(module, name, raw * 0.5)
        (gradient,) = torch.autograd.grad(sum(t.sum() for t in tensors(module(x))), raw)
        gradients.append(gradient)
    assert_same(ours(x), theirs(x))
    assert_same(*gradients)
    # A fresh one at each step, as weight drop does it.
    for module in (ours, theirs):
        setattr(module, name, raw.detach() * 2)
    assert_same(ours(x), theirs(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_replaced_parameter_and_list(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    x = input_for(kind)
    new = torch.randn_like(ours.weight_hh_l0)
    for module in (ours, theirs):
        module.weight_hh_l0 = nn.Parameter(new)
        # What code that worked around torch.nn's cache does next.
        module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
    assert_same(ours(x), theirs(x))
    weights = list(ours._flat_weights)
    weights[0] = nn.Parameter(weights[0].detach() * 2)
    before = ours.weight_ih_l0
    for module in (ours, theirs):
        module._flat_weights = weights
    assert ours.weight_ih_l0 is before
    assert_same(ours(x), theirs(x))
    ours._parameters["weight_hh_l0"] = theirs._parameters["weight_hh_l0"] = nn.Parameter(new * 2)
    assert_same(ours(x), theirs(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_deleted_weight(kind: str) -> None:
    module = LAYERS[kind][0](3, 5)
    del module.weight_hh_l0
    module.to(torch.float64).flatten_parameters()
    assert module._flat_weights[1] is None
    assert module.weight_ih_l0.dtype == torch.float64
    with pytest.raises(AttributeError, match="weight_hh_l0"):
        module(torch.randn(4, 2, 3, dtype=torch.float64))


@pytest.mark.parametrize("kind", ALL)
def test_moves_keep_parameters(kind: str) -> None:
    module = ALL[kind][0](3, 5)
    before = list(module.parameters())
    for move in ("double", "half", "bfloat16", "float"):
        getattr(module, move)()
        dtype = before[0].dtype
        out = tensors(module(input_for(kind, dtype)))
        assert all(t.dtype == dtype for t in out)
    module.to(torch.float64).cpu().to("cpu").requires_grad_(False).train(False)
    assert all(p is q for p, q in zip(before, module.parameters(), strict=True))
    assert all(p.is_shared() for p in module.share_memory().parameters())


@pytest.mark.parametrize("kind", ALL)
def test_built_on_meta_then_filled(kind: str) -> None:
    _, theirs = twins(kind, 3, 5)
    for assign in (False, True):
        module = ALL[kind][0](3, 5, device="meta", dtype=torch.float64)
        if not assign:
            module = module.to_empty(device="cpu")
        module.load_state_dict(theirs.state_dict(), assign=assign)
        x = input_for(kind)
        assert_same(module(x), theirs(x))


@pytest.mark.parametrize("kind", ALL)
def test_swapped_parameters(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    x = input_for(kind)
    ours(x)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        ours.load_state_dict(ALL[kind][0](3, 5, dtype=torch.float64).state_dict())
        ours.float().double()
        ours.load_state_dict(theirs.state_dict())
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert_same(ours(x), theirs(x))


@pytest.mark.parametrize("kind", ALL)
def test_optimizer_state_moves_over(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    optimizers = [
        torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9) for module in (ours, theirs)
    ]

    def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        sum(t.square().sum() for t in tensors(module(x))).backward()
        optimizer.step()

    x = input_for(kind)
    for _ in range(2):
        step(theirs, optimizers[1])
    ours.load_state_dict(theirs.state_dict())
    # Loading alone would leave both with the same momentum tensors.
    optimizers[0].load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
    step(ours, optimizers[0])
    step(theirs, optimizers[1])
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert_same(p, q, name)
