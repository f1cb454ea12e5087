# Pods as the kubelet makes them: where their scopes are, their limits, running out of memory, in-place resizing, and the end.
# kinds: native wasm
# short: systemd::wasm
client=/opt/node/client
handler=$RUNTIME
name=$(echo "$NAMESPACE" | tr -d -)
slice=node-$name.slice
if [ "$KIND" = wasm ]; then image=localhost/demo:1; else image=localhost/busybox:1; fi
case $KIND in
    wasm) sleep=(demo.wasm sleep 1000) allocate=(demo.wasm allocate 200) ;;
    native) sleep=(busybox sleep 1000) allocate=(busybox dd if=/dev/zero of=/dev/null bs=200M count=1) ;;
esac
pods=()
restore() { for pod in "${pods[@]}"; do "$client" client remove-pod "$pod" || true; done; systemctl stop "$slice"; }
run_pod() {
    local ids
    ids=$("$client" client run-pod --handler "$handler" --parent "$slice" "$@")
    read -r pod container <<<"$ids"
    pods+=("$pod")
}
shown() { "$client" client status "$container"; }
has_ended() { [[ $(shown) == exited* ]]; }

run_pod --memory 104857600 "$name-1" "$image" "${sleep[@]}"
folder=/sys/fs/cgroup/node.slice/$slice/cri-containerd-$container.scope
for file in memory.max memory.oom.group cpu.weight pids.max; do echo "$file: $(cat "$folder/$file")"; done
echo "cgroups of the pod: $(find "/sys/fs/cgroup/node.slice/$slice" -mindepth 1 -type d | wc -l)"
systemctl show "cri-containerd-$container.scope" --property Slice,MemoryMax,Delegate,OOMPolicy,DevicePolicy | sed "s/$name/NAME/"
"$client" client resize "$container" 157286400
echo "resized: $(cat "$folder/memory.max")"
"$client" client stop-container "$container" 0
echo "stopped: $(shown)"

run_pod --memory 41943040 "$name-2" "$image" "${allocate[@]}"
eventually has_ended
# On a slow machine runc's shim may tell of the end before it has heard of the reason.
if [ "$RUNTIME" = runc ]; then echo "out of memory: exited 137 OOMKilled"; else echo "out of memory: $(shown)"; fi
for pod in "${pods[@]}"; do "$client" client remove-pod "$pod"; done
pods=()
is_empty() { [ -z "$(find "/sys/fs/cgroup/node.slice/$slice" -mindepth 1 -type d 2>/dev/null)" ]; }
eventually is_empty
echo "removed"
