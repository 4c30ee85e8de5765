# SPDX-License-Identifier: MIT
"""DDP and FSDP2 over two gloo processes: the weights that one process would have trained."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from twins import assert_same, tensors

import fused_rnn

WORLD = 2
STEPS = 3


class Model(nn.Module):
    """Every layer and cell, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first = fused_rnn.FusedLSTM(3, 4, 2, bidirectional=True)
        self.second = fused_rnn.FusedGRU(8, 4)
        self.third = fused_rnn.FusedRNN(4, 4, nonlinearity="relu")
        self.cells = nn.ModuleList(
            [
                fused_rnn.FusedGRUCell(4, 4),
                fused_rnn.FusedRNNCell(4, 4),
                fused_rnn.FusedLSTMCell(4, 4),
            ]
        )

    def parts(self) -> list[nn.Module]:
        """The layers and cells."""
        return [self.first, self.second, self.third, *self.cells]

    def forward(self, x: Tensor) -> Tensor:
        y = self.third(self.second(self.first(x)[0])[0])[0][-1]
        for cell in self.cells:
            y = tensors(cell(y, (y, y) if isinstance(cell, fused_rnn.FusedLSTMCell) else y))[0]
        return y


def build() -> Model:
    torch.manual_seed(0)
    return Model().double()


def batch(step: int) -> Tensor:
    """All processes' rows of one step, (T, B, I)."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(5, 2 * WORLD, 3, dtype=torch.float64, generator=generator)


def train(model: nn.Module, rows: slice) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(STEPS):
        optimizer.zero_grad()
        model(batch(step)[:, rows]).square().mean().backward()
        optimizer.step()


def wrapped(how: str) -> nn.Module:
    if how == "fully_shard":
        from torch.distributed.fsdp import fully_shard

        mesh = dist.device_mesh.init_device_mesh("cpu", (WORLD,))
        model = build()
        for module in model.parts():
            assert fully_shard(module, mesh=mesh) is module
            # The class it got derives from the true one, and passes for the same twin.
            assert type(module).__name__.startswith("FSDPFused")
            assert isinstance(module, module._torch_class)
        return fully_shard(model, mesh=mesh)
    if how == "replicate":
        from torch.distributed._composable import replicate

        model = build()
        for module in model.parts():
            assert replicate(module) is module
            assert type(module).__name__.startswith("DDPFused")
            assert isinstance(module, module._torch_class)
        return model
    options: dict[str, Any] = {
        "plain": {},
        "bucket views": dict(gradient_as_bucket_view=True),
        "static graph": dict(static_graph=True),
    }[how]
    return nn.parallel.DistributedDataParallel(build(), **options)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    state = getattr(model, "module", model).state_dict()
    return {n: t.full_tensor() if hasattr(t, "full_tensor") else t for n, t in state.items()}


def work(rank: int, folder: str, ways: list[str]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo"}
    store = dist.FileStore(str(Path(folder) / "store"), WORLD)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD, store=store)
    for way in ways:
        model = wrapped(way)
        train(model, slice(2 * rank, 2 * rank + 2))
        state = state_of(model)
        if rank == 0:
            torch.save(state, Path(folder) / way)
    dist.barrier()
    dist.destroy_process_group()


WAYS = ["plain", "bucket views", "static graph", "fully_shard", "replicate"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights that each way of training left: one start of processes for all."""
    folder = tmp_path_factory.mktemp("distributed")
    torch.multiprocessing.spawn(work, (str(folder), WAYS), nprocs=WORLD)
    return folder


@pytest.mark.skipif(not dist.is_available(), reason="this PyTorch has no torch.distributed")
@pytest.mark.parametrize("way", WAYS)
def test_as_one_process(way: str, trained: Path) -> None:
    model = build()
    train(model, slice(None))
    for name, weight in torch.load(trained / way).items():
        assert_same(weight, model.state_dict()[name], name)


@pytest.mark.skipif(not dist.is_available(), reason="this PyTorch has no torch.distributed")
def test_training_moved_the_weights(trained: Path) -> None:
    state = torch.load(trained / "plain")
    for name, start in build().state_dict().items():
        assert not torch.equal(start, state[name]), name
