# SPDX-License-Identifier: MIT
"""The values of an ONNX graph that no input can change."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .recurrences import tensor


def graphs_of(node: Any) -> list[Any]:
    """The graphs inside a node of control flow."""
    return [
        graph
        for attribute in node.attribute
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)
    ]


class Constants:
    """Constants by name: initializers, and what nodes make of constants alone.

    Args:
        graph: an onnx.GraphProto.
        opsets: those of its model.
        around: the constants of the graph that this one lies in, which it can name, too.
    """

    def __init__(self, graph: Any, opsets: Any, around: Constants | None) -> None:
        self._opsets, self._around = opsets, around
        self._initializers = {own.name: own for own in graph.initializer}
        self._nodes = list(graph.node)
        self._makers = {out: at for at, node in enumerate(graph.node) for out in node.output if out}

    def get(self, name: str) -> Tensor | None:
        """The value of that name; None where it is no constant."""
        from onnx import numpy_helper

        if name in self._initializers:
            return tensor(numpy_helper.to_array(self._initializers[name]))
        if name in self._makers:
            return self._computed(name)
        return None if self._around is None or not name else self._around.get(name)

    def _computed(self, name: str) -> Tensor | None:
        """The value nodes make of constants, by ONNX's own reference; None where they need more."""
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        needed, open_names, leaves = set(), [name], {}
        while open_names:
            wanted = open_names.pop()
            at = self._makers.get(wanted)
            if at is None:
                leaf = self._initializer(wanted)
                if leaf is None:
                    return None
                leaves[wanted] = leaf
            elif graphs_of(self._nodes[at]):
                return None
            elif at not in needed:
                needed.add(at)
                open_names += [given for given in self._nodes[at].input if given]
        nodes = [self._nodes[at] for at in sorted(needed)]
        info = helper.make_tensor_value_info(name, 0, None)
        graph = helper.make_graph(nodes, "constants", [], [info], list(leaves.values()))
        model = helper.make_model(graph, opset_imports=self._opsets)
        return tensor(ReferenceEvaluator(model).run([name], {})[0])

    def _initializer(self, name: str) -> Any:
        if name in self._initializers or self._around is None:
            return self._initializers.get(name)
        return self._around._initializer(name)
