#!/usr/bin/env bash
# TED-LIUM 3: zero-shot speech recognition, out of domain (Table 2).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

corpus_dir=corpora/TEDLIUM_release-3  # folder that the archive unpacks to
config=conf/evaluate.yaml       # the experiment
skip_stages="2 3"               # an evaluation corpus: no behaviours, no training; decode with --model
# --- the same in every recipe from here on ---
stage=0                         # first stage
stop_stage=5                    # last stage
data_dir=data                   # where the data directories go
exp_dir=""                      # where the experiment goes; empty: exp/NAME of the configuration
model=""                        # trained model to decode with; empty: the experiment's own
ngpu=0                          # processes of stages 1 to 4, one per GPU; 0 or 1: one process
nj=0                            # processes of stages 0 and 1; 0: one per core
limit=0                         # utterances of each set that stage 0 keeps; 0: all
dry_run=false                   # print the commands instead of running them
source ../../tools/parse_options.sh
[ "$dry_run" = true ] || source ../../tools/setup.sh

exp_dir="${exp_dir:-exp/$(basename "$config" .yaml)}"
model="${model:-$exp_dir/model}"
[ "$nj" -gt 0 ] || nj="$(nproc)"
train=(python)
[ "$ngpu" -le 1 ] || train=(torchrun --standalone --nproc-per-node "$ngpu")
common=(--config "$config" --data-dir "$data_dir")

if stage -1 "download"; then
    run python -m blsp.bin.download --archives local/archives.tsv --corpus-dir "$corpus_dir"
fi
if stage 0 "data preparation"; then
    run python local/prepare.py "${common[@]}" --corpus-dir "$corpus_dir" --nj "$nj" --limit "$limit" -- "${overrides[@]}"
fi
if stage 1 "features"; then
    run python -m blsp.bin.features "${common[@]}" --nj "$nj" -- "${overrides[@]}"
    run python -m blsp.bin.encode "${common[@]}" --ngpu "$ngpu" -- "${overrides[@]}"
fi
if stage 2 "behaviour generation"; then
    run python -m blsp.bin.continuation "${common[@]}" --ngpu "$ngpu" -- "${overrides[@]}"
fi
if stage 3 "training"; then
    run "${train[@]}" -m "${stage_3:-blsp.bin.train}" "${common[@]}" --exp-dir "$exp_dir" -- "${overrides[@]}"
fi
if stage 4 "decoding"; then
    run python -m blsp.bin.decode "${common[@]}" --exp-dir "$exp_dir" --model "$model" --ngpu "$ngpu" -- "${overrides[@]}"
fi
if stage 5 "scoring"; then
    run python -m blsp.bin.score "${common[@]}" --exp-dir "$exp_dir" -- "${overrides[@]}"
fi
