# SPDX-License-Identifier: MIT
"""Fused layers of Flax', Haiku's and Equinox' cells, beside these."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from interop_rule import check
from torch import Tensor

from fused_rnn import FusedGRU, FusedLSTM, FusedRNN
from fused_rnn.interop import from_equinox, from_flax, from_haiku

pytestmark = pytest.mark.interop
jax = pytest.importorskip("jax", reason="needs the extra `interop`")
linen = pytest.importorskip("flax.linen", reason="needs the extra `interop`")
nnx = pytest.importorskip("flax.nnx", reason="needs the extra `interop`")
hk = pytest.importorskip("haiku", reason="needs the extra `interop`")
eqx = pytest.importorskip("equinox", reason="needs the extra `interop`")
jnp = jax.numpy

BATCH, STEPS, INPUTS, UNITS = 4, 6, 3, 5
LENGTHS = torch.tensor([6, 2, 1, 4])
CELLS = ("LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell")
CLASSES = {"GRUCell": FusedGRU, "SimpleCell": FusedRNN}


def randomized(tree: Any) -> Any:
    """The same arrays, biases included, of other numbers."""
    torch.manual_seed(0)
    return jax.tree.map(lambda a: jnp.asarray(torch.randn(a.shape).numpy() / 2), tree)


def tensors(found: Any) -> list[Tensor]:
    return [torch.tensor(jax.device_get(leaf)) for leaf in jax.tree.leaves(found)]


def check_states(last: Any, carry: list[Tensor]) -> None:
    """The states of one direction; flax' LSTM has c first."""
    found = last[::-1] if isinstance(last, tuple) else (last,)
    for own, other in zip(found, carry, strict=True):
        check(own[0], other)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("options", [{}, {"reverse": True, "keep_order": True}], ids=str)
def test_linen(name: str, options: dict[str, Any]) -> None:
    rnn = linen.RNN(getattr(linen, name)(UNITS), return_carry=True, **options)
    x = torch.randn(BATCH, STEPS, INPUTS)
    variables = randomized(rnn.init(jax.random.key(0), jnp.asarray(x.numpy())))
    layer = from_flax(rnn, variables)
    assert type(layer) is CLASSES.get(name, FusedLSTM) and layer.batch_first
    carry, y = rnn.apply(
        variables, jnp.asarray(x.numpy()), seq_lengths=jnp.asarray(LENGTHS.numpy())
    )
    with torch.no_grad():
        z, last = layer(x, lengths=LENGTHS)
    inside = torch.arange(STEPS) < LENGTHS.unsqueeze(1)
    check(z, tensors(y)[0] * inside.unsqueeze(-1))
    check_states(last, tensors(carry))


@pytest.mark.parametrize("name", CELLS)
def test_linen_cells_and_both_directions(name: str) -> None:
    cell = getattr(linen, name)(UNITS)
    x = torch.randn(BATCH, STEPS, INPUTS)
    first = jnp.asarray(x[:, 0].numpy())
    carry = cell.initialize_carry(jax.random.key(0), first.shape)
    variables = randomized(cell.init(jax.random.key(0), carry, first))
    carry, y = cell.apply(variables, carry, first)
    for given in (variables, variables["params"]):
        with torch.no_grad():
            z, last = from_flax(cell, given)(x[:, :1])
        check(z[:, 0], tensors(y)[0])
        check_states(last, tensors(carry))
    rnns = [linen.RNN(getattr(linen, name)(UNITS), time_major=True) for _ in range(2)]
    both = linen.Bidirectional(*rnns, time_major=True)
    steps = jnp.asarray(x.transpose(0, 1).numpy())
    variables = randomized(both.init(jax.random.key(0), steps))
    layer = from_flax(both, variables)
    assert not layer.batch_first
    with torch.no_grad():
        check(layer(x.transpose(0, 1))[0], tensors(both.apply(variables, steps))[0])


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("both", [False, True], ids=["one", "both"])
def test_nnx(name: str, both: bool) -> None:
    def rnn(seed: int) -> Any:
        cell = getattr(nnx, name)(INPUTS, UNITS, rngs=nnx.Rngs(seed))
        return nnx.RNN(cell, rngs=nnx.Rngs(seed))

    module = nnx.Bidirectional(rnn(0), rnn(1), rngs=nnx.Rngs(2)) if both else rnn(0)
    graph, parameters, rest = nnx.split(module, nnx.Param, ...)
    module = nnx.merge(graph, randomized(parameters), rest)
    x = torch.randn(BATCH, STEPS, INPUTS)
    layer = from_flax(module)
    assert layer.bidirectional == both
    with torch.no_grad():
        check(layer(x)[0], tensors(module(jnp.asarray(x.numpy())))[0])
        if not both:
            check(from_flax(module.cell)(x)[0], layer(x)[0])


def test_relu() -> None:
    cell = linen.SimpleCell(UNITS, activation_fn=linen.relu)
    x = jnp.ones((BATCH, INPUTS))
    carry = cell.initialize_carry(jax.random.key(0), x.shape)
    variables = randomized(cell.init(jax.random.key(0), carry, x))
    layer = from_flax(cell, variables)
    assert layer.nonlinearity == "relu"
    with torch.no_grad():
        check(
            layer(torch.ones(BATCH, 1, INPUTS))[0][:, 0],
            tensors(cell.apply(variables, carry, x)[1])[0],
        )


REFUSED: dict[str, Callable[[], Any]] = {
    "gate_fn: expected sigmoid, .*, got hard_sigmoid": lambda: linen.GRUCell(
        UNITS, gate_fn=linen.hard_sigmoid
    ),
    "activation_fn: expected tanh, .*, got relu": lambda: linen.LSTMCell(
        UNITS, activation_fn=linen.relu
    ),
    "residual: expected False": lambda: linen.SimpleCell(UNITS, residual=True),
    "merge_fn: expected concatenation": lambda: linen.Bidirectional(
        linen.RNN(linen.GRUCell(UNITS)), linen.RNN(linen.GRUCell(UNITS)), merge_fn=jnp.add
    ),
    "backward_rnn: expected a cell like forward_rnn's": lambda: linen.Bidirectional(
        linen.RNN(linen.GRUCell(UNITS)), linen.RNN(linen.LSTMCell(UNITS))
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_no_layer_expresses(message: str) -> None:
    inner = {"cell": {}}
    with pytest.raises(ValueError, match=message):
        from_flax(REFUSED[message](), {"forward_rnn": inner, "backward_rnn": inner})


def test_other_objects() -> None:
    with pytest.raises(TypeError, match="module: expected one of LSTMCell.*, got Dense"):
        from_flax(linen.Dense(3), {})
    with pytest.raises(TypeError, match="variables: expected those of the linen module, got None"):
        from_flax(linen.GRUCell(UNITS))
    with pytest.raises(TypeError, match="variables: expected None beside an nnx module"):
        from_flax(nnx.GRUCell(INPUTS, UNITS, rngs=nnx.Rngs(0)), {})
    with pytest.raises(TypeError, match="got MGUCell"):
        from_flax(linen.MGUCell(UNITS), {})
    with pytest.raises(TypeError, match="cell: expected equinox.nn.LSTMCell or GRUCell, got int"):
        from_equinox(3)


def test_variables_of_another_module() -> None:
    rnn = linen.RNN(linen.GRUCell(UNITS))
    with pytest.raises(
        ValueError, match=r"variables: expected parameters of 'cell', got \['other'\]"
    ):
        from_flax(rnn, {"params": {"other": {}}})
    with pytest.raises(ValueError, match="variables: expected parameters of 'ir', got"):
        from_flax(rnn, {"params": {"cell": {"ii": {}}}})


CORES: dict[str, Callable[[], Any]] = {
    "lstm": lambda: hk.LSTM(UNITS),
    "gru": lambda: hk.GRU(UNITS),
    "rnn": lambda: hk.VanillaRNN(UNITS),
    "rnn of one bias": lambda: hk.VanillaRNN(UNITS, double_bias=False),
}


def unrolled(core: Any, x: Any) -> Any:
    return hk.dynamic_unroll(core, x, core.initial_state(BATCH))


@pytest.mark.parametrize("name", CORES)
def test_haiku(name: str) -> None:
    function = hk.without_apply_rng(hk.transform(lambda x: unrolled(CORES[name](), x)))
    x = torch.randn(STEPS, BATCH, INPUTS)
    steps = jnp.asarray(x.numpy())
    params = randomized(function.init(jax.random.key(0), steps))
    y, state = function.apply(params, steps)
    layer = from_haiku(params)
    with torch.no_grad():
        z, last = layer(x)
    check(z, tensors(y)[0])
    check_states(last[::-1] if isinstance(last, tuple) else last, tensors(state))


def test_haikus_resets() -> None:
    function = hk.without_apply_rng(
        hk.transform(lambda x, cut: unrolled(hk.ResetCore(hk.LSTM(UNITS)), (x, cut)))
    )
    x, resets = torch.randn(STEPS, BATCH, INPUTS), torch.rand(STEPS, BATCH) < 0.3
    given = (jnp.asarray(x.numpy()), jnp.asarray(resets.numpy()))
    params = randomized(function.init(jax.random.key(0), *given))
    y, _ = function.apply(params, *given)
    with torch.no_grad():
        check(from_haiku(params)(x, resets=resets)[0], tensors(y)[0])


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"linear": {"w": torch.ones(3, 8)}},
        {"linear": {"w": torch.ones(3, 7), "b": torch.ones(7)}},
        {"linear": {"w": torch.ones(3, 4)}, "linear_1": {"w": torch.ones(4, 5)}},
        {"a/gru": {"w_i": 0, "w_h": 0, "b": 0}, "b/gru": {"w_i": 0, "w_h": 0, "b": 0}},
    ],
    ids=str,
)
def test_parameters_of_no_core(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected .* hk"):
        from_haiku(params)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell"])
def test_equinox(name: str, bias: bool) -> None:
    cell = getattr(eqx.nn, name)(INPUTS, UNITS, use_bias=bias, key=jax.random.key(0))
    arrays, rest = eqx.partition(cell, eqx.is_array)
    cell = eqx.combine(randomized(arrays), rest)
    x = torch.randn(STEPS, 1, INPUTS)
    zeros = jnp.zeros(UNITS)
    state = (zeros, zeros) if name == "LSTMCell" else zeros
    outputs = []
    for step in jnp.asarray(x[:, 0].numpy()):
        state = cell(step, state)
        outputs.append(state[0] if name == "LSTMCell" else state)
    with torch.no_grad():
        z, last = from_equinox(cell)(x)
    check(z[:, 0], torch.stack(tensors(outputs)))
    for own, other in zip(
        last if isinstance(last, tuple) else (last,), tensors(state), strict=True
    ):
        check(own[0, 0], other)
