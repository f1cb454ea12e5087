// Does what its arguments say, `CALL:PATH` or `CALL:PATH:TEXT` each, and prints a line for each: what AssemblyScript's library makes of a path.

import { CommandLine, Console, FileSystem } from "as-wasi/assembly";

function call(name: string, path: string, text: string): string {
  if (name == "read") {
    const file = FileSystem.open(path, "r");
    if (file === null) {
      return "failed";
    }
    const found = file.readString();
    return found === null ? "failed" : found.split("\n")[0];
  }
  if (name == "write") {
    const file = FileSystem.open(path, "w");
    if (file === null) {
      return "failed";
    }
    file.writeString(text);
    file.close();
    return "ok";
  }
  if (name == "mkdir") {
    return FileSystem.mkdir(path) ? "ok" : "failed";
  }
  if (name == "unlink") {
    return FileSystem.unlink(path) ? "ok" : "failed";
  }
  return "no such call";
}

const words = CommandLine.all;
for (let i = 1; i < words.length; i++) {
  const parts = words[i].split(":");
  const said = call(parts[0], parts.length > 1 ? parts[1] : "", parts.length > 2 ? parts[2] : "");
  // In one piece: the library hands over a line and its end as two, and does not look how much was written. wasmtime writes the first.
  Console.write(words[i] + " = " + said + "\n", false);
}
