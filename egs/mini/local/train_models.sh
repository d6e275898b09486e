#!/usr/bin/env bash
# Trains the tiny Whisper and Llama of the mini world from scratch, as those of models/ were: more than half an hour on two cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

out_dir=../exp/models    # where whisper-mini, llama-mini and the trainings between go
nj=1                     # processes that speak
dry_run=false            # print the commands instead of running them
source ../../../tools/parse_options.sh
[ "$dry_run" = true ] || source ../../../tools/setup.sh
cd ..
[[ "$out_dir" = /* ]] || out_dir="$PWD/${out_dir#../}"

# Whisper, from other sentences than the adapter will hear
run python local/speak.py --out corpora/whisper --seed 1 --nj "$nj"
run python local/speak_layouts.py --out corpora/whisper --recipes commonvoice-de --seed 2 --nj "$nj"
run python local/train_whisper.py --corpus corpora/whisper/LibriSpeech --german corpora/whisper/commonvoice-de \
    --out "$out_dir/whisper-mini"

# Llama, by the program that tunes a real one. The noise on word embeddings rises in two steps, then passages are learned.
tune() { # tune NAME CONFIGURATION LLM [--KEY=VALUE ...]
    run python -m blsp.bin.llm_sft --config "conf/$2.yaml" --data-dir corpora/llm --exp-dir "$out_dir/$1" -- --llm="$3" "${@:4}"
}
run python local/llm_data.py --out corpora/llm
tune llama-1 llama "$PWD/corpora/llm/llama"
tune llama-2 llama_robust "$out_dir/llama-1/model"
tune llama-3 llama_robust "$out_dir/llama-2/model" --seed=3 --neftune_alpha=40
tune llama-4 llama_robust "$out_dir/llama-3/model" --seed=4 --neftune_alpha=60 --train_sets='[passages]' --lr=3e-4
run python local/llm_scores.py "$out_dir/llama-4/model" --out "$out_dir/llama-mini" --tokenizer corpora/llm/llama
