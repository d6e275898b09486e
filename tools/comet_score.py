"""COMET of translations. Stage 5 calls it with the Python of .venv-comet (tools/setup_comet.sh); it needs nothing of blsp.

reads   standard input: a set of translations a line, {"name": ..., "src": [...], "mt": [...], "ref": [...]}
writes  standard output: {"name": ..., "score": ..., "n": ..., "version": ...} for each as it is done, score being the mean of
        the segments; or {"error": ...}, and exit status 1, where there is no model. All else goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from pathlib import Path

BATCH = 16  # segments
SET_UP = Path(__file__).resolve().with_name("setup_comet.sh")


class Missing(Exception):
    """The model is not to be had; the message says why and what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--model", required=True, help="name of the hub, or folder with hparams.yaml and checkpoints/model.ckpt"
    )
    parser.add_argument("--download", action="store_true", help="download the model and score nothing")
    args = parser.parse_args()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not come between the replies
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # a checkpoint is a pickle: take tensors from it, run nothing
    if not args.download:
        os.environ["HF_HUB_OFFLINE"] = "1"  # here, before the first import of huggingface_hub
    try:
        model = load(checkpoint(args.model, args.download), args.download)
    except Missing as e:
        print(f"tools/comet_score.py: {e}" if args.download else json.dumps({"error": str(e)}), file=replies, flush=True)
        return 1
    if args.download:
        return 0

    from importlib.metadata import version

    import torch

    gpus = int(torch.cuda.is_available())
    for line in sys.stdin:
        texts = json.loads(line)
        rows = zip(texts["src"], texts["mt"], texts["ref"], strict=True)
        segments = [{"src": src, "mt": mt, "ref": ref} for src, mt, ref in rows]
        score = model.predict(segments, batch_size=BATCH, gpus=gpus, progress_bar=False).system_score
        reply = {"name": texts["name"], "score": score, "n": len(segments), "version": version("unbabel-comet")}
        print(json.dumps(reply), file=replies, flush=True)
    return 0


def checkpoint(model: str, download: bool) -> Path:
    """The file with a model's weights; hparams.yaml stands in the folder above its own."""
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(model, local_files_only=not download))
        except (OSError, ValueError) as e:
            if download:
                raise Missing(f"{model}: cannot be downloaded ({first_line(e)})") from None
            raise Missing(f"{model}: is neither a folder nor in the cache of the hub; {SET_UP} {model} downloads it") from None
    for path in (folder / "hparams.yaml", folder / "checkpoints" / "model.ckpt"):
        if not path.is_file():
            raise Missing(f"{path}: no such file; a COMET model is a folder with hparams.yaml and checkpoints/model.ckpt")
    return folder / "checkpoints" / "model.ckpt"


def load(path: Path, download: bool):
    """The model; of the encoder that it names (xlm-roberta-large), only tokenizer and configuration are read."""
    from comet import load_from_checkpoint

    try:
        return load_from_checkpoint(str(path), local_files_only=not download)
    except Exception as e:  # COMET and Lightning raise what they like, stage 5 wants a line
        traceback.print_exc()
        raise Missing(f"{path}: cannot be loaded ({first_line(e)})") from None


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


if __name__ == "__main__":
    sys.exit(main())
