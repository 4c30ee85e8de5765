# SPDX-License-Identifier: MIT
"""Gradients of weights for each row of a batch, as PyTorch's expanded weights and opacus ask.

A row gets weights of its own, all views of the same. Whatever the layer does is then right for its
gradients too: both directions, lengths, resets, dropout, a loss of any of the outputs.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .functorch import Many, Maybe

Receive = Callable[[Many], Many]

# The methods that opacus' GradSampleModule hooks to every module with parameters.
_BEFORE, _AFTER = "capture_activations_hook", "capture_backprops_hook"


class RowWeights(NamedTuple):
    """The weights of a module as the rows of one batch have them."""

    weights: list[Tensor]  # (B, ...), or (...) where one serves all rows
    own: list[bool]  # which are the former


class _Rows(torch.autograd.Function):
    """The map (receive, batch, order, *weights) -> each weight `batch` times, (B, ...).

    Their gradients, rows in the order given, go to `receive`, which returns those of the weights.
    """

    @staticmethod
    def forward(
        ctx: Any, receive: Receive, batch: int, order: Maybe, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.receive, ctx.order = receive, order
        ctx.set_materialize_grads(False)
        return tuple(w.detach().expand(batch, *w.shape) for w in weights)

    @staticmethod
    def backward(ctx: Any, *grads: Maybe) -> Many:
        if ctx.order is not None:
            grads = tuple(None if g is None else g.index_select(0, ctx.order) for g in grads)
        return None, None, None, *ctx.receive(grads)


def by_row(
    run: Callable[..., Iterable[Maybe]],
    axis: int,
    rows: RowWeights,
    x: Tensor,
    states: Sequence[Tensor],
    lengths: Maybe = None,
    resets: Maybe = None,
) -> list[Tensor]:
    """The tensors that `run(x, states, weights, lengths, resets)` returns, with the weights `rows`.

    Args:
        axis: of the batch, in all but `lengths`, (B,).
    """
    if x.shape[axis] == 0:
        # No numbers come of any weights.
        weights = [w.sum(0) if own else w for w, own in zip(*rows, strict=True)]
        return [t for t in run(x, states, weights, lengths, resets) if t is not None]

    def one(
        x: Tensor, states: list[Tensor], weights: list[Tensor], lengths: Maybe, resets: Maybe
    ) -> tuple[Tensor, ...]:
        lengths = None if lengths is None else lengths.unsqueeze(0)
        resets = None if resets is None else resets.unsqueeze(axis)
        states = [state.unsqueeze(axis) for state in states]
        found = run(x.unsqueeze(axis), states, weights, lengths, resets)
        return tuple(t.squeeze(axis) for t in found if t is not None)

    dims = (
        axis,
        [axis] * len(states),
        [0 if own else None for own in rows.own],
        None if lengths is None else 0,
        None if resets is None else axis,
    )
    mapped = torch.func.vmap(one, in_dims=dims, out_dims=axis, randomness="different")
    return list(mapped(x, list(states), rows.weights, lengths, resets))


def expanded(
    weights: Sequence[Any], batch: int, order: Maybe, *, packed: bool
) -> RowWeights | None:
    """The weights of a call by torch.nn.utils' call_for_per_sample_grads; None for any other call.

    Args:
        batch: how many rows they are for.
        order: where each row of the user's batch is among those; None is the same place.
        packed: whether fewer rows will do than the weights were made for, as they do there.

    Raises:
        RuntimeError: they were made for another number of rows.
    """
    from torch.nn.utils._expanded_weights.expanded_weights_impl import ExpandedWeight
    from torch.nn.utils._expanded_weights.expanded_weights_utils import set_grad_sample_if_exists

    own = [isinstance(w, ExpandedWeight) for w in weights]
    asking = [w for w, o in zip(weights, own, strict=True) if o]
    if not asking:
        return None
    for w in asking:
        if w.batch_size < batch or (w.batch_size != batch and not packed):
            raise RuntimeError(
                "Expected ExpandedWeights to have batch size matching input but got input batch "
                f"size of {batch} with ExpandedWeight of batch size {w.batch_size}"
            )

    def receive(grads: Many) -> Many:
        for w, grad in zip(asking, grads, strict=True):
            if grad is not None:
                set_grad_sample_if_exists(w, lambda _, grad=grad: grad)
        return (None,) * len(grads)

    plain = [w.orig_weight if o else w for w, o in zip(weights, own, strict=True)]
    return _rows(receive, batch, order, plain, own)


def _rows(
    receive: Receive, batch: int, order: Maybe, weights: Sequence[Tensor], own: list[bool]
) -> RowWeights:
    asking = [w for w, o in zip(weights, own, strict=True) if o]
    views = iter(_Rows.apply(receive, batch, order, *asking))
    return RowWeights([next(views) if o else w for w, o in zip(weights, own, strict=True)], own)


class Watchable(nn.Module):
    """A module that gives opacus the gradients of its weights for each row by itself.

    The hooks of opacus see the gradient of a module's first output alone, and no nested inputs.
    They are kept apart, and called with a mark of the batch in place of inputs and gradients.
    """

    _watchers: "OrderedDict[int, Any] | None" = None

    def register_forward_hook(self, hook: Any, **options: Any) -> RemovableHandle:
        """A handle that removes the hook; as torch.nn's."""
        return self._watched_by(hook) or super().register_forward_hook(hook, **options)

    def register_full_backward_hook(self, hook: Any, prepend: bool = False) -> RemovableHandle:
        """A handle that removes the hook; as torch.nn's."""
        return self._watched_by(hook) or super().register_full_backward_hook(hook, prepend)

    def _watched_by(self, hook: Any) -> RemovableHandle | None:
        """A handle that removes a hook of opacus; None for any other, which is not kept here."""
        samplers = getattr(_owner(hook), "GRAD_SAMPLERS", None)
        # Where somebody has told opacus of a way, that is taken.
        if _name(hook) not in (_BEFORE, _AFTER) or samplers is None or type(self) in samplers:
            return None
        if self._watchers is None:
            self._watchers = OrderedDict()
        handle = RemovableHandle(self._watchers)
        self._watchers[handle.id] = hook
        return handle

    def _watched(
        self, weights: Sequence[Tensor], batch: int, order: Maybe, like: Tensor
    ) -> RowWeights | None:
        """The weights of a call that opacus watches; None if it does not.

        Raises:
            RuntimeError: a weight is computed of parameters, whose gradients are not known then.
        """
        hooks = {_name(hook): hook for hook in (self._watchers or {}).values()}
        own = [w.requires_grad for w in weights]
        if len(hooks) < 2 or not (self.training and torch.is_grad_enabled() and any(own)):
            return None
        before, after = hooks[_BEFORE], hooks[_AFTER]
        if not _owner(before).hooks_enabled:
            return None
        asking = [w for w, o in zip(weights, own, strict=True) if o]
        if not all(isinstance(w, nn.Parameter) for w in asking):
            raise RuntimeError("weights: expected parameters, as opacus asks, got computed ones")
        mark = like.new_ones((batch, 1) if after.keywords["batch_first"] else (1, batch))
        before(self, (mark,), None)
        return _rows(partial(self._tell, after, mark, asking), batch, order, weights, own)

    def _tell(
        self, after: Callable[..., None], mark: Tensor, asking: list[Tensor], grads: Many
    ) -> Many:
        """The gradients of the weights that ask, after a hook of opacus has seen those of rows."""
        found = {
            w: w.new_zeros(mark.numel(), *w.shape) if grad is None else grad
            for w, grad in zip(asking, grads, strict=True)
        }

        def answer(parameters: Sequence[Tensor], _: Tensor, mark: Tensor) -> list[Maybe]:
            # opacus has made the mark as many times as large as its loss asks.
            scale = {p: mark.reshape(-1, *[1] * p.dim()) for p in found}
            return [found[p] * scale[p] if p in found else None for p in parameters]

        # Under this name opacus looks for what it takes vmap for in other modules.
        self.ft_compute_sample_grad = answer
        try:
            after(self, (), (mark,))
        finally:
            del self.ft_compute_sample_grad
        return tuple(found[w].sum(0) for w in asking)


def _method(hook: Any) -> Any:
    return hook.func if isinstance(hook, partial) else hook


def _name(hook: Any) -> str:
    return getattr(_method(hook), "__name__", "")


def _owner(hook: Any) -> Any:
    return getattr(_method(hook), "__self__", None)
