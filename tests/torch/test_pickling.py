# SPDX-License-Identifier: MIT
"""Copies: pickle, deepcopy, torch.save, other processes, before and after a forward."""

import copy
import copyreg
import importlib
import io
import pickle
import pickletools
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from twins import ALL, CELLS, LAYERS, assert_same, assert_same_training, tensors, twins

import fused_rnn
from fused_rnn.nn.conversion import subclasses


def input_for(kind: str) -> Tensor:
    return torch.randn(*((2, 3) if kind in CELLS else (4, 2, 3)), dtype=torch.float64)


def through_torch_save(module: Any) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "oldest pickle": lambda module: pickle.loads(pickle.dumps(module, protocol=2)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "torch.save": through_torch_save,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ALL)
def test_round_trip(kind: str, way: str) -> None:
    options = {} if kind in CELLS else dict(num_layers=2, bidirectional=True)
    module = ALL[kind][0](3, 5, backend="reference", dtype=torch.float64, **options)
    x = input_for(kind)
    for _ in range(2):
        twin = WAYS[way](module)
        assert type(twin) is type(module)
        assert repr(twin) == repr(module)
        assert twin.backend == "reference"
        assert list(twin.state_dict()) == list(module.state_dict())
        assert_same(twin(x), module(x))
        sum(t.sum() for t in tensors(module(x))).backward()


@pytest.mark.parametrize("kind", ALL)
def test_state_is_torchs_own_and_no_more(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    ours(input_for(kind))
    caches = {"_flat_weights", "_flat_weight_refs"}
    # The last is for torch.fx, and is not saved.
    own = {*ours._own_attributes, *ours._told_attributes(), "__module__"}
    assert set(ours.__dict__) - own == set(theirs.__dict__) - caches
    assert "__module__" not in ours.__getstate__()


class OldPickler(pickle._Pickler):
    """Pickles a module as the default does, in the form of protocol 2 and later."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, nn.Module):
            return copyreg.__newobj__, (type(obj),), obj.__getstate__()
        return NotImplemented


@pytest.mark.parametrize("kind", ALL)
def test_pickles_in_the_default_form(kind: str) -> None:
    module, _ = twins(kind, 3, 5)
    file = io.BytesIO()
    OldPickler(file).dump(module)
    assert "NEWOBJ" in {opcode.name for opcode, *_ in pickletools.genops(file.getvalue())}
    twin = pickle.loads(file.getvalue())
    assert type(twin) is type(module) and twin.__dict__.keys() == module.__dict__.keys()
    x = input_for(kind)
    assert_same(twin(x), module(x))


@pytest.mark.parametrize("kind", ALL)
def test_a_pickle_names_nothing_of_this_package_but_its_classes(kind: str) -> None:
    data = pickle.dumps(ALL[kind][0](3, 5), protocol=2)
    names = {str(value) for opcode, value, _ in pickletools.genops(data) if opcode.name == "GLOBAL"}
    cls = ALL[kind][0]
    assert {n for n in names if "fused" in n} == {f"{cls.__module__} {cls.__name__}"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ALL)
def test_torchs_own_where_its_names_stand_for_these_classes(
    kind: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {} if kind in CELLS else dict(num_layers=2, bidirectional=True)
    built, theirs = twins(kind, 3, 5, **options)
    x = input_for(kind)
    theirs(x)
    data = pickle.dumps(theirs)
    monkeypatch.setattr(torch.nn.modules.rnn, kind, ALL[kind][0])
    ours = pickle.loads(data)
    assert type(ours) is ALL[kind][0]
    assert repr(ours) == repr(built)
    ours = WAYS[way](ours)
    assert set(ours.__dict__) | set(type(ours)._own_attributes) >= set(built.__dict__)
    assert set(ours.__dict__) <= set(built.__dict__) | {"nonlinearity"}
    assert_same_training(ours, theirs, x)
    assert_same(ours.to_torch()(x), theirs(x))
    assert_same(ours.to("cpu")(x), theirs(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_state_of_older_versions(kind: str) -> None:
    built, theirs = twins(kind, 3, 5, 2, bidirectional=True)
    state = theirs.__getstate__()
    # Before torch 1.8, and long before.
    del state["proj_size"]
    state["_all_weights"] = theirs.all_weights
    del state["_flat_weights_names"]
    ours = ALL[kind][0].__new__(ALL[kind][0])
    ours.__setstate__(state)
    x = input_for(kind)
    assert_same(ours(x), theirs(x))
    assert ours._flat_weights_names == built._flat_weights_names
    assert set(ours.__dict__) <= set(built.__dict__)


@pytest.mark.parametrize("cls", [fused_rnn.FusedGRU, fused_rnn.FusedGRUCell])
def test_the_textbook_gru_stays_one(cls: type[Any]) -> None:
    assert not pickle.loads(pickle.dumps(cls(3, 5, reset_after=False))).reset_after


@pytest.mark.parametrize("kind", ALL)
def test_deepcopy_owns_its_weights(kind: str) -> None:
    module, _ = twins(kind, 3, 5)
    x = input_for(kind)
    before = module(x)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert_same(module(x), before)
    assert not tensors(twin(x))[0].any()


@pytest.mark.parametrize("kind", ALL)
def test_plain_tensor_weights_are_copied_by_value(kind: str) -> None:
    module, _ = twins(kind, 3, 5)
    name = "weight_hh" if kind in CELLS else "weight_hh_l0"
    raw = getattr(module, name)
    delattr(module, name)
    setattr(module, name, raw * 0.5)
    x = input_for(kind)
    assert_same(copy.deepcopy(module)(x), module(x))


def _in_a_process(module: Any, x: Tensor, queue: Any) -> None:
    with torch.no_grad():
        queue.put([t.clone().numpy() for t in tensors(module(x))])
        next(module.parameters()).zero_()


def test_shared_with_another_process() -> None:
    context = torch.multiprocessing.get_context("spawn")
    module, _ = twins("GRU", 3, 5)
    module.share_memory()
    x = input_for("GRU")
    expected = tensors(module(x))
    queue = context.Queue()
    process = context.Process(target=_in_a_process, args=(module, x, queue))
    process.start()
    found = [torch.from_numpy(array) for array in queue.get(timeout=60)]
    process.join()
    assert_same(found, [t.detach() for t in expected])
    assert not module.weight_ih_l0.any()


def test_modules_pickled_before_the_package_had_folders() -> None:
    """A dictionary of modules by their class, pickled when each stood in another module."""
    path = Path(__file__).with_name("modules_of_flat_layout.pickle.zlib")
    pickled = zlib.decompress(path.read_bytes())
    for name in (
        b"fused_rnn.modules",
        b"fused_rnn.cells",
        b"fused_rnn.linear",
        b"fused_rnn.stored",
    ):
        assert name in pickled
    found = pickle.loads(pickled)
    assert list(found) == [type(module).__name__ for module in found.values()]
    assert {"QuantizedLSTM", "QuantizedGRUCell", "RNNEncoder", "LanguageModel"} <= set(found)
    x = torch.randn(4, 3, 2)
    for kind, options in (
        ("FusedRNN", {"nonlinearity": "relu"}),
        ("FusedGRU", {"bidirectional": True}),
        ("FusedLSTM", {}),
    ):
        new = getattr(fused_rnn, kind)(2, 2, **options)
        new.load_state_dict(found[kind].state_dict())
        y, state = found[kind](x)
        expected, last = new(x)
        pairs = zip((y, *tensors(state)), (expected, *tensors(last)), strict=True)
        assert all(torch.equal(ours, own) for ours, own in pairs)
    for module in ("fused_rnn.modules", "fused_rnn.seq2seq.language_model"):
        package, _, name = module.rpartition(".")
        assert importlib.import_module(module) is getattr(sys.modules[package], name)
    assert fused_rnn.subclasses.twin_class is subclasses.twin_class
