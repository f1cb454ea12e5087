# A process has the capabilities that exec leaves it.
# kinds: native wasm
show() {
    start "$1" "$2" sleep 1000
    # A guest has a filter of its own, and so never new privileges: docs/parity.md.
    local fields='Cap...\|Groups'
    [ "$KIND" = wasm ] || fields+='\|NoNewPrivs\|Seccomp'
    sed -n "s/^\($fields\):[[:space:]]*/$1 \1 /p" "/proc/$(pid_of "$1")/status"
    remove "$1"
}
show root '{}'
show user '{"process": {"user": {"uid": 1000, "gid": 1000}}}'
show inherited '{"process": {"user": {"uid": 1000, "gid": 1000}, "capabilities": {"inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}}}'
show empty '{"process": {"capabilities": {"bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": []}}}'
show absent '{"process": {"capabilities": null}}'
show groups '{"process": {"user": {"uid": 1000, "gid": 1000, "additionalGids": [5, 7]}, "noNewPrivileges": false}}'
