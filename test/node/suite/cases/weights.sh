# CPU shares become a weight by one formula, at creation and later: that of runc since 1.3.2, which Debian 13 does not have yet.
# drivers: path systemd
# kinds: native wasm
# short: systemd::wasm
# reference: none
weight() { cat "$(cgroup_of box)/cpu.weight"; }
shares() { echo '{"cpu": {"shares": '"$1"'}}'; }
for pair in 512:59 1024:100; do
    start box '{"linux": {"resources": '"$(shares "${pair%:*}")"'}}' sleep 1000
    expect "the weight of ${pair%:*} shares at creation" "${pair#*:}" "$(weight)"
    remove box
done
start box '{}' sleep 1000
for pair in 512:59 1024:100; do
    /opt/node/client client update --namespace "$NAMESPACE" box "$(shares "${pair%:*}")"
    expect "the weight of ${pair%:*} shares after an update" "${pair#*:}" "$(weight)"
done
# Nothing that an update does not name changes.
/opt/node/client client update --namespace "$NAMESPACE" box '{"memory": {"limit": 104857600}}'
expect "the weight after an update of something else" 100 "$(weight)"
