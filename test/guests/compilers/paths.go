// Does what its arguments say, `CALL:PATH` or `CALL:PATH:TEXT` each, and prints a line for each: what Go's library makes of a path.
package main

import (
	"fmt"
	"os"
	"strings"
)

func call(name, path, text string) string {
	var bytes []byte
	var err error
	said := ""
	switch name {
	case "read":
		bytes, err = os.ReadFile(path)
		said, _, _ = strings.Cut(string(bytes), "\n")
	case "write":
		said, err = "ok", os.WriteFile(path, []byte(text), 0o644)
	case "mkdir":
		said, err = "ok", os.Mkdir(path, 0o755)
	case "unlink":
		said, err = "ok", os.Remove(path)
	case "stat":
		var found os.FileInfo
		if found, err = os.Stat(path); err == nil {
			said = map[bool]string{true: "folder", false: "file"}[found.IsDir()]
		}
	case "list":
		var entries []os.DirEntry
		entries, err = os.ReadDir(path)
		names := []string{}
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		said = strings.Join(names, " ")
	case "cwd":
		said, err = os.Getwd()
	}
	if err != nil {
		return "failed"
	}
	return said
}

func main() {
	for _, word := range os.Args[1:] {
		parts := append(strings.SplitN(word, ":", 3), "", "")
		fmt.Printf("%s = %s\n", word, call(parts[0], parts[1], parts[2]))
	}
}
