"""A tiny checkpoint in the layout of the authors' release, and what the authors' own code makes of it.

official_release.npz was recorded by this program, in an environment as their README names it (transformers 4.31.0,
sentencepiece 0.1.99), on a checkout of https://github.com/cwang621/blsp at commit f7bf52f:

    python tests/tools/official_release.py CHECKOUT tests/tools/official_release.npz

It holds the small files of the checkpoint as that code wrote them, names and shapes of its weights, and for some utterances
the prompt's ids, speech embeddings, logits, loss and greedily generated ids. The weights are drawn again by weights().
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch

RECORDED = Path(__file__).with_suffix(".npz")
RATE = 16000  # Hz
WINDOW = 2  # seconds, of the tiny Whisper
# Of the utterances: a whole window, ends within a feature frame or at its edge; before the last one's answer the likeliest
# token is the end of sequence, which the authors' programs do not take for the first.
N_SAMPLES = (32000, 17361, 24000, 9919, 12555)
INSTRUCTIONS = (
    "Continue the following text in a coherent and engaging style with less than 40 words.",
    "Please translate the following audio into German text.",
    "",
    " a space before, two  within and one behind ",
    "请翻译:",
)
MORE_INSTRUCTIONS = ("Übersetze ins Deutsche:", "two\nlines\n", "###[Human]: again", "naïve 🙂 text", "\ttab")
RESPONSE = "The old text."
MAX_NEW_TOKENS = 24
WHISPER = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "max_source_positions": 50 * WINDOW,
}
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
D_BOTTLENECK = 12


def weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The checkpoint's float32 weights by name. NumPy promises that RandomState's numbers stay what they are."""
    state = {}
    for name, shape in shapes.items():
        if name.endswith("inv_freq"):
            state[name] = 10000.0 ** -(torch.arange(shape[0]) / shape[0])
            continue
        drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        norm = "norm" in name or "speech_ln" in name
        if norm or name.endswith("bias"):
            drawn = 0.1 * drawn + (norm and name.endswith("weight"))
        elif not ("embed" in name or "lm_head" in name):
            drawn = 1.5 * drawn / np.sqrt(np.prod(shape[1:]))
        if "lm_head" in name:
            drawn[2] *= 2.0  # the end of sequence comes now and then
        state[name] = torch.from_numpy(drawn.astype(np.float32))
    return state


def audio(n_samples: int) -> np.ndarray:
    """(n_samples,) float32, voice-like: syllables of a gliding pitch and its overtones, and breath in between."""
    time = np.arange(n_samples) / RATE
    phase = 2 * np.pi * (110 * time + 9 * np.sin(2 * np.pi * 1.3 * time + n_samples))
    voice = sum(np.sin(k * phase) * np.exp(-(((k * 110 - 700 - 500 * np.sin(7 * time)) / 900) ** 2)) for k in range(1, 30))
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * time + n_samples), 0, 1) ** 0.5
    breath = np.random.RandomState(n_samples).standard_normal(n_samples)
    return (0.08 * syllables * voice + 0.004 * breath).astype(np.float32)


def write_release(folder: Path) -> dict[str, torch.Tensor]:
    """The tiny checkpoint in `folder`, its weights in one pytorch_model.bin. Returns them by name."""
    recorded = np.load(RECORDED)
    folder.mkdir(parents=True)
    for name in recorded.files:
        if name.startswith("file/"):
            (folder / name.removeprefix("file/")).write_bytes(recorded[name].tobytes())
    state = weights(json.loads(recorded["shapes"].tobytes()))
    torch.save(state, folder / "pytorch_model.bin")
    return state


def _train_tokenizer() -> bytes:
    """A SentencePiece model with the properties of Llama's: BPE, bytes for the unknown, spaces kept."""
    import sentencepiece

    lines = [
        *INSTRUCTIONS[:2],
        RESPONSE,
        "###[Human]:a",
        "###[Assistant]: the  text  is  here ",
        "hides her letter",
        "the audio",
    ]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=380,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    return model.getvalue()


def record(checkout: Path, folder: Path) -> dict[str, np.ndarray]:
    """Make the checkpoint in `folder` with the authors' code and run their code on it."""
    sys.path.insert(0, str(checkout / "blsp/src"))
    import transformers
    from configuration_blsp import BlspConfig
    from modeling_blsp import BlspModel
    from transformers import GenerationConfig, LlamaConfig, LlamaTokenizer, WhisperConfig, WhisperFeatureExtractor

    assert transformers.__version__ == "4.31.0"
    (folder / "vocabulary").mkdir()
    (folder / "vocabulary/tokenizer.model").write_bytes(_train_tokenizer())
    tokenizer = LlamaTokenizer.from_pretrained(folder / "vocabulary", pad_token="<unk>")
    release = folder / "release"
    tokenizer.save_pretrained(release)
    WhisperFeatureExtractor(chunk_length=WINDOW).save_pretrained(release)
    llama = LlamaConfig(vocab_size=len(tokenizer), **LLAMA).to_dict()
    config = BlspConfig(WhisperConfig(**WHISPER).to_dict(), llama, adapter_inner_dim=D_BOTTLENECK)
    config.architectures = ["BlspModel"]
    config.save_pretrained(release)
    shapes = {name: list(value.shape) for name, value in BlspModel(config).state_dict().items()}
    recorded = {f"file/{path.name}": np.frombuffer(path.read_bytes(), np.uint8) for path in release.iterdir()}
    recorded["shapes"] = np.frombuffer(json.dumps(shapes).encode(), np.uint8)
    torch.save(weights(shapes), release / "pytorch_model.bin")

    tokenizer = LlamaTokenizer.from_pretrained(release)
    model = BlspModel.from_pretrained(release).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(release)
    suffix = tokenizer("\n\n\n###[Assistant]:", return_tensors="pt").input_ids[:, 1:]
    response = tokenizer(RESPONSE).input_ids[1:] + [tokenizer.eos_token_id]
    recorded["suffix"] = suffix[0].numpy()
    recorded["response"] = np.array(response)
    for i, instruction in enumerate((*INSTRUCTIONS, *MORE_INSTRUCTIONS)):
        recorded[f"{i}/prefix"] = np.array(tokenizer(f"###[Human]:{instruction}").input_ids)
    for i, n_samples in enumerate(N_SAMPLES):
        prefix = torch.from_numpy(recorded[f"{i}/prefix"])[None]
        inputs = extractor(audio(n_samples), sampling_rate=RATE, return_attention_mask=True, return_tensors="pt")
        speech = {"speech_values": inputs.input_features, "speech_attention_mask": inputs.attention_mask}
        greedy = GenerationConfig(
            max_new_tokens=MAX_NEW_TOKENS, min_new_tokens=1, do_sample=False, pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        target = torch.tensor([response])
        answer = torch.cat([suffix, target], dim=1)
        with torch.no_grad():
            embeds, mask = model.get_speech_features(*speech.values())
            assert mask.all()
            out = model(
                input_ids=prefix,
                attention_mask=torch.ones_like(prefix),
                labels=torch.full_like(prefix, -100),
                suffix_input_ids=answer,
                suffix_attention_mask=torch.ones_like(answer),
                suffix_labels=torch.cat([torch.full_like(suffix, -100), target], dim=1),
                **speech,
            )
        recorded[f"{i}/speech_embeds"] = embeds[0].numpy()
        recorded[f"{i}/logits"] = out.logits[0, -len(response) - 1 : -1].numpy()
        recorded[f"{i}/loss"] = out.loss.numpy()
        recorded[f"{i}/greedy"] = model.generate(prefix, suffix, **speech, generation_config=greedy)[0].numpy()
        print(recorded[f"{i}/speech_embeds"].shape, recorded[f"{i}/loss"], recorded[f"{i}/greedy"])
    return recorded


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        np.savez_compressed(sys.argv[2], **record(Path(sys.argv[1]), Path(scratch)))
