# Ending a container kills nobody else: neither a container that names the same cgroup nor a process that lies there.
# drivers: path systemd
# kinds: native wasm
# short: systemd::wasm
# reference: none
start first '{}' sleep 1000
path=$(jq -r .linux.cgroupsPath first.json)
code=0
# Newer runc refuses a cgroup that is not empty; to share it is as good.
start second '{"linux": {"cgroupsPath": "'"$path"'"}}' sleep 1000 2>refused || code=$?
is first RUNNING || fail "the creation of another container has killed the first"
remove second
is first RUNNING || fail "the end of another container has killed the first"
remove first

# A process of the node in the cgroup that a container names as its own.
[ "$DRIVER" = path ] || exit 0
mkdir -p "/sys/fs/cgroup/node/$NAMESPACE/shared"
sleep 1000 &
stranger=$!
restore() { kill "$stranger" 2>/dev/null; wait 2>/dev/null; rmdir "/sys/fs/cgroup/node/$NAMESPACE/shared" 2>/dev/null; }
echo "$stranger" >"/sys/fs/cgroup/node/$NAMESPACE/shared/cgroup.procs"
start third '{"linux": {"cgroupsPath": "/node/'"$NAMESPACE"'/shared"}}' sleep 1000 2>>refused || true
remove third
kill -0 "$stranger" || fail "a process of the node has been killed"
[ -d "/sys/fs/cgroup/node/$NAMESPACE/shared" ] || fail "a cgroup that was there before has been removed"
