# What cases are made of. CASE, RUNTIME (runc or wasmtime), KIND (native or wasm), DRIVER (path or systemd) and NAMESPACE are set.
#
# A case prints facts, each a line, which must be those of runc. What must hold whatever runc does is said by `expect`.

# The file systems that containers have: busybox, or the demo program (test/guests/demo.c).
rootfs=/var/lib/node/$KIND

fail() { echo "$*" >&2; exit 1; }

# expect WHAT WANTED ACTUAL
expect() { [ "$2" = "$3" ] || fail "$1: expected \"$2\", found \"$3\""; }

# Waits until a command succeeds; everything takes its time here.
eventually() {
    local limit=$((SECONDS + ${LIMIT:-60}))
    until "$@"; do
        [ "$SECONDS" -lt "$limit" ] || { echo "not in time: $*" >&2; return 1; }
        sleep 0.2
    done
}

ctr() { command ctr -n "$NAMESPACE" "$@"; }

# The arguments of a guest that does what is named: sleep SECONDS, read PATH, write PATH TEXT, allocate MEBIBYTES, spin.
guest() {
    if [ "$KIND" = wasm ]; then
        printf '%s\n' /demo.wasm "$@"
        return
    fi
    case $1 in
        sleep) printf '%s\n' sleep "$2" ;;
        read) printf '%s\n' cat "$2" ;;
        write) printf '%s\n' sh -c 'echo "$2" >"$1"' sh "$2" "$3" ;;
        allocate) printf '%s\n' dd if=/dev/zero of=/dev/null bs="$2M" count=1 ;;
        spin) printf '%s\n' sh -c 'echo spinning; while :; do :; done' ;;
        *) fail "no guest does $1" ;;
    esac
}

# Prints the cgroup path that the specification has.
cgroups_path() {
    if [ "$DRIVER" = systemd ]; then echo "node.slice:$NAMESPACE:$1"; else echo "/node/$NAMESPACE/$1"; fi
}

# run_container ID CHANGE [OPTION OF ctr…] -- ARGUMENT…: runs a container. CHANGE is merged into the specification that ctr makes.
run_container() {
    local id=$1 change=$2 options=()
    shift 2
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    [ "$RUNTIME/$DRIVER" != runc/systemd ] || options+=(--runc-systemd-cgroup --cgroup unused)
    jq --arg path "$(cgroups_path "$id")" --arg root "$rootfs" --argjson change "$change" '
        .process.env = ["PATH=/bin"] | .root.path = $root | .linux.cgroupsPath = $path | .process.args = $ARGS.positional
        | . * $change' "$suite/../spec.json" --args -- "$@" >"$id.json"
    ctr run --runtime "io.containerd.$runtime_name" "${options[@]}" --config "$id.json" "$id"
}
case $RUNTIME in runc) runtime_name=runc.v2 ;; *) runtime_name=$RUNTIME.v1 ;; esac

# run ID CHANGE GUEST…: runs a guest to its end; its output, both streams.
run() {
    local id=$1 change=$2 arguments
    shift 2
    mapfile -t arguments < <(guest "$@")
    run_container "$id" "$change" --rm -- "${arguments[@]}" 2>&1
}

# start ID CHANGE GUEST…: starts a guest that goes on by itself.
start() {
    local id=$1 change=$2 arguments
    shift 2
    mapfile -t arguments < <(guest "$@")
    run_container "$id" "$change" --detach --log-uri "file://$work/$id.log" -- "${arguments[@]}"
}

# why COMMAND…: prints why a command fails: the end of its last line.
why() {
    local output
    if output=$("$@" 2>&1); then echo "no error: ${output:0:40}"; else sed -n '$s/.*: //p' <<<"$output"; fi
}

# Prints the status of a container's task, in capitals; nothing if it has none.
status_of() { ctr tasks ls | awk -v id="$1" '$1 == id { print $3 }'; }
is() { [ "$(status_of "$1")" = "$2" ]; }

# Prints the process id of a container's init.
pid_of() { ctr tasks ls | awk -v id="$1" '$1 == id { print $2 }'; }

# Prints the folder of the cgroup that a container's init is in.
cgroup_of() { echo "/sys/fs/cgroup$(cut -d: -f3 "/proc/$(pid_of "$1")/cgroup")"; }

# Prints files of a container's cgroup, each as NAME: CONTENT.
cgroup_files() {
    local folder file
    folder=$(cgroup_of "$1")
    shift
    for file in "$@"; do echo "$file: $(tr '\n' ' ' <"$folder/$file" 2>&1)"; done
}

# Deletes a task that has ended, and prints its exit code.
exit_code_of() { ctr tasks rm "$1" 2>&1 | sed -n 's/.*exit code \([0-9]*\).*/\1/p'; }

# Kills a container's task and removes both; quietly, whatever its state.
remove() {
    ctr tasks rm --force "$1" >/dev/null 2>&1 || true
    ctr containers rm "$1" >/dev/null
}
remove_all() { local id; for id in $(ctr containers ls -q); do remove "$id"; done; }

# Prints what a case has left on the node.
left() {
    pgrep -af -- "[ /]$NAMESPACE( |$)" | sed 's/^/process /'
    systemctl list-units --all --plain --no-legend --type scope "$NAMESPACE*" | sed 's/^/unit /'
    find /sys/fs/cgroup -type d -name "*$NAMESPACE*" ! -path "/sys/fs/cgroup/node/$NAMESPACE" -o \
        -type d -path "/sys/fs/cgroup/node/$NAMESPACE/*" | sed 's/^/cgroup /'
    grep -F "/$NAMESPACE/" /proc/self/mountinfo | cut -d' ' -f5 | sed 's/^/mount /'
    ls -d "/run/containerd/io.containerd.runtime.v2.task/$NAMESPACE"/* 2>/dev/null | sed 's/^/bundle /'
    return 0
}
nothing_left() { [ -z "$(left)" ]; }
