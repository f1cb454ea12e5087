# An update changes what it names and nothing else, and systemd does not write old limits back later.
# drivers: path systemd
# kinds: native wasm
# short: systemd::wasm
files=(memory.max memory.swap.max memory.low cpu.max pids.max)
update() { /opt/node/client client update --namespace "$NAMESPACE" box "$1"; echo "after $1"; cgroup_files box "${files[@]}"; }
limits='{"memory": {"limit": 104857600}, "cpu": {"quota": 50000, "period": 100000}, "pids": {"limit": 50}}'
start box '{"linux": {"resources": '"$limits"'}}' sleep 1000
cgroup_files box "${files[@]}"
update '{"memory": {"limit": 209715200}}'
update '{"cpu": {"quota": 20000, "period": 100000}}'
update '{"pids": {"limit": 60}}'
update '{"memory": {"limit": 157286400, "reservation": 1048576}, "cpu": {"quota": -1}}'
if [ "$DRIVER" = systemd ]; then
    unit=$(basename "$(cgroup_of box)")
    # Each makes systemd write all properties of a controller that the unit has.
    systemctl set-property --runtime "$unit" MemoryHigh=150M StartupCPUWeight=200 TasksAccounting=yes
    echo "after set-property"
    cgroup_files box "${files[@]}"
    systemctl daemon-reload
    echo "after daemon-reload"
    cgroup_files box "${files[@]}"
fi
