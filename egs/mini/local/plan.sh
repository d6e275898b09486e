# shellcheck shell=bash disable=SC2154,SC2034
# Sourced by run.sh: from its options and the tables of conf/, where things are, which systems and recipes are run, and what a step is.

# Where things are
here="$PWD"
absolute() { case "$1" in /*) printf '%s' "$1" ;; *) printf '%s' "$here/$1" ;; esac; }
config="$(absolute "$config")" data_dir="$(absolute "$data_dir")" exp_dir="$(absolute "$exp_dir")"
exp="$exp_dir/seed$seed" trained="$exp_dir/models" models="$here/models"
[ "$from_scratch" = false ] || models="$trained"
world=true
[ -z "$recipes" ] || world="$full" # recipes alone take the models of another run
llm="$models/llama-mini"
[[ "$obedient" = false || "$world" = false ]] || llm="$trained/llama-obedient/model"
[ "$nj" -gt 0 ] || nj="$(nproc)"

# What makes this another experiment than the one on record
changed=()
[ "$config" = "$here/conf/blsp.yaml" ] || changed+=(--config "$config")
[ "$from_scratch" = false ] || changed+=(--from-scratch)
[ "$obedient" = false ] || changed+=(--obedient)
[ "$train_utterances" = 8000 ] || changed+=(--train-utterances "$train_utterances")
[ "$limit" = 0 ] || changed+=(--limit "$limit")
[ -z "$model" ] || changed+=(--model "$model")
[ "${#overrides[@]}" = 0 ] || changed+=(-- "${overrides[@]}")
refuse() { echo "run.sh: $1" >&2 && exit "${2:-2}"; }
[[ "$record" = false || -z "${changed[*]}" ]] || refuse "--record is for the experiment as it is, without ${changed[*]}"
results=(--exp-dir "$exp_dir" --seed "$seed" "--changed=${changed[*]@Q}")
[ "$record" = false ] || results+=(--out "$here")
overrides=(--seed="$seed" --encoder="$models/whisper-mini" --llm="$llm" "${overrides[@]}")

# Systems and recipes
declare -A input_of trained_by model_of references
all_systems=() all_recipes=() table_recipes=()
while read -r name input configuration; do
    all_systems+=("$name") input_of[$name]="$input" trained_by[$name]="$configuration"
done < <(grep -v '^#' conf/systems.tsv)
while read -r name made tables further; do
    all_recipes+=("$name") model_of[$name]="$made" references[$name]="$further"
    [ "$tables" = no ] || table_recipes+=("$name")
done < <(grep -v '^#' conf/recipes.tsv)
[[ "$full" = false || -n "$recipes" ]] || recipes="${table_recipes[*]}"
[ "$full" = false ] || systems=all
[ "$recipes" != all ] || recipes="${all_recipes[*]}"
[ "$systems" != all ] || systems="${all_systems[*]}"
read -ra recipes <<<"${recipes//,/ }"
read -ra systems <<<"${systems//,/ }"
for name in "${systems[@]}"; do
    [ -n "${trained_by[$name]:-}" ] || refuse "--systems: '$name' is not one of ${all_systems[*]}"
done
for name in "${recipes[@]}"; do
    [ -n "${model_of[$name]:-}" ] || refuse "--recipes: '$name' is not one of ${all_recipes[*]}"
done
german=false # speech that blsp_de is trained on too
[[ " ${systems[*]} " != *" blsp_de "* ]] || german=true
decoders=("${systems[@]}")
if [ "$world" = false ]; then
    decoders=(blsp)
    model="${model:-$exp/blsp/model}"
    for name in "${recipes[@]}"; do
        [[ "${model_of[$name]}" = trains || -d "$model" || "$dry_run" = true || "$stop_stage" -lt 4 ]] ||
            refuse "$name decodes with $model, which is not there; train it with ./run.sh, or name another with --model" 1
    done
fi

times=()
step() { # step NAME COMMAND ...: runs it and notes how long it took
    local begin=$SECONDS
    "${@:2}"
    times+=("$1=$((SECONDS - begin))")
}
part() { # part FIRST LAST RECIPE OPTIONS ...: the recipe's run.sh, with what was asked for of these stages
    local first=$(($1 > stage ? $1 : stage)) last=$(($2 < stop_stage ? $2 : stop_stage))
    [ "$first" -le "$last" ] || return 0
    run "../../recipes/$3/run.sh" --stage "$first" --stop-stage "$last" --nj "$nj" --ngpu "$ngpu" --limit "$limit" "${@:4}"
}
system() { # system NAME FIRST LAST [--KEY=VALUE ...]: these stages of a system, on the layout of LibriSpeech
    local configuration="$config"
    [[ "${trained_by[$1]}" = none || "${trained_by[$1]}" = --config ]] || configuration="$here/conf/${trained_by[$1]}"
    part "$2" "$3" librispeech --corpus-dir "$here/corpora/LibriSpeech" --config "$configuration" --data-dir "$data_dir" \
        --exp-dir "$exp/$1" -- "${overrides[@]}" "${@:4}"
}
recipe() { # recipe NAME SYSTEM FIRST LAST: these stages of a recipe; with a system, of decoding with its model
    local place="$exp/recipes/$1" given=() values=("${overrides[@]}")
    if [ -n "$2" ]; then
        [ "$2" = blsp ] || place="$exp/$2/$1"
        [ "$world" = false ] || model="$exp/$2/model"
        given=(--model "$model") values+=(--system="$2" --input="${input_of[$2]}")
    fi
    [ "$1" != alpaca ] || values=("${overrides[0]}" "${overrides[@]:2}") # all but the encoder
    part "$3" "$4" "${1%-qa}" --corpus-dir "$here/corpora/$1" --config "$here/conf/$1.yaml" --data-dir "$data_dir/recipes/$1" \
        --exp-dir "$place" "${given[@]}" -- "${values[@]}"
}
