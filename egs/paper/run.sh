#!/usr/bin/env bash
# The paper's experiment: Llama-2-7B tuned on Alpaca, adapters trained on LibriSpeech, GigaSpeech and Common Voice together,
# all systems on all tasks, Tables 2, 3, 5, 9 and 10. It needs the corpora and GPUs; --dry-run prints the plan without any.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

systems=all              # what is run, of conf/systems.tsv
recipes=all              # to evaluate on, of conf/recipes.tsv
corpora_dir=corpora      # parent of the corpora's folders, LibriSpeech GigaSpeech cv-corpus-2 ...; see README.md
data_dir=data            # where the data directories go, RECIPE/SET
exp_dir=exp              # where the experiments go, seedN/SYSTEM, and the record of their results
encoder=openai/whisper-small # folder or hub name
llm=""                   # instruction-following LLM, folder or hub name; empty: recipes/alpaca tunes it
seed=1234                # of the adapter's initialization and the order of the data
stage=0                  # first stage of the recipes; -1: download what can be downloaded
stop_stage=5             # last stage of the recipes
ngpu=8                   # processes of stages 1 to 4, one per GPU
nj=0                     # processes of stages 0 and 1; 0: one per core
limit=0                  # utterances of each set that stage 0 keeps; 0: all
record=false             # write the results into the record of this folder, which is under version control
dry_run=false            # print the commands, and in brackets what each of them runs
source ../../tools/parse_options.sh
[ "$dry_run" = true ] || source ../../tools/setup.sh
source local/plan.sh # which systems and recipes these options mean, by the tables conf/systems.tsv and conf/recipes.tsv

# Corpora; those without archives.tsv ask for a form or an agreement
for name in "${needed[@]}" alpaca; do
    [ ! -f "$root/recipes/$name/local/archives.tsv" ] || recipe "$name" -1 -1 --corpus-dir "$(corpus "$name")"
done

# Data and features
for name in "${needed[@]}"; do
    recipe "$name" 0 1 --corpus-dir "$(corpus "$name")" --data-dir "$data_dir/$name"
done

# The LLM, whole: stages 2 and 3 of the systems need it
if [ "$tuned" = true ] && [ "$stage" -le 3 ] && [ "$stop_stage" -ge 2 ]; then
    stage=0 stop_stage=3 recipe alpaca 0 3 --corpus-dir "$(corpus alpaca)" --data-dir "$data_dir/alpaca" --exp-dir "$exp_dir/alpaca"
fi

# Systems, on the corpora together, which any recipe that trains can do
for system in "${trained[@]}"; do
    recipe librispeech 2 3 --config "$here/conf/${trained_by[$system]}" --data-dir "$data_dir" --exp-dir "$exp/$system" \
        -- "${models[@]}" --seed="$seed" "${overrides[@]}"
done

# Recipes: every system decodes their test sets
for name in "${recipes[@]}"; do
    if [ "$name" = gigaspeech ]; then # the questions of Table 3
        recipe "$name" 2 2 --config "$root/recipes/$name/conf/${decoded_by[$name]}.yaml" --data-dir "$data_dir/$name" -- "${models[@]}"
    fi
    for system in "${systems[@]}"; do
        decoding="${decoded_by[$name]}"
        [ "$name/$system" != librispeech/asr_pretrain ] || decoding=asr_pretrain # under two instructions
        recipe "$name" 4 5 --config "$root/recipes/$name/conf/$decoding.yaml" --data-dir "$data_dir/$name" \
            --exp-dir "$exp/$system/$name" --model "$exp/$system/model" \
            -- "${models[@]}" --system="$system" --input="${input_of[$system]}"
    done
done

# Tables
if [ "$stop_stage" -ge 5 ]; then
    run python -m blsp.bin.tables --config "$here/conf/tables.yaml" --paper "$here/paper_values.jsonl" --data-dir "$data_dir" \
        --command "$reproduced" --out "$out" "$exp_dir"
fi
