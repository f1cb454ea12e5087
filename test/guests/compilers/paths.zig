//! Does what its arguments say, `CALL:PATH` or `CALL:PATH:TEXT` each, and prints a line for each: what Zig's library makes of a path.

const std = @import("std");
const Dir = std.Io.Dir;

fn call(io: std.Io, gpa: std.mem.Allocator, name: []const u8, path: []const u8, text: []const u8) ![]const u8 {
    const here = Dir.cwd();
    if (std.mem.eql(u8, name, "read")) {
        const found = try here.readFileAlloc(io, path, gpa, .limited(4096));
        return std.mem.sliceTo(found, '\n');
    }
    if (std.mem.eql(u8, name, "write")) {
        try here.writeFile(io, .{ .sub_path = path, .data = text });
    } else if (std.mem.eql(u8, name, "mkdir")) {
        try here.createDir(io, path, .default_dir);
    } else if (std.mem.eql(u8, name, "unlink")) {
        try here.deleteFile(io, path);
    } else if (std.mem.eql(u8, name, "stat")) {
        const found = try here.statFile(io, path, .{});
        return if (found.kind == .directory) "folder" else "file";
    } else {
        return "no such call";
    }
    return "ok";
}

pub fn main(init: std.process.Init) !void {
    const gpa = init.arena.allocator();
    const words = try init.minimal.args.toSlice(gpa);
    for (words[1..]) |word| {
        var parts = std.mem.splitScalar(u8, word, ':');
        const name = parts.first();
        const path = parts.next() orelse "";
        const text = parts.next() orelse "";
        const said = call(init.io, gpa, name, path, text) catch "failed";
        const line = try std.fmt.allocPrint(gpa, "{s} = {s}\n", .{ word, said });
        try std.Io.File.stdout().writeStreamingAll(init.io, line);
    }
}
