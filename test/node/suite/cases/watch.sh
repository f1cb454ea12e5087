# The service that compiles what is pulled does so under systemd, as its unit says.
# kinds: wasm
# reference: none
# alone
restore() {
    systemctl disable --now --quiet prewasi-watch.service
    command ctr images rm localhost/watched:1 localhost/demo:1 >/dev/null
    rm -f /etc/systemd/system/prewasi-watch.service
    systemctl daemon-reload
}
cp /opt/node/deploy/prewasi-watch.service /etc/systemd/system/
systemctl daemon-reload
systemctl enable --now --quiet prewasi-watch.service
# An image as it is when it has been pulled.
command ctr images import --all-platforms --local /opt/node/images/demo.tar >/dev/null 2>&1 ||
    command ctr images import --all-platforms /opt/node/images/demo.tar >/dev/null
command ctr images tag localhost/demo:1 localhost/watched:1 >/dev/null
compiled() { prewasi inspect localhost/watched:1 | grep -q 'sha256:'; }
is_compiled() { command ctr content ls | grep -q 'runwasi.io/precompiled'; }
LIMIT=120 eventually is_compiled
systemctl is-active --quiet prewasi-watch.service
# It goes on when containerd restarts, and ends when it is told to.
systemctl restart containerd
eventually systemctl is-active --quiet prewasi-watch.service
systemctl stop prewasi-watch.service
expect "how it ended" success "$(systemctl show --property Result --value prewasi-watch.service)"
