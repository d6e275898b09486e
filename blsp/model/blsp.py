"""The model (Figure 2): frozen speech encoder, trained adapter, frozen LLM."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForMultimodalLM, AutoProcessor, PreTrainedModel

from blsp.base import command
from blsp.base.files import InputError, atomic_write
from blsp.model import generation, streaming
from blsp.model.adapter import Adapter
from blsp.model.configuration import MODEL_TYPE, BLSPConfig
from blsp.model.decoding import Decoding
from blsp.model.encoder import Speech, SpeechEncoder
from blsp.model.folder import (
    load_trained,
    load_weights,
    local_folder,
    named_parts,
    prompter_of,
    save_folder,
    trained,
)
from blsp.model.generation import Generated
from blsp.model.llm import LLM, choose_dtype, load_llm, precision_name
from blsp.model.processor import BLSPProcessor, Conversation, Message
from blsp.model.prompts import OPTIONS, TEMPLATE, Prompt, Prompter
from blsp.model.streaming import State


@dataclass
class Batch:
    """What the loss of some utterances is computed from."""

    features: list[Speech]  # B utterances: log-mel features (n_frames_i + ECHO, n_mels), see mel.py, or states made of them
    prompts: list[Prompt]  # B, one for each utterance
    responses: list[list[int]]  # B, token ids, with the end of sequence where the response has ended
    transcripts: list[list[int]] = field(default_factory=list)  # B, token ids, where the LLM is its own teacher; else none

    def to(self, device: torch.device | str) -> Batch:
        self.features = to_device(self.features, device)
        return self


class BLSP(PreTrainedModel):
    """Speech encoder, adapter and LLM as one model; only the adapter is trained.

    kd_weight: share of the loss that is the divergence from what the LLM predicts given the transcript (not in the paper).
    kd_temperature: divides the logits of both sides of that divergence.
    config: what config.json will say, without the places of encoder and LLM where they are not known.
    """

    config_class = BLSPConfig

    def __init__(
        self,
        encoder: SpeechEncoder,
        adapter: Adapter,
        llm: LLM,
        prompter: Prompter,
        kd_weight: float = 0.0,
        kd_temperature: float = 2.0,
    ):
        super().__init__(BLSPConfig(encoder="", llm="", provenance={}, **_settings(llm, prompter)))
        if not (0 <= kd_weight <= 1 and kd_temperature > 0):
            raise InputError(f"kd_weight {kd_weight} should be from 0 to 1, kd_temperature {kd_temperature} above 0")
        self.encoder = encoder.requires_grad_(False)
        self.adapter = adapter
        self.llm = llm
        self.prompter = prompter
        self.kd_weight, self.kd_temperature = kd_weight, kd_temperature
        self.reported: dict[str, torch.Tensor] = {}  # sums over the last batch's targets that belong beside its loss

    def train(self, mode: bool = True) -> BLSP:
        """Frozen parts stay in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        self.llm.eval()
        return self

    @property
    def device(self) -> torch.device:
        return self.adapter.norm.weight.device

    @functools.cached_property
    def processor(self) -> BLSPProcessor:
        return BLSPProcessor(self.prompter.tokenizer, self.prompter, self.encoder.n_mels, self.encoder.window)

    def speech_embeds(self, speech: Sequence[Speech]) -> list[torch.Tensor]:
        """Embeddings of each utterance's speech in the LLM's space: B tensors (n_embeds_i, d_llm) in the LLM's dtype."""
        embeds, n_embeds = embed_speech(self.encoder, self.adapter, speech)
        embeds = embeds.to(self.llm.dtype)
        return [row[:n] for row, n in zip(embeds, n_embeds.tolist(), strict=True)]

    def forward(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """Language modeling loss of the responses given the speech (Section 3, second step).

        Returns the summed loss (scalar) and the number of target tokens. With a kd_weight the loss in training is
        (1 - kd_weight) * cross-entropy + kd_weight * kd_temperature^2 * divergence; elsewhere it is the cross-entropy alone,
        which can be compared with that of other models.
        """
        speech = self.speech_embeds(batch.features)
        if not (self.training and self.kd_weight):
            return self.response_loss(speech, batch)
        logits = self.response_logits(speech, batch)
        with torch.no_grad():
            teacher = self.response_logits([self.llm.embed(ids) for ids in batch.transcripts], batch)
        cross_entropy, n_targets = _cross_entropy(logits, batch)
        kl = divergence(teacher, logits, self.kd_temperature)
        self.reported = {"cross_entropy": cross_entropy.detach(), "kl": kl.detach()}
        # The square keeps the gradient's size from shrinking as the temperature grows (Hinton et al. 2015).
        return (1 - self.kd_weight) * cross_entropy + self.kd_weight * self.kd_temperature**2 * kl, n_targets

    def response_loss(self, contents: list[torch.Tensor], batch: Batch) -> tuple[torch.Tensor, int]:
        """Summed cross-entropy of the responses and their number of tokens, given what response_logits() is given."""
        return _cross_entropy(self.response_logits(contents, batch), batch)

    def response_logits(self, contents: list[torch.Tensor], batch: Batch) -> torch.Tensor:
        """(targets, vocabulary) float32 logits of all response tokens, one response behind the other.

        contents: B tensors (n_i, d_llm), what stands between prefix and suffix of the prompts: speech or a transcript's words.
        """
        prefix = batch.prompts[0].prefix
        shared = all(p.prefix == prefix for p in batch.prompts)
        rows = []
        for content, prompt, response in zip(contents, batch.prompts, batch.responses, strict=True):
            before = [] if shared else [self.llm.embed(prompt.prefix)]
            # The last response token is predicted and never read.
            rows.append(torch.cat([*before, content, self.llm.embed([*prompt.suffix, *response[:-1]])]))
        # Logits only where a response token is predicted: from the suffix' last token to the response's last but one.
        return self.llm.logits(rows, [len(r) for r in batch.responses], prefix if shared else ())

    def prompt_embeds(self, prompt: Prompt, content: torch.Tensor) -> torch.Tensor:
        """(L, d_llm) embeddings of a whole prompt, ready for generation; content (n, d_llm)."""
        return torch.cat([self.llm.embed(prompt.prefix), content, self.llm.embed(prompt.suffix)])

    def trained_state(self) -> dict[str, torch.Tensor]:
        """The parameters that training changes, by name."""
        return trained(self)

    def load_trained_state(self, state: dict[str, torch.Tensor]) -> None:
        """Restore trained_state(); a state that does not fit this model raises InputError."""
        load_trained(self, state)

    def save_pretrained(
        self,
        folder: str | Path,
        encoder: str = "",
        llm: str = "",
        provenance: dict[str, Any] | None = None,
        whole: bool = False,
        max_shard_size: int | str = "50GB",
    ) -> None:
        """Write model.safetensors (what was trained) and config.json, which names encoder and LLM. Not the frozen parts.

        A template that is a file is copied to template.jinja.
        encoder, llm: folders or hub names of the frozen parts; "": those that the model was loaded with.
        whole: write the frozen parts, too, as encoder/ and llm/, in the precision that they have here; such a folder needs
        nothing else. max_shard_size: of their files.
        """
        folder, prompter = Path(folder), self.prompter
        names = {"encoder": encoder or self.config.encoder, "llm": llm or self.config.llm}
        if whole:
            names = {part: str(folder / part) for part in names}
            (folder / "config.json").unlink(missing_ok=True)  # a kill must not leave it beside other parts
            self.encoder.save(names["encoder"])
            self.llm.save(names["llm"], max_shard_size)
        elif not all(names.values()):
            raise InputError(f"{folder}: name the encoder and the LLM of the model, or save it whole")
        if prompter.file is not None:
            with atomic_write(folder / TEMPLATE) as f:
                f.write(prompter.file)
        provenance = self.config.provenance if provenance is None else provenance
        save_folder(folder, self, MODEL_TYPE, names, _settings(self.llm, prompter), provenance)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        precision: str | torch.dtype = "auto",
        device: str | torch.device = "cpu",
        *,
        config: BLSPConfig | None = None,
        dtype: str | torch.dtype | None = None,
        device_map: str | torch.device | None = None,
        **hub: Any,
    ) -> BLSP:
        """A trained model with the encoder and LLM that its config.json names, in evaluation mode.

        name: a folder, or a hub name. precision: of the frozen parts; auto: what it was trained in.
        dtype, device_map: other names of precision and device, which Transformers' users give. config: is read anew.
        hub: as local_folder() takes them. Nothing in a folder is run, whatever trust_remote_code says.
        Raises InputError for a folder that is not whole, or whose parts are not those that it was trained with.
        """
        folder = local_folder(name, **hub)
        values, names = named_parts(folder, MODEL_TYPE, "encoder", "llm")
        precision = str(dtype or precision).removeprefix("torch.").replace("bfloat16", "bf16")
        device = command.device() if device_map == "auto" else device_map or device
        frozen = choose_dtype(values.get("precision", "auto") if precision == "auto" else precision, device)
        encoder = SpeechEncoder.from_pretrained(names["encoder"], values["encoder_padding"], frozen)
        llm = load_llm(names["llm"], frozen, device)
        model = cls(encoder, Adapter(**values["adapter"]), llm, prompter_of(folder, values, llm.tokenizer))
        model.config.encoder, model.config.llm = names["encoder"], names["llm"]
        model.config.provenance = values.get("provenance", {})
        load_weights(model, folder)
        return model.to(device).eval()

    @torch.inference_mode()
    def generate(
        self,
        conversations: Sequence[Sequence[Message] | Conversation] | None = None,
        decoding: Decoding | None = None,
        keys: Sequence[str] | None = None,
        *,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        feature_lengths: torch.Tensor | None = None,
        **settings: Any,
    ) -> list[Generated] | torch.Tensor:
        """The assistant's next turn in each of some conversations, whatever the others are.

        conversations: of messages as BLSPProcessor describes them, or as its prepare() gives them.
        keys: what seeds each one's sampling; None: its content.
        In place of conversations what the processor's apply_chat_template() gives, with fields of Decoding: then the token
        ids (B, n) of the answers are returned, filled up behind their ends.
        Raises InputError before anything is computed where one has no room in the LLM's context.
        """
        if conversations is None:
            if input_ids is None:
                raise InputError("generate: give conversations, or what the processor's apply_chat_template() gives")
            no_speech = input_features is None or feature_lengths is None
            features = [] if no_speech else input_features.split(feature_lengths.tolist())
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            prepared = self.processor.conversations(input_ids.cpu(), mask.cpu(), features)
            decoding = Decoding.from_settings(settings)
        else:
            if settings:
                raise InputError(
                    f"generate: {', '.join(settings)}: with conversations, settings stand in decoding=Decoding(...)"
                )
            prepared = [c if isinstance(c, Conversation) else self.processor.prepare(c) for c in conversations]
            decoding = decoding or Decoding()
        for conversation in prepared:
            self.check_room(conversation, decoding)
        keys = [c.key if decoding.temperature > 0 else "" for c in prepared] if keys is None else keys
        rows = generation.token_ids(self.llm, self.prompter, self.embeds(prepared), decoding, keys) if prepared else []
        if conversations is None:
            ends = generation.all_ends(self.llm, self.prompter)
            ids = [torch.tensor(row) for row in rows]
            return nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=ends[0]).to(self.device)
        return [generation.read(row, self.llm, self.prompter) for row in rows]

    def stream(
        self,
        conversation: Sequence[Message] | Conversation,
        decoding: Decoding | None = None,
        state: State | None = None,
        key: str | None = None,
    ) -> Iterator[str]:
        """The same as generate() does for one conversation, as text that grows: pieces of whole characters.

        state: keeps what has been read, for the next call with a longer history; one call at a time may use it, and the
        model. A stream may be left before its end. It returns a Generated, as generators do.
        Raises InputError at once, as generate() does.
        """
        state = State() if state is None else state
        decoding = decoding or Decoding()
        known = isinstance(conversation, Conversation)
        prepared = conversation if known else self.processor.prepare(conversation, state.heard)
        self.check_room(prepared, decoding)
        if key is None:
            key = prepared.key if decoding.temperature > 0 else ""
        embeds_from = functools.partial(self._embeds_from, prepared)
        return streaming.stream(self.llm, self.prompter, prepared.units, embeds_from, decoding, key, state)

    def _embeds_from(self, conversation: Conversation, start: int) -> torch.Tensor:
        return self.embeds([conversation], start)[0]

    def check_room(self, conversation: Conversation, decoding: Decoding) -> None:
        """Raises InputError where a conversation and its answer are longer than the LLM's context."""
        n, limit = len(conversation.ids), self.llm.context
        if limit is not None and n + decoding.max_new_tokens > limit:
            raise InputError(
                f"the conversation has {n} tokens, {sum(conversation.n_embeds)} of them speech, and its answer may have"
                f" {decoding.max_new_tokens}; the LLM's context has {limit}: shorten it, or start anew"
            )

    def embeds(self, conversations: Sequence[Conversation], start: int = 0) -> list[torch.Tensor]:
        """(L_i - start, d_llm) embeddings of each conversation from the position `start` on."""
        rows, places, features = [], [], []
        for c in conversations:
            ids = torch.tensor(c.ids)
            speech = ids == c.audio_token_id
            rows.append(self.llm.embed(ids.masked_fill(speech, 0)))
            at = speech.nonzero()[:, 0].split(c.n_embeds) if c.features else ()
            for where, heard in zip(at, c.features, strict=True):
                if int(where[-1]) >= start:  # what was read before need not be heard again
                    places.append((rows[-1], where.to(self.device)))
                    features.append(heard)
        if features:
            speech = self.speech_embeds([f.to(self.device) for f in features])
            for (row, where), embeds in zip(places, speech, strict=True):
                row[where] = embeds
        return [row[start:] for row in rows]


def _settings(llm: LLM, prompter: Prompter) -> dict[str, Any]:
    """What config.json says beside the parts and the adapter's sizes."""
    settings = {"template": prompter.template, **{key: getattr(prompter, key) for key in OPTIONS}}
    if prompter.file is not None:
        settings["template"] = TEMPLATE
    return settings | {"precision": precision_name(llm.dtype)}


def embed_speech(encoder: SpeechEncoder, adapter: Adapter, speech: Sequence[Speech]) -> tuple[torch.Tensor, torch.Tensor]:
    """speech: B utterances. Returns the adapter's (B, N, d_llm) and (B,) valid ones of each.

    What is longer than the encoder's window is cut in pauses, and each piece passes encoder and adapter as if alone: no
    training utterance is longer, so neither has seen what stands at such a joint.
    """
    utterances = encoder.encode(speech)
    pieces = [states for utterance in utterances for states in utterance]
    n_states = torch.tensor([len(states) for states in pieces], device=pieces[0].device)
    embeds, n_embeds = adapter(nn.utils.rnn.pad_sequence(pieces, batch_first=True), n_states)
    if len(embeds) > len(utterances):
        valid = iter(row[:n] for row, n in zip(embeds, n_embeds.tolist(), strict=True))
        joined = [torch.cat([next(valid) for _ in utterance]) for utterance in utterances]
        n_embeds = torch.tensor([len(row) for row in joined], device=embeds.device)
        embeds = nn.utils.rnn.pad_sequence(joined, batch_first=True)
    return embeds, n_embeds


def to_device(speech: Sequence[Speech], device: torch.device | str) -> list[Speech]:
    """One transfer for all utterances."""
    rows = [row for utterance in speech for row in (utterance if isinstance(utterance, list) else [utterance])]
    moved = iter(torch.cat(rows).to(device, non_blocking=True).split([len(row) for row in rows]))
    return [[next(moved) for _ in utterance] if isinstance(utterance, list) else next(moved) for utterance in speech]


def _cross_entropy(logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, int]:
    targets = torch.tensor([token for r in batch.responses for token in r], device=logits.device)
    return nn.functional.cross_entropy(logits, targets, reduction="sum"), len(targets)


def divergence(teacher: torch.Tensor, student: torch.Tensor, temperature: float) -> torch.Tensor:
    """Summed Kullback-Leibler divergence of the teacher's next-token distributions from the student's.

    teacher, student (targets, vocabulary): logits, divided by the temperature on both sides.
    """
    expected, given = (teacher / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
    return nn.functional.kl_div(given, expected, reduction="sum", log_target=True)


AutoModel.register(BLSPConfig, BLSP)
AutoModelForMultimodalLM.register(BLSPConfig, BLSP)
AutoProcessor.register(BLSPConfig, BLSPProcessor)
