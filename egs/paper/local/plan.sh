# shellcheck shell=bash disable=SC2154,SC2034
# Sourced by run.sh: from its options and the tables of conf/, where things are, which systems and recipes are run, and what a step is.

# Where things are
here="$PWD" root="$(cd ../.. && pwd)"
absolute() { case "$1" in /*) printf '%s' "$1" ;; *) printf '%s' "$here/$1" ;; esac; }
corpora_dir="$(absolute "$corpora_dir")" data_dir="$(absolute "$data_dir")" exp_dir="$(absolute "$exp_dir")"
exp="$exp_dir/seed$seed"
[ ! -d "$_called_from/$encoder" ] || encoder="$_called_from/$encoder"
[[ -z "$llm" || ! -d "$_called_from/$llm" ]] || llm="$_called_from/$llm"

# What makes this another experiment than the paper's
changed=()
[ "$limit" = 0 ] || changed+=(--limit "$limit")
[ -z "$llm" ] || changed+=(--llm "$llm")
[ "$encoder" = openai/whisper-small ] || changed+=(--encoder "$encoder")
[ "${#overrides[@]}" = 0 ] || changed+=(-- "${overrides[@]}")
refuse() { echo "run.sh: $1" >&2 && exit 2; }
[[ "$record" = false || -z "${changed[*]}" ]] || refuse "--record is for the paper's experiment, without ${changed[*]}"
reproduced="./egs/paper/run.sh --systems {system} --recipes {corpus} --seed {seed}${changed[*]:+ ${changed[*]@Q}}"
out="$exp_dir"
[ "$record" = false ] || out="$here"
tuned=false # whether recipes/alpaca makes the LLM
[ -n "$llm" ] || tuned=true
llm="${llm:-$exp_dir/alpaca/model}"
models=(--encoder="$encoder" --llm="$llm")

# Systems and recipes
declare -A input_of trained_by folder_of decoded_by
all_systems=() all_recipes=() training=()
while read -r name input configuration; do
    all_systems+=("$name") input_of[$name]="$input" trained_by[$name]="$configuration"
done < <(grep -v '^#' conf/systems.tsv)
while read -r name folder trains decoding; do
    folder_of[$name]="$folder" decoded_by[$name]="$decoding"
    [ "$decoding" = none ] || all_recipes+=("$name")
    [ "$trains" != adapters ] || training+=("$name")
done < <(grep -v '^#' conf/recipes.tsv)
[ "$systems" != all ] || systems="${all_systems[*]}"
[ "$recipes" != all ] || recipes="${all_recipes[*]}"
read -ra systems <<<"${systems//,/ }"
read -ra recipes <<<"${recipes//,/ }"
trained=() needed=() # systems; recipes whose data they need
for name in "${systems[@]}"; do
    [ -n "${trained_by[$name]:-}" ] || refuse "--systems: '$name' is not a system, one of ${all_systems[*]}"
    [ "${trained_by[$name]}" = none ] || trained+=("$name")
done
for name in "${recipes[@]}"; do
    [[ "${decoded_by[$name]:-none}" != none ]] || refuse "--recipes: '$name' is not one to evaluate on, one of ${all_recipes[*]}"
done
[ "${#trained[@]}" -gt 0 ] || training=()
for name in "${training[@]}" "${recipes[@]}"; do
    [[ " ${needed[*]} " == *" $name "* ]] || needed+=("$name")
done

recipe() { # recipe NAME FIRST_STAGE LAST_STAGE OPTIONS ...: its run.sh, with what of these stages was asked for
    local first=$(($2 > stage ? $2 : stage)) last=$(($3 < stop_stage ? $3 : stop_stage)) script="$root/recipes/$1/run.sh"
    [ "$first" -le "$last" ] || return 0
    local options=(--stage "$first" --stop-stage "$last" --ngpu "$ngpu" --nj "$nj" --limit "$limit" "${@:4}")
    run "$script" "${options[@]}"
    [ "$dry_run" = false ] || "$script" --dry-run "${options[@]}" | sed -e '/^$/d; /^== /d; s/^/    [/; s/ *$/]/'
}
corpus() { printf '%s' "$corpora_dir/${folder_of[$1]}"; }
