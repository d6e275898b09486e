#!/usr/bin/env bash
# The paper's experiment: Llama-2-7B tuned on Alpaca, adapters trained on LibriSpeech, GigaSpeech and Common Voice together,
# all systems on all tasks, Tables 2, 3, 5, 9 and 10. It needs the corpora and GPUs; --dry-run prints the plan without any.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

systems=all              # of: text_llm whisper_llm ctc_llm asr_pretrain blsp blsp_rp blsp_kd
recipes=all              # to evaluate on, of: librispeech tedlium3 must-c covost2 snips fsc slue-voxceleb bstc mslt gigaspeech
corpora_dir=corpora      # parent of the corpora's folders, LibriSpeech GigaSpeech cv-corpus-2 ...; see README.md
data_dir=data            # where the data directories go, RECIPE/SET
exp_dir=exp              # where the experiments go, seedN/SYSTEM
encoder=openai/whisper-small # folder or hub name
llm=""                   # instruction-following LLM, folder or hub name; empty: recipes/alpaca tunes it
seed=1234                # of the adapter's initialization and the order of the data
stage=0                  # first stage of the recipes; -1: download what can be downloaded
stop_stage=5             # last stage of the recipes
ngpu=8                   # processes of stages 1 to 4, one per GPU
nj=0                     # processes of stages 0 and 1; 0: one per core
limit=0                  # utterances of each set that stage 0 keeps; 0: all
dry_run=false            # print the commands, and in brackets what each of them runs
source ../../tools/parse_options.sh
[ "$dry_run" = true ] || source ../../tools/setup.sh

declare -A folder=([librispeech]=LibriSpeech [gigaspeech]=GigaSpeech [commonvoice]=cv-corpus-2/en [tedlium3]=TEDLIUM_release-3
    [must-c]=must-c [covost2]=covost2 [snips]=smart-lights-en-close-field [fsc]=fluent_speech_commands_dataset
    [slue-voxceleb]=slue-voxceleb [bstc]=CCMT_2019_BSTC [mslt]=MSLT_Corpus [alpaca]=alpaca) # as the recipes' own defaults
[ "$systems" != all ] || systems="text_llm whisper_llm ctc_llm asr_pretrain blsp blsp_rp blsp_kd"
[ "$recipes" != all ] || recipes="librispeech tedlium3 must-c covost2 snips fsc slue-voxceleb bstc mslt gigaspeech"
training="librispeech gigaspeech commonvoice" # the corpora of the adapters
trained=() needed=()
for system in ${systems//,/ }; do
    case "$system" in
        text_llm | whisper_llm) ;;
        ctc_llm | asr_pretrain | blsp | blsp_rp | blsp_kd) trained+=("$system") ;;
        *) echo "run.sh: --systems: '$system' is not a system; see --help" >&2 && exit 2 ;;
    esac
done
for name in ${recipes//,/ }; do
    [[ "$name" != alpaca && "$name" != commonvoice && -n "${folder[$name]:-}" ]] ||
        { echo "run.sh: --recipes: '$name' is not one to evaluate on; see --help" >&2 && exit 2; }
done
for name in ${trained:+$training} ${recipes//,/ }; do
    [[ " ${needed[*]} " == *" $name "* ]] || needed+=("$name")
done

here="$PWD" root="$(cd ../.. && pwd)"
absolute() { case "$1" in /*) printf '%s' "$1" ;; *) printf '%s' "$here/$1" ;; esac; }
corpora_dir="$(absolute "$corpora_dir")" data_dir="$(absolute "$data_dir")" exp_dir="$(absolute "$exp_dir")"
exp="$exp_dir/seed$seed"
[ ! -d "$_called_from/$encoder" ] || encoder="$_called_from/$encoder"
if [ -z "$llm" ]; then
    tuned=true llm="$exp_dir/alpaca/model"
else
    tuned=false
    [ ! -d "$_called_from/$llm" ] || llm="$_called_from/$llm"
fi
models=(--encoder="$encoder" --llm="$llm")
recipe() { # recipe NAME FIRST_STAGE LAST_STAGE OPTIONS ...: its run.sh, with what of these stages was asked for
    local first=$(($2 > stage ? $2 : stage)) last=$(($3 < stop_stage ? $3 : stop_stage)) script="$root/recipes/$1/run.sh"
    [ "$first" -le "$last" ] || return 0
    local options=(--stage "$first" --stop-stage "$last" --ngpu "$ngpu" --nj "$nj" --limit "$limit" "${@:4}")
    run "$script" "${options[@]}"
    [ "$dry_run" = false ] || "$script" --dry-run "${options[@]}" | sed -e '/^$/d; /^== /d; s/^/    [/; s/ *$/]/'
}
corpus() { printf '%s' "$corpora_dir/${folder[$1]}"; }

for name in "${needed[@]}" alpaca; do # the others ask for a form or an agreement
    [ ! -f "$root/recipes/$name/local/archives.tsv" ] || recipe "$name" -1 -1 --corpus-dir "$(corpus "$name")"
done
for name in "${needed[@]}"; do
    recipe "$name" 0 1 --corpus-dir "$(corpus "$name")" --data-dir "$data_dir/$name"
done
if [ "$tuned" = true ] && [ "$stage" -le 3 ] && [ "$stop_stage" -ge 2 ]; then # whole: stages 2 and 3 of the others need it
    stage=0 stop_stage=3 recipe alpaca 0 3 --corpus-dir "$(corpus alpaca)" --data-dir "$data_dir/alpaca" --exp-dir "$exp_dir/alpaca"
fi
for system in "${trained[@]}"; do # on the corpora together, which any recipe that trains can do
    recipe librispeech 2 3 --config "$here/conf/$system.yaml" --data-dir "$data_dir" --exp-dir "$exp/$system" \
        -- "${models[@]}" --seed="$seed" "${overrides[@]}"
done
for name in ${recipes//,/ }; do
    [ "$name" != gigaspeech ] || # the questions of Table 3
        recipe "$name" 2 2 --config "$root/recipes/$name/conf/qa.yaml" --data-dir "$data_dir/$name" -- "${models[@]}"
    for system in ${systems//,/ }; do
        case "$system" in *_llm) input="${system%_llm}" ;; *) input=speech ;; esac
        case "$name/$system" in
            librispeech/asr_pretrain) conf=asr_pretrain ;; # under two instructions
            librispeech/*) conf=blsp ;;
            gigaspeech/*) conf=qa ;;
            *) conf=evaluate ;;
        esac
        recipe "$name" 4 5 --config "$root/recipes/$name/conf/$conf.yaml" --data-dir "$data_dir/$name" \
            --exp-dir "$exp/$system/$name" --model "$exp/$system/model" -- "${models[@]}" --system="$system" --input="$input"
    done
done
[ "$stop_stage" -ge 5 ] || exit 0
out="$here" made="./egs/paper/run.sh --systems {system} --recipes {corpus} --seed {seed}"
changed=()
[ "$limit" = 0 ] || changed+=(--limit "$limit")
[ "$tuned" = true ] || changed+=(--llm "$llm")
[ "$encoder" = openai/whisper-small ] || changed+=(--encoder "$encoder")
[ "${#overrides[@]}" = 0 ] || changed+=(-- "${overrides[@]}")
[ "${#changed[@]}" = 0 ] || out="$exp_dir" made="$made ${changed[*]@Q}" # not the paper's experiment: the records here stay
run python -m blsp.bin.tables --config "$here/conf/tables.yaml" --paper "$here/paper_values.jsonl" --data-dir "$data_dir" \
    --command "$made" --out "$out" "$exp_dir"
