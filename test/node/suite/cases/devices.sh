# Devices that the list does not allow cannot be read: not by an image's node for them, not by a new one, not in exec, not later.
# drivers: path systemd
# kinds: native wasm
# short: path::native systemd::native systemd::wasm
#
# /disk is a device node of mode 666 that the root file system brings along; behind it lies a file full of the letter s.
user='"process": {"user": {"uid": 1000, "gid": 1000}, "capabilities": {"bounding": [], "effective": [], "permitted": []}}'
found=$(why run user "{$user}" read /disk)
expect "reading as a user" "Operation not permitted" "$found"
echo "as a user: $found"
found=$(why run root '{}' read /disk)
expect "reading as root" "Operation not permitted" "$found"
echo "as root: $found"

allowed='{"allow": true, "type": "b", "major": 7, "minor": 7, "access": "r"}'
list='"linux": {"resources": {"devices": [{"allow": false, "access": "rwm"}, '$allowed']}}'
# The reader stops in the middle: that is the end of the program, too.
found=$({ run allowed "{$user, $list}" read /disk || true; } | head -c 4)
expect "reading what is allowed" ssss "$found"
echo "allowed: $found"
echo "null: $(run null '{}' read /dev/null)"

start box '{}' sleep 1000
read_by_exec() { mapfile -t command < <(guest read /disk); why ctr tasks exec --exec-id "$1" box "${command[@]}"; }
echo "exec: $(read_by_exec before)"
/opt/node/client client update --namespace "$NAMESPACE" box '{"memory": {"limit": 104857600}}'
echo "exec after an update: $(read_by_exec updated)"
systemctl daemon-reload
echo "exec after systemd has read its configuration: $(read_by_exec reloaded)"
if [ "$KIND" = native ]; then
    made=$(why ctr tasks exec --exec-id made box sh -c "rm -f /tmp/made; mknod /tmp/made b 7 7 && cat /tmp/made; code=\$?; rm -f /tmp/made; exit \$code")
    expect "reading through a new node" "Operation not permitted" "$made"
fi
