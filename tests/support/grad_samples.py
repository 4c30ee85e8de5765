# SPDX-License-Identifier: MIT
"""opacus' GradSampleModule, or where that is missing one that asks modules for the same things."""

import copy
import functools
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

try:
    from opacus.grad_sample import GradSampleModule
except ImportError:

    class GradSampleModule(nn.Module):  # type: ignore[no-redef]
        """A model whose weights get `grad_sample`, (B, ...), in a backward pass, by hooks.

        A stack of what went into a module is kept; what comes back is taken with the top of it to
        a function of the module, whose answers add up until all calls have come back.
        """

        GRAD_SAMPLERS: ClassVar[dict[type[nn.Module], Any]] = {}

        def __init__(
            self,
            model: nn.Module,
            *,
            batch_first: bool = True,
            loss_reduction: str = "mean",
            force_functorch: bool = False,
        ) -> None:
            super().__init__()
            self._module, self.hooks_enabled = model, True
            self.batch_axis, self.mean = 0 if batch_first else 1, loss_reduction == "mean"
            self.handles = []
            for weight in model.parameters():
                weight.grad_sample, weight._forward_counter = None, 0
            options = {"loss_reduction": loss_reduction, "batch_first": batch_first}
            for module in model.modules():
                if not list(module.parameters(recurse=False)):
                    continue
                module.ft_compute_sample_grad = self.by_vmap(module)
                after = functools.partial(self.capture_backprops_hook, **options)
                self.handles += [
                    module.register_forward_hook(self.capture_activations_hook),
                    module.register_full_backward_hook(after),
                ]

        def forward(self, *args: Any) -> Any:
            return self._module(*args)

        def by_vmap(self, module: nn.Module) -> Any:
            names, module = [name for name, _ in module.named_parameters()], copy.deepcopy(module)

            def loss(weights: list[Tensor], x: Tensor, dy: Tensor) -> Tensor:
                named = dict(zip(names, weights, strict=True))
                args = (x.unsqueeze(self.batch_axis),)
                y = torch.func.functional_call(module, named, args)
                return (y.squeeze(self.batch_axis) * dy).sum()

            return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))

        def capture_activations_hook(self, module: Any, args: Any, _: Any) -> None:
            if not (self.hooks_enabled and module.training and torch.is_grad_enabled()):
                return
            module.__dict__.setdefault("activations", []).append([x.detach() for x in args])
            for weight in module.parameters():
                weight._forward_counter += 1

        def capture_backprops_hook(
            self, module: Any, _: Any, grads: Any, loss_reduction: str, batch_first: bool
        ) -> None:
            if not self.hooks_enabled:
                return
            dy = grads[0].detach().movedim(self.batch_axis, 0)
            x = module.activations.pop()[0].movedim(self.batch_axis, 0)
            weights, scale = list(module.parameters()), len(x) if self.mean else 1
            found = module.ft_compute_sample_grad(weights, x, dy * scale)
            for weight, rows in zip(weights, found, strict=True):
                if weight.requires_grad:
                    sofar = getattr(weight, "_current_grad_sample", 0)
                    weight._current_grad_sample = sofar + rows
                weight._forward_counter -= 1
                if weight._forward_counter == 0 and weight.requires_grad:
                    weight.grad_sample = weight._current_grad_sample
                    del weight._current_grad_sample

        def remove_hooks(self) -> None:
            for handle in self.handles:
                handle.remove()


__all__ = ["GradSampleModule"]
