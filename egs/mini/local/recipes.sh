# shellcheck shell=bash disable=SC2154
# Sourced by run.sh for --recipes: speaks these corpora's layouts, runs each one's own recipe on its layout, prints all scores.

names=(gigaspeech commonvoice must-c tedlium3 covost2 snips fsc slue-voxceleb bstc mslt alpaca)
[ "$recipes" = all ] || read -ra names <<<"${recipes//,/ }"
record=(--record .) # only what the command in the record says:
[ "$limit$model" = 0 ] && [ "${#overrides[@]}" = 3 ] || record=() # the whole, and no overrides but run.sh's own
model="${model:-$exp/blsp/model}" # what the recipes decode with that train none
for name in "${names[@]}"; do
    [[ "$name" =~ ^(gigaspeech|commonvoice|alpaca)$ || -d "$model" || "$dry_run" = true || "$stop_stage" -lt 4 ]] || {
        echo "run.sh: $name decodes with $model, which is not there; train it with ./run.sh, or name another with --model" >&2
        exit 1
    }
done

run python local/speak_layouts.py --out corpora --recipes "${names[*]}" --nj "$nj"
stages() { # stages NAME FIRST LAST: what of these stages of a recipe was asked for
    local first=$(($2 > stage ? $2 : stage)) last=$(($3 < stop_stage ? $3 : stop_stage)) given=() values=("${overrides[@]}")
    [ "$first" -le "$last" ] || return 0
    [ "$1" != alpaca ] || values=("${overrides[0]}" "${overrides[@]:2}") # all but the encoder
    [[ "$1" =~ ^(gigaspeech|commonvoice)$ ]] || given=(--model "$model")
    run "../../recipes/$1/run.sh" --corpus-dir "$here/corpora/$1" --config "$here/conf/$1.yaml" \
        --data-dir "$data_dir/recipes/$1" --exp-dir "$exp/recipes/$1" "${given[@]}" --nj "$nj" --ngpu "$ngpu" --limit "$limit" \
        --stage "$first" --stop-stage "$last" -- "${values[@]}"
}
for name in "${names[@]}"; do
    [ "$dry_run" = true ] || printf '\n==== %s\n' "$name"
    stages "$name" 0 0
    if [[ "$name" =~ ^(snips|fsc)$ ]]; then # the world's own intents beside the corpus' labels
        run python local/add_references.py --references "corpora/$name/references" --data-dir "$data_dir/recipes/$name"
    fi
    stages "$name" 1 5
done
[ "$stop_stage" -lt 5 ] ||
    run python local/recipe_scores.py --exp-dir "$exp/recipes" --recipes "${names[*]}" --seed "$seed" "${record[@]}"
