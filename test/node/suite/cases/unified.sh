# Each key of the specification's `unified` takes effect as with runc.
# drivers: path systemd
# kinds: native wasm
# short: systemd::wasm
all='"memory.oom.group": "1", "memory.swap.max": "1048576", "memory.max": "max", "memory.high": "209715200", "memory.low": "1048576",
    "memory.min": "4096", "io.weight": "50", "cpu.weight": "100", "cpu.max": "50000 100000", "cpuset.cpus": "0-1", "cpuset.mems": "0"'
start all '{"linux": {"resources": {"unified": {'"$all"'}}}}' sleep 1000
cgroup_files all memory.oom.group memory.swap.max memory.max memory.high memory.low memory.min io.weight cpu.weight cpu.max cpuset.cpus cpuset.mems
start other '{"linux": {"resources": {"unified": {"cpu.max": "max 100000", "memory.max": "104857600", "pids.max": "77"}}}}' sleep 1000
cgroup_files other cpu.max memory.max pids.max
start quota '{"linux": {"resources": {"unified": {"cpu.max": "20000 50000", "memory.swap.max": "max", "pids.max": "max"}}}}' sleep 1000
cgroup_files quota cpu.max memory.swap.max pids.max
