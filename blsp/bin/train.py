"""Stage 3: train the adapter so that speech makes the LLM write what the transcript made it write (Section 3, second step).

With `objective: ctc` the adapter is trained with a CTC projector instead, as the recognizer of CTC+LLM (Section 4.2).
reads   DATA_DIR/SET/{feats.scp (with cache_encoder: states.scp),responses.BEHAVIOUR.jsonl}, the frozen encoder and LLM
writes  EXP_DIR/{config.yaml,train.log,tensorboard/,checkpoints/,model/}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blsp.base import command
from blsp.base.config import load_config, plain, program_arguments, require
from blsp.base.files import InputError, fingerprint, model_fingerprint, read_json
from blsp.data.data_dir import check_features, pairs_fingerprint
from blsp.data.states import check_states
from blsp.model.prompts import OPTIONS, template_settings

# What the trained weights depend on, beside the data and the models; other keys may change without training again.
KEYS = ("seed", "encoder_padding", "precision", "train_sets", "mix", "d_bottleneck", "noise", "optimizer", "lr",
        "warmup_steps", "schedule", "max_grad_norm", "epochs", "batch_size", "max_tokens")  # fmt: skip
CTC = ("objective", "ctc_vocabulary")  # of a recognizer alone
ALIGNMENT = ("template", *OPTIONS)  # of a model with an LLM alone
DISTILLATION = ("kd_weight", "kd_temperature", "normalizer")  # and where the LLM is its own teacher
REPORTING = ("behaviours", "encoder", "llm", "dev_sets", "tasks", "examples", "normalizer", "generation", "log_interval",
             "dev_interval", "checkpoint_interval", "loader_processes", "cache_encoder")  # fmt: skip


def main() -> None:
    args = program_arguments("blsp.bin.train", __doc__, "exp_dir").parse_args()
    config = load_config(args.config, args.overrides)
    require(config, *KEYS, *CTC, *ALIGNMENT, *DISTILLATION, *REPORTING)
    if config["objective"] not in ("alignment", "ctc"):
        raise InputError(f"{args.config}: objective '{config['objective']}' is neither alignment nor ctc")
    log = command.logger("train", args.exp_dir / "train.log")
    settings = _settings(config, args.data_dir)
    done = args.exp_dir / "model" / "config.json"
    if done.exists() and read_json(done).get("provenance", {}).get("fingerprint") == fingerprint(settings):
        log.info(f"{args.exp_dir}/model: is there, trained with these data and settings")
        return
    for name in (*config["train_sets"], *config["dev_sets"]):
        check_features(args.data_dir / name, config["encoder"])
        if config["cache_encoder"]:
            check_states(args.data_dir / name, config["encoder"], config["encoder_padding"], config["precision"])
    from blsp.training.adapter_training import train  # loads torch, which a rerun that has nothing to do need not wait for

    train(config, fingerprint(settings), args.data_dir, args.exp_dir, log)


def _settings(config: dict[str, Any], data_dir: Path) -> dict[str, Any]:
    """What the trained weights depend on; keys that do not concern the objective are left out."""
    ctc = config["objective"] == "ctc"
    if ctc:
        from blsp.model.llm import llm_width
    keys = [*KEYS, *(CTC if ctc else ()), *(DISTILLATION if config["kd_weight"] and not ctc else ())]
    return {
        **{key: plain(config)[key] for key in keys},
        "encoder": model_fingerprint(config["encoder"]),
        **({"d_llm": llm_width(config["llm"])} if ctc else {"llm": model_fingerprint(config["llm"])}),
        **({} if ctc else template_settings(config)),
        "data": [pairs_fingerprint(data_dir / name, b) for b in config["mix"] for name in config["train_sets"]],
    }


if __name__ == "__main__":
    command.run(main)
