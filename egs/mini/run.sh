#!/usr/bin/env bash
# The whole road in a small world: espeak-ng speaks it in LibriSpeech's layout, then recipes/librispeech trains BLSP on it and
# scores it beside the cascades. Downloads nothing; the tiny Whisper and Llama are in models/ and stand for the real ones.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

recipes=""               # names of further recipes, or all: these run in their corpora's layouts instead; see README.md
systems="text_llm whisper_llm blsp" # what is run; all: these, ctc_llm, asr_pretrain, blsp_rp, blsp_kd, blsp_de: conf/NAME.yaml
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
exp_dir=exp              # where the experiments go
data_dir=data            # where the data directories go
model=""                 # what the evaluation recipes of --recipes decode with; empty: the model of this run
dry_run=false            # print the commands instead of running them
source ../../tools/parse_options.sh
[ "$dry_run" = true ] || source ../../tools/setup.sh

[ "$nj" -gt 0 ] || nj="$(nproc)"
here="$PWD"
absolute() { case "$1" in /*) printf '%s' "$1" ;; *) printf '%s' "$here/$1" ;; esac; }
asked="$config $exp_dir $limit $obedient ${#overrides[@]}"
config="$(absolute "$config")" data_dir="$(absolute "$data_dir")" exp="$(absolute "$exp_dir")/seed$seed"
models="$here/models" trained="$(absolute "$exp_dir")/models" out="$here" # the record of the experiment as it is
[ "$asked" = "conf/blsp.yaml exp 0 false 0" ] || out="$(absolute "$exp_dir")"
[ "$from_scratch" = false ] || models="$trained"
overrides=(--seed="$seed" --encoder="$models/whisper-mini" --llm="$models/llama-mini" "${overrides[@]}")
recipe() { # recipe SYSTEM FIRST_STAGE LAST_STAGE [--KEY=VALUE ...]: what of these stages was asked for
    local first=$(($2 > stage ? $2 : stage)) last=$(($3 < stop_stage ? $3 : stop_stage))
    [ "$first" -le "$last" ] || return 0
    case "$1" in text_llm | whisper_llm | blsp) local conf="$config" ;; *) local conf="$here/conf/$1.yaml" ;; esac
    run ../../recipes/librispeech/run.sh --corpus-dir "$here/corpora/LibriSpeech" --config "$conf" --data-dir "$data_dir" \
        --exp-dir "$exp/$1" --nj "$nj" --ngpu "$ngpu" --limit "$limit" --stage "$first" --stop-stage "$last" \
        -- "${overrides[@]}" "${@:4}"
}
times=()
step() { # step NAME COMMAND ...: runs it and notes how long it took
    local begin=$SECONDS
    "${@:2}"
    times+=("$1=$((SECONDS - begin))")
}

german() { # speech in the layout of Common Voice, as its recipe reads it
    local first="$stage" last=$((stop_stage < 1 ? stop_stage : 1))
    step speech run python local/speak_layouts.py --out corpora --recipes commonvoice-de --nj "$nj"
    [ "$first" -gt "$last" ] || step preparation run ../../recipes/commonvoice/run.sh --corpus-dir "$here/corpora/commonvoice-de" \
        --config "$here/conf/commonvoice.yaml" --data-dir "$data_dir/commonvoice-de" --nj "$nj" --limit "$limit" \
        --stage "$first" --stop-stage "$last"
}

if [ -n "$recipes" ] && [ "$full" = false ]; then
    source local/recipes.sh
    exit
fi
[ "$full" = false ] || systems=all

step speech run python local/speak.py --out corpora --train "$train_utterances" --nj "$nj"
tune() { # tune NAME CONFIG LLM [--KEY=VALUE ...]
    run python -m blsp.bin.llm_sft --config "conf/$2.yaml" --data-dir corpora/llm --exp-dir "$trained/$1" -- --llm="$3" "${@:4}"
}
if [ "$from_scratch" = true ]; then
    step speech run python local/speak.py --out corpora/whisper --seed 1 --nj "$nj" # other sentences than the adapter will hear
    step speech run python local/speak_layouts.py --out corpora/whisper --recipes commonvoice-de --seed 2 --nj "$nj"
    step whisper run python local/train_whisper.py --corpus corpora/whisper/LibriSpeech --german corpora/whisper/commonvoice-de \
        --out "$models/whisper-mini"
    step llm run python local/llm_data.py --out corpora/llm
    step llm tune llama-1 llama "$here/corpora/llm/llama"
    step llm tune llama-2 llama_robust "$models/llama-1/model" # the noise rises in two steps
    step llm tune llama-3 llama_robust "$models/llama-2/model" --seed=3 --neftune_alpha=40
    step llm tune llama-4 llama_robust "$models/llama-3/model" --seed=4 --neftune_alpha=60 --train_sets='[passages]' --lr=3e-4
    step llm run python local/llm_scores.py "$models/llama-4/model" --out "$models/llama-mini" --tokenizer corpora/llm/llama
fi
if [ "$obedient" = true ]; then
    step llm run python local/llm_data.py --out corpora/llm
    step llm tune llama-obedient llama_robust "$models/llama-mini" --train_sets='[obedient]'
    overrides=("${overrides[@]/#--llm=*/--llm=$trained/llama-obedient/model}")
fi
step preparation recipe blsp 0 0
run python local/add_references.py --references corpora/references --data-dir "$data_dir"
step features recipe blsp 1 1
[ "$systems" != all ] || systems="text_llm whisper_llm ctc_llm asr_pretrain blsp blsp_rp blsp_kd blsp_de"
for system in ${systems//,/ }; do
    case "$system" in
        text_llm | whisper_llm) step cascades recipe "$system" 4 5 --system="$system" --input="${system%_llm}" ;;
        *)
            [ "$system" != blsp_de ] || german
            step continuations recipe "$system" 2 2
            step training recipe "$system" 3 3
            step evaluation recipe "$system" 4 5
            ;;
    esac
done
[ "$full" = false ] || source local/recipes.sh
run python local/summary.py --exp-dir "$(absolute "$exp_dir")" --seed "$seed" --data-dir "$data_dir" --out "$out" "${times[@]/#/--time=}"
