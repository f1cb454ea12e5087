# Packages of another suite than the system's own: found and fetched with the system's package sources, which stay as they are.
# To be sourced by a script of bash.

# apt with a folder of its own for sources, lists and archives: the system's stay as they are.
private_apt() {
    local folder=$1; shift
    "$@" -qq -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$folder/sources" \
        -o Dir::Etc::PreferencesParts=/dev/null -o "Dir::State::Lists=$folder/lists" -o "Dir::Cache=$folder/cache" \
        -o APT::Sandbox::User=root
}
# The system's own suite, as its sources name it: a system that has WasmEdge from a newer one says that it is that.
own_suite() {
    local suite
    suite=$(apt-get indextargets --format '$(RELEASE)' 2>/dev/null | sed -nE 's/-(updates|security)$//p' | head -n 1)
    echo "${suite:-$(. /etc/os-release; echo "$VERSION_CODENAME")}"
}
# Copies the system's sources of the distribution itself, with the suite replaced. The suite of its security updates has sources of
# its own.
copy_sources() {
    local folder=$1 suite=$2 codename file
    codename=$(own_suite)
    [ "$suite" = "$codename-security" ] && codename=$suite
    mkdir -p "$folder/sources" "$folder/lists/partial" "$folder/cache/archives/partial"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -e "$file" ] || continue
        sed -nE "s/^(deb +(\[[^]]*\] +)?[^ ]+) +$codename +/\1 $suite /p" "$file" >"$folder/sources/$(basename "$file" .list).list"
    done
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -e "$file" ] || continue
        awk -v RS= -v ORS='\n\n' -v codename="$codename" -v suite="$suite" \
            '$0 ~ "(^|\n)Suites:([^\n]* )?" codename "( |\n|$)" { sub(/Suites:[^\n]*/, "Suites: " suite); print }' \
            "$file" >"$folder/sources/$(basename "$file")"
    done
}
# find_version PACKAGE FOLDER SERVES SUITE...: prints the first suite, and the version of the package in it, for which the command
# SERVES succeeds, and leaves the folder with that suite's lists.
find_version() {
    local package=$1 folder=$2 serves=$3 suite version
    shift 3
    for suite in "$@"; do
        rm -rf "$folder"
        mkdir -p "$folder"
        case $suite in own*) suite=$(own_suite)${suite#own} ;; esac
        copy_sources "$folder" "$suite"
        private_apt "$folder" apt-get update >"$folder/log" 2>&1 || continue
        version=$(private_apt "$folder" apt-cache madison "$package" 2>>"$folder/log" |
            awk -F' *\\| *' '{ print $2 }' | while read -r v; do $serves "$v" && echo "$v" && break; done)
        [ -n "$version" ] || continue
        echo "$suite $version"
        return
    done
    return 1
}
