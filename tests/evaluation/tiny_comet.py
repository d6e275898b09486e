"""A COMET model of random weights, written by the Python of .venv-comet: tests/evaluation/tiny_comet.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import pytorch_lightning
import torch
import yaml
from comet.models import RegressionMetric
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import XLMRobertaConfig, XLMRobertaTokenizerFast

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def main(folder: Path) -> None:
    """The layout of the hub: hparams.yaml, checkpoints/model.ckpt; beside them the encoder that the hub would have."""
    torch.manual_seed(1)
    letters = [chr(i) for i in range(97, 123)]
    vocabulary = [(token, 0.0) for token in SPECIAL] + [(token, -3.0) for c in letters for token in (c, f"▁{c}")]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    encoder = folder / "encoder"
    XLMRobertaTokenizerFast(tokenizer_object=backend).save_pretrained(encoder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    XLMRobertaConfig(
        vocab_size=len(vocabulary), max_position_embeddings=130, initializer_range=0.5, bos_token_id=0, pad_token_id=1, **sizes
    ).save_pretrained(encoder)
    # layer_norm takes its mean over the batch, so that a score would depend on its neighbours.
    hparams = {"pretrained_model": str(encoder), "layer_norm": False, "hidden_sizes": [8, 4]}
    model = RegressionMetric(**hparams, load_pretrained_weights=False)
    (folder / "checkpoints").mkdir()
    (folder / "hparams.yaml").write_text(yaml.safe_dump(hparams | {"class_identifier": "regression_metric"}))
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": hparams,
        "pytorch-lightning_version": pytorch_lightning.__version__,
    }
    torch.save(checkpoint, folder / "checkpoints" / "model.ckpt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
