# shellcheck shell=bash disable=SC2154
# Sourced by run.sh for --recipes and --full: speaks these corpora's layouts and runs each one's own recipe on its layout;
# evaluation recipes decode with the model of the main run, for --full with every system's.

names=(gigaspeech gigaspeech-qa commonvoice must-c tedlium3 covost2 snips fsc slue-voxceleb bstc mslt speechocean762 alpaca)
[ "$full" = false ] || names=(gigaspeech-qa must-c tedlium3 covost2 snips fsc slue-voxceleb bstc mslt) # those of the paper's tables
[[ -z "$recipes" || "$recipes" = all ]] || read -ra names <<<"${recipes//,/ }"
record=(--record .) # only what the command in the record says:
[ "$limit$model" = 0 ] && [ "${#overrides[@]}" = 3 ] || record=() # the whole, and no overrides but run.sh's own
model="${model:-$exp/blsp/model}" # what the recipes decode with that train none
for name in "${names[@]}"; do
    [[ "$name" =~ ^(gigaspeech|commonvoice|alpaca)$ || -d "$model" || "$dry_run" = true || "$stop_stage" -lt 4 ]] || {
        echo "run.sh: $name decodes with $model, which is not there; train it with ./run.sh, or name another with --model" >&2
        exit 1
    }
done

step speech run python local/speak_layouts.py --out corpora --recipes "${names[*]}" --nj "$nj"
stages() { # stages NAME FIRST LAST EXP_DIR MODEL [--KEY=VALUE ...]: what of these stages of a recipe was asked for
    local first=$(($2 > stage ? $2 : stage)) last=$(($3 < stop_stage ? $3 : stop_stage)) given=() values=("${overrides[@]}")
    [ "$first" -le "$last" ] || return 0
    [ "$1" != alpaca ] || values=("${overrides[0]}" "${overrides[@]:2}") # all but the encoder
    [ -z "$5" ] || given=(--model "$5")
    run "../../recipes/${1%-qa}/run.sh" --corpus-dir "$here/corpora/$1" --config "$here/conf/$1.yaml" \
        --data-dir "$data_dir/recipes/$1" --exp-dir "$4" "${given[@]}" --nj "$nj" --ngpu "$ngpu" --limit "$limit" \
        --stage "$first" --stop-stage "$last" -- "${values[@]}" "${@:6}"
}
for name in "${names[@]}"; do
    [ "$dry_run" = true ] || printf '\n==== %s\n' "$name"
    step preparation stages "$name" 0 0 "$exp/recipes/$name" ""
    if [[ "$name" =~ ^(snips|fsc|gigaspeech-qa)$ ]]; then # the world's own intents; questions
        run python local/add_references.py --references "corpora/$name/references" --data-dir "$data_dir/recipes/$name"
    fi
    if [[ "$name" =~ ^(gigaspeech|commonvoice|alpaca)$ ]]; then
        stages "$name" 1 5 "$exp/recipes/$name" ""
    elif [ "$full" = false ]; then
        stages "$name" 1 1 "$exp/recipes/$name" ""
        stages "$name" 4 5 "$exp/recipes/$name" "$model"
    else
        step features stages "$name" 1 1 "$exp/recipes/$name" ""
        for system in ${systems//,/ }; do
            case "$system" in *_llm) input="${system%_llm}" ;; *) input=speech ;; esac
            case "$system" in blsp) place="$exp/recipes/$name" ;; *) place="$exp/$system/$name" ;; esac # blsp: as --recipes has it
            step evaluation stages "$name" 4 5 "$place" "$exp/$system/model" --system="$system" --input="$input"
        done
    fi
done
if [ "$full" = true ]; then
    [ "$stop_stage" -lt 5 ] ||
        run python -m blsp.bin.tables --config conf/tables.yaml --out "$(absolute "$exp_dir")/tables" \
            --command "./egs/mini/run.sh --full --seed {seed}" "$(absolute "$exp_dir")"
else
    [ "$stop_stage" -lt 5 ] ||
        run python local/recipe_scores.py --exp-dir "$exp/recipes" --recipes "${names[*]}" --seed "$seed" "${record[@]}"
fi
