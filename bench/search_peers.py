# SPDX-License-Identifier: MIT
"""Peers in searching with a recurrent network: the file of `bench.search` that imports them."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.machine import failed_import
from fused_rnn.seq2seq import LanguageModel


class Setting(NamedTuple):
    """What is searched: a model whose sentences do not end before `steps` tokens."""

    model: LanguageModel  # with torch.nn's layers
    batch: int
    beam: int
    steps: int
    bos: int
    eos: int
    pad: int


# The best sequence of each row, (B, steps).
Search = Callable[[], Tensor]


class Unavailable(Exception):
    """A peer that cannot run, and why."""


def _transformers(setting: Setting) -> Search:
    """`generate` of Hugging Face's mixin; its documents let a model bring its own state."""
    transformers = _imported("transformers")
    outputs = importlib.import_module("transformers.modeling_outputs")

    class Config(transformers.PretrainedConfig):  # type: ignore[name-defined]
        model_type = "recurrent"

    class Recurrent(transformers.PreTrainedModel, transformers.GenerationMixin):  # type: ignore[name-defined]
        config_class = Config

        def __init__(self, config: Any, inner: LanguageModel) -> None:
            super().__init__(config)
            self.inner = inner

        @classmethod
        def _supports_default_dynamic_cache(cls) -> bool:
            return False

        def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
            return {
                "input_ids": input_ids[:, -1:],
                "past_key_values": kwargs.get("past_key_values"),
            }

        def forward(
            self,
            input_ids: Tensor,
            past_key_values: Any = None,
            attention_mask: Tensor | None = None,
            **ignored: Any,
        ) -> Any:
            logits, state = self.inner.step(input_ids[:, 0], past_key_values)
            return outputs.CausalLMOutputWithPast(logits=logits.unsqueeze(1), past_key_values=state)

        def _reorder_cache(self, past: Tensor, index: Tensor) -> Tensor:
            return past.index_select(1, index)

    config = Config(
        vocab_size=setting.model.config.vocab_size,
        bos_token_id=setting.bos,
        eos_token_id=setting.eos,
        pad_token_id=setting.pad,
    )
    model = Recurrent(config, setting.model).eval()
    start = torch.full((setting.batch, 1), setting.bos)

    def search() -> Tensor:
        found: Tensor = model.generate(
            start,
            attention_mask=torch.ones_like(start),
            num_beams=setting.beam,
            do_sample=False,
            min_new_tokens=setting.steps,
            max_new_tokens=setting.steps,
            suppress_tokens=[setting.bos, setting.pad],
        )
        return found[:, 1:]

    return search


def _joeynmt(setting: Setting) -> Search:
    """JoeyNMT's `beam_search`, which asks of a model what this class has."""
    _imported("joeynmt")
    found = _imported("joeynmt.search")
    inner = setting.model

    class Decoder:
        output_size = inner.config.vocab_size

        def _init_hidden(self, hidden: Tensor) -> Tensor:
            return hidden

    class Model:
        bos_index, eos_index, pad_index = setting.bos, setting.eos, setting.pad
        unk_index, sep_index = setting.pad, None
        decoder = Decoder()

        def __init__(self) -> None:
            self.lang_tags: list[int] = []

        def __call__(self, *, trg_input: Tensor, decoder_hidden: Tensor, **ignored: Any) -> Any:
            state = decoder_hidden.transpose(0, 1).contiguous()  # it keeps rows first
            logits, state = inner.step(trg_input[:, 0], state)
            nothing = logits.new_zeros(len(logits), 1, 1)
            return logits.unsqueeze(1), state.transpose(0, 1), nothing, nothing

    memory = torch.zeros(setting.batch, 1, 1)
    mask = torch.ones(setting.batch, 1, 1, dtype=torch.bool)

    def search() -> Tensor:
        output, _, _ = found.beam_search(
            model=Model(),
            beam_size=setting.beam,
            encoder_output=memory,
            encoder_hidden=inner.initial_state(setting.batch),
            src_mask=mask,
            max_output_length=setting.steps,
            alpha=0.0,
            min_output_length=setting.steps,
        )
        return torch.as_tensor(output)

    return search


def _opennmt(setting: Setting) -> Search:
    _imported("onmt.translate.beam_search")
    raise Unavailable(_no_adapter("OpenNMT-py"))


def _speechbrain(setting: Setting) -> Search:
    _imported("speechbrain.decoders.seq2seq")
    raise Unavailable(_no_adapter("speechbrain"))


def _no_adapter(package: str) -> str:
    needs = [r for r in importlib.metadata.requires(package) or () if r.startswith("torch")]
    return f"its release asks for {', '.join(needs)}: nothing was found to test an adapter with"


PEERS: dict[str, Callable[[Setting], Search]] = {
    "transformers.generate": _transformers,
    "JoeyNMT": _joeynmt,
    "OpenNMT-py": _opennmt,
    "speechbrain": _speechbrain,
}


def _imported(name: str) -> Any:
    """A module, or the reason why there is none."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, AttributeError) as error:
        raise Unavailable(failed_import(error)) from None
