;; Has a table larger than a pooling allocator's default limit, calls its last entry, and exits with what that returns: 42.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (type $answer (func (result i32)))
  (memory (export "memory") 1)
  (table 100000 funcref)
  (elem (i32.const 99999) $answer)
  (func $answer (type $answer) (i32.const 42))
  (func (export "_start") (call $exit (call_indirect (type $answer) (i32.const 99999)))))
