# Containers start and are deleted in good time where no D-Bus daemon runs.
# kinds: native wasm
# short: systemd::wasm
# reference: none
# alone
restore() { remove_all; systemctl unmask --runtime --quiet dbus.socket dbus.service; systemctl start dbus.socket dbus.service; }
systemctl mask --runtime --quiet dbus.socket dbus.service
systemctl stop dbus.socket dbus.service 2>/dev/null
[ ! -e /run/dbus/system_bus_socket ] || rm /run/dbus/system_bus_socket
lives=20
[ "$FORM" = short ] || lives=200
slowest=0
timed() {
    local begun=${EPOCHREALTIME/./} took
    "$@" >/dev/null
    took=$(((${EPOCHREALTIME/./} - begun) / 1000))
    [ "$took" -le "$slowest" ] || slowest=$took
    # Three seconds is what a start takes on an emulated machine; one that hung took ten at least.
    [ "$took" -lt 9000 ] || fail "life $life: $1 took $took ms"
}
for ((life = 1; life <= lives; life++)); do
    timed start box '{}' sleep 1000
    [[ $(cgroup_of box) == */node.slice/*.scope ]] || fail "the container is in $(cgroup_of box)"
    timed ctr tasks rm --force box
    ctr containers rm box
done
echo "slowest: $slowest ms"
