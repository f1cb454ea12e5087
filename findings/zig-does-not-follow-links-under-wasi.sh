#!/usr/bin/env bash
# Zig 0.17.1 (PyPI), target wasm32-wasi without a C library: no file can be opened by a path whose last name is a symbolic link. The library
# asks for it without the flag `symlink_follow`, so that the host must refuse (`SymLinkLoop`), although it says that links are followed
# if nothing else is asked for, and does follow them when it looks at a file (`statFile`). With `-lc` the same program reads the file.
#
# Seen on 2026-12-01, by wasmtime 50.0.1 (PyPI):
#   without a C library: stat file, read SymLinkLoop
#   with -lc: stat file, read text
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m pip download -q --disable-pip-version-check --no-deps -d wheels ziglang==0.17.1 wasmtime==50.0.1
for wheel in wheels/*.whl; do python3 -m zipfile -e "$wheel" .; done
chmod +x ziglang/zig
cat >link.zig <<'END'
const std = @import("std");

pub fn main(init: std.process.Init) !void {
    const here = std.Io.Dir.cwd();
    const gpa = init.arena.allocator();
    const found = if (here.statFile(init.io, "link", .{})) |stat| @tagName(stat.kind) else |err| @errorName(err);
    const text = here.readFileAlloc(init.io, "link", gpa, .limited(64)) catch |err| @errorName(err);
    const line = try std.fmt.allocPrint(gpa, "stat {s}, read {s}\n", .{ found, text });
    try std.Io.File.stdout().writeStreamingAll(init.io, line);
}
END
cat >run.py <<'END'
import sys
from wasmtime import Engine, Linker, Module, Store, WasiConfig

engine = Engine()
store, wasi, linker = Store(engine), WasiConfig(), Linker(engine)
wasi.inherit_stdout()
wasi.preopen_dir("given", "/")
store.set_wasi(wasi)
linker.define_wasi()
try:
    linker.instantiate(store, Module.from_file(engine, sys.argv[1])).exports(store)["_start"](store)
except Exception as error:
    if "exit status 0" not in str(error):
        raise
END
mkdir given
printf text >given/file
ln -s file given/link
export ZIG_GLOBAL_CACHE_DIR=$folder/cache ZIG_LOCAL_CACHE_DIR=$folder/cache
ziglang/zig build-exe -target wasm32-wasi -O ReleaseSmall -femit-bin=without.wasm link.zig
ziglang/zig build-exe -target wasm32-wasi -O ReleaseSmall -lc -femit-bin=with.wasm link.zig
seen="without a C library: $(python3 run.py without.wasm)
with -lc: $(python3 run.py with.wasm)"
printf '%s\n' "$seen"
expected='without a C library: stat file, read SymLinkLoop
with -lc: stat file, read text'
[ "$seen" = "$expected" ] || { echo "this has changed" >&2; exit 1; }
