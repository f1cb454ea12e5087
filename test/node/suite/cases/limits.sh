# Limits are those of the specification, and in the unit's properties, too.
# drivers: path systemd
# kinds: native wasm
# short: systemd::wasm
limits='{"memory": {"limit": 104857600, "swap": 104857600, "reservation": 52428800},
    "cpu": {"quota": 50000, "period": 100000}, "pids": {"limit": 50}, "blockIO": {"weight": 300}}'
start box '{"linux": {"resources": '"$limits"'}}' sleep 1000
files=(memory.max memory.swap.max memory.low memory.high cpu.max cpuset.cpus pids.max io.weight memory.oom.group)
cgroup_files box "${files[@]}"
start none '{}' sleep 1000
cgroup_files none "${files[@]}" cpu.weight
