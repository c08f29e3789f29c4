# bash completion for @NAME@. All commands and options are in the tables, so that completing starts no program.
@FUNCTION@() {
    local -A commands=(
@COMMANDS@
    )
    local -A options=(
@OPTIONS@
    )
    # Options that take a value: "file", "any", or the values.
    local -A values=(
@VALUES@
    )
    local current=${COMP_WORDS[COMP_CWORD]} path='' takes='' word index
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        if [[ -n $takes ]]; then
            # Readline splits --option=value into three words.
            [[ $word == = ]] || takes=''
        elif [[ $word == -* ]]; then
            takes=${values["$path $word"]-}
        elif [[ " ${commands["${path:-/}"]-} " == *" $word "* ]]; then
            path="${path:+$path }$word"
        fi
    done
    [[ $current != = ]] || current=''
    case $takes in
        '')
            if [[ $current == -* || -z ${commands["${path:-/}"]-} ]]; then
                mapfile -t COMPREPLY < <(compgen -W "${options["${path:-/}"]-}" -- "$current")
            else
                mapfile -t COMPREPLY < <(compgen -W "${commands["${path:-/}"]}" -- "$current")
            fi
            ;;
        any) COMPREPLY=() ;;
        file)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$takes" -- "$current") ;;
    esac
}
complete -F @FUNCTION@ @NAME@
