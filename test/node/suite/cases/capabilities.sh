# A process has the capabilities that exec leaves it.
# kinds: native wasm
# show NAME CHANGE NO_NEW_PRIVILEGES
show() {
    local status
    start "$1" "$2" sleep 1000
    status=$(<"/proc/$(pid_of "$1")/status")
    sed -n "s/^\(Cap...\|Groups\):[[:space:]]*/$1 \1 /p" <<<"$status"
    # A guest has a filter of its own, and so never new privileges: docs/parity.md.
    [ "$KIND" = wasm ] || expect "privileges of $1" "$3" "$(sed -n 's/^NoNewPrivs:[[:space:]]*//p' <<<"$status")"
    remove "$1"
}
show root '{}' 1
show user '{"process": {"user": {"uid": 1000, "gid": 1000}}}' 1
show inherited '{"process": {"user": {"uid": 1000, "gid": 1000}, "capabilities": {"inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}}}' 1
show empty '{"process": {"capabilities": {"bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": []}}}' 1
show absent '{"process": {"capabilities": null}}' 1
show groups '{"process": {"user": {"uid": 1000, "gid": 1000, "additionalGids": [5, 7]}, "noNewPrivileges": false}}' 0
