# What a container is kept waiting for shows in its pressure figures.
# kinds: native wasm
# short: systemd::wasm
# Averages may be zero, and zeros are left out.
start box '{"linux": {"resources": {"cpu": {"quota": 5000, "period": 100000}}}}' spin
waited() { [ "$(sed -n 's/^some.*total=//p' "$(cgroup_of box)/cpu.pressure")" -gt 100000 ]; }
eventually waited
ctr tasks metrics --format json box | jq -r 'paths(scalars) | map(tostring) | join(".") | select(test("psi.*total$"; "i"))' | sort
