# Processors and memory nodes are those of the specification, and later those of an update.
# drivers: path systemd
# kinds: native wasm
# short: systemd::wasm
start box '{"linux": {"resources": {"cpu": {"cpus": "1", "mems": "0"}}}}' sleep 1000
cgroup_files box cpuset.cpus cpuset.mems cpuset.cpus.effective
grep -E '^(Cpus|Mems)_allowed_list' "/proc/$(pid_of box)/status"
/opt/node/client client update --namespace "$NAMESPACE" box '{"cpu": {"cpus": "0"}}'
cgroup_files box cpuset.cpus cpuset.mems cpuset.cpus.effective
start both '{"linux": {"resources": {"cpu": {"cpus": "0-1"}}}}' sleep 1000
cgroup_files both cpuset.cpus cpuset.mems
