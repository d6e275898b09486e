#!/usr/bin/env bash
# The whole road in a small world: espeak-ng speaks it in LibriSpeech's layout, then recipes/librispeech trains BLSP on it and
# scores it beside the cascades. Downloads nothing; the tiny Whisper and Llama are in models/ and stand for the real ones.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

recipes=""               # names of further recipes, or all: these run in their corpora's layouts instead; see conf/recipes.tsv
systems="text_llm whisper_llm blsp" # what is run, of conf/systems.tsv; or all
full=false               # the paper's tables: all systems, on the layouts of the corpora as well (most of an hour)
config=conf/blsp.yaml    # the experiment
from_scratch=false       # train the tiny Whisper and Llama anew (more than half an hour) instead of taking those of models/
obedient=false           # first tune the tiny Llama to repeat what it is asked to transcribe, instead of refusing (3 minutes)
train_utterances=8000    # sentences that are spoken for training
seed=1                   # of the adapter's initialization and the order of the data
stage=0                  # first stage of the recipe
stop_stage=5             # last stage of the recipe
nj=0                     # processes that speak and prepare; 0: one per core
ngpu=0                   # processes of stages 1 to 4; 0 or 1: one process
limit=0                  # utterances of each set that stage 0 keeps; 0: all
exp_dir=exp              # where the experiments and the record of their results go
data_dir=data            # where the data directories go
model=""                 # what the evaluation recipes of --recipes decode with; empty: the model of this run
record=false             # write the results into the record of this folder, which is under version control
dry_run=false            # print the commands instead of running them
source ../../tools/parse_options.sh
[ "$dry_run" = true ] || source ../../tools/setup.sh
source local/plan.sh # which systems and recipes these options mean, by the tables conf/systems.tsv and conf/recipes.tsv

if [ "$world" = true ]; then
    # Speech
    step speech run python local/speak.py --out corpora --train "$train_utterances" --nj "$nj"
    if [ "$german" = true ]; then
        step speech run python local/speak_layouts.py --out corpora --recipes commonvoice-de --nj "$nj"
    fi

    # Models
    if [ "$from_scratch" = true ]; then
        step models run local/train_models.sh --out-dir "$trained" --nj "$nj"
    fi
    if [ "$obedient" = true ]; then
        step models run python local/llm_data.py --out corpora/llm
        step models run python -m blsp.bin.llm_sft --config conf/llama_robust.yaml --data-dir corpora/llm \
            --exp-dir "$trained/llama-obedient" -- --llm="$models/llama-mini" --train_sets='[obedient]'
    fi

    # Data and features
    step preparation system blsp 0 0
    run python local/add_references.py --references corpora/references --data-dir "$data_dir"
    step features system blsp 1 1
    if [ "$german" = true ]; then
        step preparation part 0 1 commonvoice --corpus-dir "$here/corpora/commonvoice-de" --config "$here/conf/commonvoice.yaml" \
            --data-dir "$data_dir/commonvoice-de"
    fi

    # Systems
    for name in "${systems[@]}"; do
        if [ "${trained_by[$name]}" = none ]; then
            step cascades system "$name" 4 5 --system="$name" --input="${input_of[$name]}"
        else
            step continuations system "$name" 2 2
            step training system "$name" 3 3
            step evaluation system "$name" 4 5
        fi
    done
fi

# Recipes, each in the layout of its corpus
if [ -n "${recipes[*]}" ]; then
    step speech run python local/speak_layouts.py --out corpora --recipes "${recipes[*]}" --nj "$nj"
fi
for name in "${recipes[@]}"; do
    step preparation recipe "$name" "" 0 0
    if [ "${references[$name]}" = yes ]; then
        run python local/add_references.py --references "corpora/$name/references" --data-dir "$data_dir/recipes/$name"
    fi
    if [ "${model_of[$name]}" = trains ]; then
        step training recipe "$name" "" 1 5
    else
        step features recipe "$name" "" 1 1
        for system in "${decoders[@]}"; do
            step evaluation recipe "$name" "$system" 4 5
        done
    fi
done

# Tables
[ "$stop_stage" -ge 5 ] || exit 0
if [ "$world" = true ]; then
    run python local/summary.py "${results[@]}" "${times[@]/#/--time=}"
else
    run python local/recipe_scores.py "${results[@]}" --recipes "${recipes[*]}"
fi
