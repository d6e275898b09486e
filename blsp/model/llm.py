"""What an LLM itself does, and everything else asks for: its words' embeddings, its logits, what ends its text, its states.

Any causal LM of Hugging Face is one. They differ in what stands around the decoder's layers (scales of embeddings, caps of
logits), in the states that they keep (keys and values, windows of them, recurrent ones), and in the tokens that end a turn.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from blsp.base.files import InputError

PROBE = 8  # tokens that an LLM is tried on when it is loaded
PRECISIONS = {"bf16": torch.bfloat16, "float32": torch.float32}


def choose_dtype(precision: str, device: torch.device | str) -> torch.dtype:
    """The frozen parts' dtype. "auto": bf16 on GPUs that have it and processors with AMX, float32 elsewhere.

    Raises InputError for another name, and for bf16 where PyTorch cannot compute attention in it on this processor.
    """
    on_gpu = torch.device(device).type == "cuda"
    if precision == "auto":
        has_bf16 = torch.cuda.is_bf16_supported() if on_gpu else torch.cpu._is_amx_tile_supported() and not _bf16_fault()
        return torch.bfloat16 if has_bf16 else torch.float32
    if precision not in PRECISIONS:
        raise InputError(f"precision: '{precision}' is not one of auto, bf16, float32")
    if precision == "bf16" and not on_gpu and (fault := _bf16_fault()):
        raise InputError(f"precision: bf16 does not work on this processor ({fault}); take float32")
    return PRECISIONS[precision]


@functools.cache
def _bf16_fault() -> str:
    """What PyTorch says of fused attention in bf16 on this processor, forward and backward; empty where it works."""
    # As many rows and heads as make it pack its matrices, which is what some processors lack.
    query = torch.ones(1, 8, 256, 32, dtype=torch.bfloat16, requires_grad=True)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True).sum().backward()
    except RuntimeError as e:
        return _first_line(e)
    return ""


def precision_name(dtype: torch.dtype) -> str:
    """What the configuration calls a dtype."""
    return next(name for name, known in PRECISIONS.items() if known == dtype)


def llm_width(name: str) -> int:
    """The size of an LLM's embeddings, d_llm, without loading it."""
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False).get_text_config().hidden_size
    except (OSError, ValueError, KeyError, AttributeError) as e:
        raise InputError(f"llm: {name} cannot be loaded ({_first_line(e)})") from None


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of an LLM. Raises InputError where it cannot be loaded."""
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as e:  # a broken file can fail in any way, in the libraries of three formats
        raise InputError(f"llm: {name} has no tokenizer that can be loaded ({_first_line(e)})") from None


def load_llm(
    name: str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", attention: str | None = None
) -> LLM:
    """A frozen LLM from a folder or hub name. Raises InputError where it cannot be loaded or cannot be given speech.

    attention: the implementation, None being the library's choice; see backward_attention().
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, attn_implementation=attention, trust_remote_code=False)
    except (OSError, ValueError, KeyError, AttributeError, ImportError, SafetensorError) as e:
        raise InputError(f"llm: {name} cannot be loaded ({_first_line(e)})") from None
    return LLM(model.to(device), load_tokenizer(name))


def _first_line(e: Exception) -> str:
    return (str(e).strip() or type(e).__name__).splitlines()[0]


class LLM(nn.Module):
    """A frozen causal LM with its tokenizer.

    ends: token ids that end its text by its generation_config (one or several) and its tokenizer.
    pads: whether rows of unlike length can be generated side by side, padded on the left. Recurrent states read padding.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        ends = model.generation_config.eos_token_id
        self.ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, (list, tuple)) else [ends])} - {None}
        model.generation_config = GenerationConfig()  # what steers decoding is in our settings and nowhere else
        self._takes = inspect.signature(model.forward).parameters
        self._window = self._shortest_window()
        self.pads = self._window is not None
        self._prefixes: dict[tuple[int, ...], list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self._make_contiguous()
        self._factor = 1.0
        self._try()

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def n_words(self) -> int:
        """Size of the vocabulary."""
        return self.model.config.get_text_config().vocab_size

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def context(self) -> int | None:
        """Positions that it has been made for; None where there is no limit to them."""
        return getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)

    def save(self, folder: str | Path, max_shard_size: int | str = "50GB") -> None:
        """Write it with its tokenizer and what ends its text, so that load_llm() reads it."""
        self.model.generation_config = GenerationConfig(eos_token_id=sorted(self.ends))
        self.model.save_pretrained(folder, max_shard_size=max_shard_size)
        self.model.generation_config = GenerationConfig()
        self.tokenizer.save_pretrained(folder)

    def embed(self, ids: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """(n, d_llm) what the LLM reads in place of token ids (n,): given as inputs_embeds, it does what the ids do."""
        ids = torch.as_tensor(ids, dtype=torch.long, device=self.device)
        embeds = self.model.get_input_embeddings()(ids)
        return embeds if self._factor == 1 else embeds * self._factor

    @torch.no_grad()
    def word_size(self) -> float:
        """RMS of all words' embeddings, as embed() gives them."""
        n_words = self.model.get_input_embeddings().weight.shape[0]
        return self.embed(torch.arange(n_words)).float().square().mean().sqrt().item()

    def logits(self, rows: Sequence[torch.Tensor], n_last: Sequence[int], prefix: tuple[int, ...] = ()) -> torch.Tensor:
        """The LLM's own logits at the last n_last[i] positions of rows[i], one row's behind the other's.

        rows: B tensors (L_i, d_llm) as of embed(); prefix: token ids that stand before each of them. Returns float32
        (sum of n_last, vocabulary). Of a prefix that is met again keys and values are kept, where the LLM has no others.
        """
        cached = bool(prefix) and self._keeps(prefix)
        if prefix and not cached:
            before = self.embed(prefix)
            rows = [torch.cat([before, row]) for row in rows]
        n_before = len(prefix) if cached else 0
        embeds = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)  # (B, L, d_llm)
        ends = torch.tensor([len(row) for row in rows], device=self.device)[:, None]  # (B, 1)
        positions = torch.arange(embeds.shape[1], device=self.device)
        where = (positions < ends) & (positions >= ends - torch.tensor(n_last, device=self.device)[:, None])  # (B, L)
        mask = (torch.arange(n_before + embeds.shape[1], device=self.device) < n_before + ends).long()
        cache = {"past_key_values": self._prefix_cache(prefix, len(rows))} if cached else {}
        inputs = {"inputs_embeds": embeds, "attention_mask": mask, "use_cache": cached, **cache}
        return target_logits(self.model, where, **{k: v for k, v in inputs.items() if k in self._takes}).float()

    def last_states(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """(B, d_llm) the final layer's state, behind its norm, of the last position of each row: B tensors (L_i, d_llm)."""
        embeds = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)  # (B, L, d_llm)
        ends = torch.tensor([len(row) for row in rows], device=self.device)
        mask = (torch.arange(embeds.shape[1], device=self.device) < ends[:, None]).long()  # (B, L)
        inputs = {"inputs_embeds": embeds, "attention_mask": mask, "use_cache": False}
        taken = {k: v for k, v in inputs.items() if k in self._takes}
        return self.model.base_model(**taken).last_hidden_state[torch.arange(len(rows), device=self.device), ends - 1]

    def new_cache(self) -> DynamicCache | None:
        """What read() keeps its states in; None for an LLM that has others than keys and values."""
        return DynamicCache(config=self.model.config) if self._window is not None else None

    def read(self, embeds: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """(vocabulary,) float32 logits behind embeds (n, d_llm), which follow what `cache` has read and are added to it."""
        n = len(embeds)
        where = torch.zeros(1, n, dtype=torch.bool, device=self.device)
        where[0, -1] = True
        mask = torch.ones(1, cache.get_seq_length() + n, dtype=torch.long, device=self.device)
        inputs = {"inputs_embeds": embeds[None], "attention_mask": mask, "past_key_values": cache, "use_cache": True}
        return target_logits(self.model, where, **{k: v for k, v in inputs.items() if k in self._takes})[0].float()

    def _keeps(self, prefix: tuple[int, ...]) -> bool:
        """Whether keys and values of a prompt's constant beginning are there: computed once, the LLM being frozen."""
        if self._window is None or len(prefix) >= self._window:
            return False
        if prefix not in self._prefixes:
            where = torch.zeros(1, len(prefix), dtype=torch.bool, device=self.device)
            where[0, -1] = True
            cache = DynamicCache(config=self.model.config)
            with torch.no_grad():
                target_logits(self.model, where, inputs_embeds=self.embed(prefix)[None], past_key_values=cache, use_cache=True)
            self._prefixes[prefix] = [(layer.keys, layer.values) for layer in cache.layers]
            if any(keys is None for keys, _ in self._prefixes[prefix]):  # it keeps them elsewhere
                self._window = None
        return self._window is not None

    def _prefix_cache(self, prefix: tuple[int, ...], batch: int) -> DynamicCache:
        cache = DynamicCache(config=self.model.config)
        for i, (keys, values) in enumerate(self._prefixes[prefix]):
            cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), i)
        return cache

    def _shortest_window(self) -> int | None:
        """Tokens that every layer keeps keys and values of, at least; None where there are layers that keep another state."""
        if getattr(self.model, "_is_stateful", False) or "past_key_values" not in self._takes:
            return None
        config = self.model.config.get_text_config(decoder=True)
        layers = DynamicCache(config=self.model.config).layers
        if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
            return None
        windows = [layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
        if getattr(config, "attention_chunk_size", None):
            windows.append(0)
        return min(windows, default=1 << 62)

    def _make_contiguous(self) -> None:
        """Generation gives the output layer a strided slice, for which bf16 on CPUs copies its weight once a row."""
        head = self.model.get_output_embeddings()
        if head is not None:
            head.register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]) if _is_cpu_bf16(args) else None)

    @torch.no_grad()
    def _try(self) -> None:
        """Find out what an LLM does differently from others, on a few words.

        Sets _factor (what word embeddings are multiplied by where token ids are read, and only there), clears `pads` where
        padding on the left changes what follows. Raises InputError for an LLM that does not do with embeddings what it does
        with token ids: it has no place for speech.
        """
        kind = f"llm: {self.tokenizer.name_or_path} ({type(self.model).__name__})"
        words = self.model.get_input_embeddings()
        if words is None or not {"inputs_embeds", "input_ids"} <= self._takes.keys() or not _generates(self.model):
            raise InputError(f"{kind} reads token ids only, in Transformers: it cannot be given speech; take another LLM")
        ids = torch.arange(1, 1 + min(PROBE, words.weight.shape[0] - 1), device=self.device)[None]
        try:
            embeds = words(ids)
            expected, given = _watch(self.model, embeds.shape, input_ids=ids)
            _, own = _watch(self.model, embeds.shape, inputs_embeds=embeds)
            if given is not None and own is not None and not torch.equal(own, given):
                self._factor = float((given.double() * own.double()).sum() / own.double().square().sum())
            embeds = self.embed(ids)
            same = _alike(self.model(inputs_embeds=embeds).logits, expected)
            self.model(inputs_embeds=(embeds + embeds.roll(1, 1)) / 2)  # speech is no word
            if same:
                token, logits = self._begin([embeds[0]])
                expected = self.model(input_ids=torch.cat([ids, token], 1)).logits[:, -2:]
                same = _alike(logits, expected)
                self.pads = self.pads and _alike(self._begin([embeds[0], embeds[0].repeat(2, 1)])[1], expected)
            if same and self._window is not None:
                half = self.logits([embeds[0, PROBE // 2 :]], [1], tuple(ids[0, : PROBE // 2].tolist()))
                self._window = self._window if _alike(half, expected[0, :1]) else None
                self._prefixes.clear()
        except Exception as e:  # a model is somebody's program: it can fail in any way
            raise InputError(f"{kind} cannot be given speech: it does not read embeddings in place of words"
                             f" ({_first_line(e)}); take another LLM") from None  # fmt: skip
        if not same:
            raise InputError(f"{kind} makes something else of embeddings than of their token ids: it cannot be given speech;"
                             " take another LLM") from None  # fmt: skip

    def _begin(self, rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """What generate() writes behind the first of `rows` (L_i, d_llm): a token (1, 1), and two logits (1, 2, words)."""
        embeds, mask = pad_left(rows)
        settings = GenerationConfig(
            max_new_tokens=2, do_sample=False, pad_token_id=0, output_logits=True, return_dict_in_generate=True
        )
        out = self.model.generate(inputs_embeds=embeds, attention_mask=mask, generation_config=settings)
        return out.sequences[:1, :1], torch.stack(out.logits, 1)[:1]


def pad_left(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """rows: B tensors (L_i, d_llm). Returns them as (B, L, d_llm), zeros on the left, and the mask (B, L) of rows."""
    longest = max(len(row) for row in rows)
    embeds = rows[0].new_zeros(len(rows), longest, rows[0].shape[1])
    mask = torch.zeros(len(rows), longest, dtype=torch.long, device=embeds.device)
    for i, row in enumerate(rows):
        embeds[i, longest - len(row) :] = row
        mask[i, longest - len(row) :] = 1
    return embeds, mask


def _generates(model: PreTrainedModel) -> bool:
    """Whether generate() takes embeddings. Some architectures do and do not say so, passing on what they are given."""
    prepare = model.prepare_inputs_for_generation
    parameters = inspect.signature(prepare).parameters
    if "inputs_embeds" not in parameters and any(p.kind is p.VAR_KEYWORD for p in parameters.values()):

        def prepare_embeds(input_ids: torch.Tensor, inputs_embeds: torch.Tensor | None = None, **kwargs: Any) -> dict[str, Any]:
            return prepare(input_ids, inputs_embeds=inputs_embeds, **kwargs)

        model.prepare_inputs_for_generation = prepare_embeds
        return True
    return "inputs_embeds" in parameters


def _alike(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal but for rounding, on average."""
    difference = (logits.float() - expected.float()).abs().mean() / expected.float().std()
    return bool(difference < (1e-3 if expected.dtype == torch.float32 else 0.05))


def _is_cpu_bf16(args: tuple) -> bool:
    return bool(args) and args[0].device.type == "cpu" and args[0].dtype == torch.bfloat16


def _watch(model: PreTrainedModel, shape: torch.Size, **inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits of a forward, and the first tensor of `shape` that reaches a module behind the word embeddings."""
    words = model.get_input_embeddings()
    path = next(name for name, module in model.named_modules() if module is words)
    seen: list[torch.Tensor] = []

    def look(_: nn.Module, args: tuple, kwargs: dict) -> None:
        for value in (*args, *kwargs.values()):
            if not seen and isinstance(value, torch.Tensor) and value.is_floating_point() and value.shape == shape:
                seen.append(value.clone())

    hooks = []
    for name, module in model.named_modules():
        holds_words = not name or f"{path}.".startswith(f"{name}.")
        if not holds_words and module is not words:
            hooks.append(module.register_forward_pre_hook(look, with_kwargs=True))
    try:
        logits = model(**inputs).logits
    finally:
        for hook in hooks:
            hook.remove()
    return logits, seen[0] if seen else None


def target_logits(model: PreTrainedModel, where: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
    """(n, vocabulary) a causal LM's own logits where the mask `where` (B, L) has its n True, row by row.

    Its output layer sees these positions alone; what its forward does with logits, such as capping, follows as it is. Where a
    forward goes around that layer, all positions' logits are computed and picked from.
    """
    where = where.bool()
    head, n, picked = model.get_output_embeddings(), int(where.sum()), False

    def pick(_: nn.Module, args: tuple) -> tuple | None:
        nonlocal picked
        if not args or args[0].shape[:2] != where.shape:
            return None
        picked = True
        return (args[0][where][None], *args[1:])

    hook = head.register_forward_pre_hook(pick) if head is not None else None
    try:
        logits = model(**inputs).logits
    finally:
        if hook is not None:
            hook.remove()
    return logits.reshape(n, logits.shape[-1]) if picked else logits[where]


def backward_attention(dtype: torch.dtype, device: torch.device | str) -> str | None:
    """The attention of an LLM that gradients pass through: on CPUs the fused one is slow backwards in bf16."""
    return "eager" if torch.device(device).type == "cpu" and dtype == torch.bfloat16 else None
