//! The commands of `prewasi`, one file each; the shim binaries answer some of them too.
