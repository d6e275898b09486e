#!/usr/bin/env bash
# Sourced by run.sh scripts: sets the script's variables from its command line, and gives it stage() and run().
#
#   name=default   # comment      a line like this in the script, above the one that sources this file, declares --name
#   --name value, --name=value    hyphens and underscores are the same; a variable whose default is true or false is a flag
#   --                            what follows overrides keys of the YAML and is left in the array `overrides`
#
# Only declared names are accepted, and values are data: nothing of them is evaluated.

_declared() { # prints "name default comment" lines, tab-separated
    sed -n -e '/parse_options\.sh/q' -e 's/^\([a-z][a-z_]*\)=\([^#]*[^# ]\)\{0,1\} *# *\(.*\)$/\1\t\2\t\3/p' "$_script"
}

_help() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$_script"
    printf '\nusage: %s [OPTIONS] [-- --KEY=VALUE ...]\n\n' "$0"
    _declared | while IFS=$'\t' read -r name default comment; do
        printf '  --%-14s %s [%s]\n' "${name//_/-}" "$comment" "$default"
    done
    printf '  %-16s %s\n' --help "print this" "-- --KEY=VALUE" "override keys of the YAML"
}

_refuse() {
    printf '%s: %s; the options are: %s, --help, and -- --KEY=VALUE for keys of the YAML\n' "$0" "$1" \
        "$(_declared | cut -f1 | sed 's/_/-/g; s/^/--/' | paste -sd, - | sed 's/,/, /g')" >&2
    exit 2
}

_parse_options() {
    local names option name value
    names=" $(_declared | cut -f1 | tr '\n' ' ')"
    overrides=()
    while [ $# -gt 0 ]; do
        option="$1"
        shift
        case "$option" in
            --help | -h) _help; exit 0 ;;
            --) overrides=("$@"); return ;;
            --*) ;;
            *) _refuse "'$option' is not an option" ;;
        esac
        name="${option#--}"
        name="${name%%=*}"
        name="${name//-/_}"
        case "$names" in *" $name "*) ;; *) _refuse "unknown option '$option'" ;; esac
        if [[ "$option" == *=* ]]; then
            value="${option#*=}"
        elif [ "${!name}" = true ] || [ "${!name}" = false ]; then
            value=true
        elif [ $# -gt 0 ]; then
            value="$1"
            shift
        else
            _refuse "option '$option' needs a value"
        fi
        case "${!name}" in true | false) [[ "$value" =~ ^(true|false)$ ]] || _refuse "'$option' is neither true nor false" ;; esac
        # The script works in its own folder; a path means what it meant where the command was typed.
        case "$name" in
            *_dir | config | model) [[ -z "$value" || "$value" == /* ]] || value="$_called_from/$value" ;;
            stage | stop_stage | nj | ngpu | limit) [[ "$value" =~ ^-?[0-9]+$ ]] || _refuse "'$option $value' is not a number" ;;
        esac
        printf -v "$name" '%s' "$value"
    done
}

# stage NUMBER TITLE: true if the stage is to run; announces it and tells the time of the one before.
stage() {
    [ "$1" -ge "$stage" ] && [ "$1" -le "$stop_stage" ] || return 1
    case " ${skip_stages:-} " in *" $1 "*) return 1 ;; esac
    printf '\n== stage %s: %s [%s]\n' "$1" "$2" "$(date +%H:%M:%S)"
}

# run COMMAND ...: runs it, or prints it under --dry-run.
run() {
    if [ "$dry_run" = true ]; then
        printf '%q ' "$@"
        printf '\n'
    else
        "$@"
    fi
}

_script="${0##*/}" # the script has gone to its own folder
_called_from="${OLDPWD:-$PWD}"
_parse_options "$@"
