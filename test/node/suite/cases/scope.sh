# A container's scope has the properties that runc gives it, and lies in the slice that the path names.
# kinds: native wasm
# short: systemd::wasm
properties=Slice,Delegate,DelegateControllers,DefaultDependencies,CollectMode,KillMode,SendSIGHUP,OOMPolicy,TasksMax,MemoryMax,MemorySwapMax
properties+=,MemoryLow,CPUWeight,CPUQuotaPerSecUSec,AllowedCPUs,AllowedMemoryNodes,IOWeight,DevicePolicy,TimeoutStopUSec
limits='{"memory": {"limit": 104857600}, "cpu": {"quota": 50000, "period": 100000, "cpus": "0"}, "pids": {"limit": 50}}'
start box '{"linux": {"resources": '"$limits"'}}' sleep 1000
unit=$(basename "$(cgroup_of box)")
expect "the unit's name" "$NAMESPACE-box.scope" "$unit"
systemctl show "$unit" --property "$properties"
# Nobody else's processes are in it.
expect "its processes" 1 "$(wc -l <"$(cgroup_of box)/cgroup.procs")"
remove box
eventually nothing_left
