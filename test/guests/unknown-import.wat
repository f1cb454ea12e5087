;; Valid, but wants a function that no engine offers.
(module
  (import "nowhere" "nothing" (func $nothing))
  (memory (export "memory") 1)
  (func (export "_start") (call $nothing)))
