# SPDX-License-Identifier: MIT
"""Peers in searching with a recurrent network: the file of `bench.search` that imports them.

Of OpenNMT-py and speechbrain the searches alone are wanted, and none of what their packages
require: `pip install --no-deps opennmt-py speechbrain`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, cast

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
    names = {field.name for field in dataclasses.fields(outputs.CausalLMOutputWithPast)}
    # What it carries from step to step: "cache" since 5.24.
    kept = "cache" if "cache" in names else "past_key_values"

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
            return {"input_ids": input_ids[:, -1:], "state": kwargs.get(kept)}

        def forward(
            self,
            input_ids: Tensor,
            state: Any = None,
            attention_mask: Tensor | None = None,
            **ignored: Any,
        ) -> Any:
            logits, state = self.inner.step(input_ids[:, 0], state)
            return outputs.CausalLMOutputWithPast(logits=logits.unsqueeze(1), **{kept: state})

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
    """OpenNMT-py's `BeamSearch` and `GreedySearch`, driven as its translator drives them."""
    _bare("onmt", "onmt.translate", "onmt.utils")
    beam = _imported("onmt.translate.beam_search")
    greedy = _imported("onmt.translate.greedy_search")
    model = setting.model
    own: dict[str, Any] = {
        "pad": setting.pad,
        "bos": setting.bos,
        "eos": setting.eos,
        # Of the tokens that are never wanted it can leave out this one.
        "unk": setting.bos,
        "start": setting.bos,
        "n_best": 1,
        "batch_size": setting.batch,
        "global_scorer": beam.GNMTGlobalScorer(0.0, 0.0, "none", "none"),
        "min_length": setting.steps,
        "max_length": setting.steps,
        "return_attention": False,
        "block_ngram_repeat": 0,
        "exclusion_tokens": set(),
        "ban_unk_token": True,
        "beam_size": setting.beam,
    }
    memory, lengths = torch.zeros(setting.batch, 1, 1), torch.ones(setting.batch, dtype=torch.long)

    def strategy() -> Any:
        if setting.beam == 1:
            return greedy.GreedySearch(**own, sampling_temp=0.0, keep_topk=1, keep_topp=0.0)
        return beam.BeamSearch(**own, stepwise_penalty=False, ratio=0.0)

    @torch.no_grad()
    def search() -> Tensor:
        one = strategy()
        one.initialize(memory, lengths)
        state = model.initial_state(setting.batch * setting.beam)
        for _ in range(setting.steps):
            logits, state = model.step(one.current_predictions, state)
            log_probs = logits.log_softmax(-1)
            log_probs[:, setting.pad] = -torch.inf
            one.advance(log_probs, None)
            if any(any(ended) for ended in one.is_finished_list):
                one.update_finished()
                if one.done:
                    break
            if setting.beam > 1:
                state = model.reorder(state, one.select_indices)
        return torch.stack([found[0] for found in one.predictions])

    return search


def _speechbrain(setting: Setting) -> Search:
    """speechbrain's searchers, which are told of a model by these methods."""
    _bare("speechbrain", "speechbrain.decoders", "speechbrain.utils")
    found = _imported("speechbrain.decoders.seq2seq")
    inner, unwanted = setting.model, [setting.bos, setting.pad]

    class Greedy(found.S2SGreedySearcher):  # type: ignore[name-defined]
        temperature = 0

        def reset_mem(self, rows: int, device: Any) -> Tensor:
            return cast(Tensor, inner.initial_state(rows))

        def forward_step(self, tokens: Tensor, memory: Tensor, *ignored: Any) -> Any:
            logits, memory = inner.step(tokens, memory)
            logits[:, [*unwanted, setting.eos]] = -torch.inf
            return logits, memory, None

    class Beam(found.S2SBeamSearcher):  # type: ignore[name-defined]
        reset_mem = Greedy.reset_mem

        def forward_step(self, tokens: Tensor, memory: Tensor, *ignored: Any) -> Any:
            logits, memory = inner.step(tokens, memory)
            log_probs = logits.log_softmax(-1)
            log_probs[:, unwanted] = -torch.inf
            return log_probs, memory, None

        def permute_mem(self, memory: Tensor, index: Tensor) -> Any:
            return inner.reorder(memory, index)

        def set_n_out(self) -> int:
            return inner.config.vocab_size

    # It takes the number of steps from the length of what was encoded.
    memory, lengths = torch.zeros(setting.batch, setting.steps, 1), torch.ones(setting.batch)
    searcher: Any
    if setting.beam == 1:
        searcher = Greedy(setting.bos, setting.eos, 0.0, 1.0)
    else:
        searcher = Beam(
            setting.bos,
            setting.eos,
            1.0,
            1.0,
            setting.beam,
            return_topk=True,
            using_eos_threshold=False,
            length_normalization=False,
        )

    def search() -> Tensor:
        with torch.no_grad():
            hypotheses = searcher(memory, lengths)[0]
        return hypotheses[:, 0] if setting.beam > 1 else torch.tensor(hypotheses)

    return search


def _bare(*packages: str) -> None:
    """Lets modules of packages be imported whose own beginnings ask for more than they need."""
    for name in packages:
        if name in sys.modules:
            continue
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise Unavailable(f"not installed: {name}")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


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
