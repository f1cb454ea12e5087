# `prewasi doctor` is content with the node, and tells what confines containers here.
# kinds: wasm
# reference: none
prewasi doctor >said || fail "it finds fault: $(cat said)"
for part in "cgroups: version 2" systemd AppArmor D-Bus; do grep -qi -- "$part" said || fail "it says nothing of $part: $(cat said)"; done
