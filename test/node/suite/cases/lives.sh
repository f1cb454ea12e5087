# Many short lives, several at a time, leave nothing behind: no unit, cgroup, mount, process.
# drivers: path systemd
# kinds: native wasm
# long
for ((round = 1; round <= 10; round++)); do
    for ((box = 1; box <= 4; box++)); do run "box-$round-$box" '{}' sleep 0 >"$round-$box" & done
    wait
done
echo "ended: $(find . -name '*-*' -type f ! -name '*.json' | wc -l)"
systemctl --failed --no-legend --plain | grep -F "$NAMESPACE" || true
