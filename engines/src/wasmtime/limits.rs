//! The limit of a guest's memory.
//!
//! One budget covers all that a guest can grow: linear memories, tables, and the heap of collected objects, which
//! wasmtime counts as a memory. Beyond the budget `memory.grow` and `table.grow` return -1. A guest does not start if
//! its initial size exceeds the budget. The process's own limit, that of its cgroup, applies in addition.

use wasmtime::ResourceLimiter;

/// The rest of a guest's budget.
#[derive(Debug)]
pub(super) struct Budget {
    left: u64,
    /// The last grant, to be returned if the memory could not be allocated.
    granted: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Budget {
    /// Makes a budget of `limit` bytes; without a limit every request is granted.
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { left: limit.unwrap_or(u64::MAX), granted: 0 }
    }

    fn grant(&mut self, current: usize, desired: usize, unit: usize) -> bool {
        let bytes = desired.saturating_sub(current).saturating_mul(unit) as u64;
        match self.left.checked_sub(bytes) {
            Some(left) => {
                (self.left, self.granted) = (left, bytes);
                true
            }
            None => false,
        }
    }

    fn take_back(&mut self) {
        self.left = self.left.saturating_add(std::mem::take(&mut self.granted));
    }
}

impl ResourceLimiter for Budget {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grant(current, desired, 1))
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        // wasmtime uses one pointer per element.
        Ok(self.grant(current, desired, size_of::<usize>()))
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memories and tables share one budget; a failed grant is returned, once.
    #[test]
    fn budget_is_shared() {
        let mut limits = Budget::new(Some(1000));
        assert!(limits.memory_growing(0, 600, None).unwrap());
        assert!(!limits.memory_growing(600, 1001, None).unwrap());
        assert!(limits.table_growing(0, 50, None).unwrap());
        assert!(!limits.table_growing(50, 51, None).unwrap());
        limits.table_grow_failed(wasmtime::Error::msg("no")).unwrap();
        limits.table_grow_failed(wasmtime::Error::msg("refused before it was granted")).unwrap();
        assert!(limits.memory_growing(600, 1000, None).unwrap());
        assert!(!limits.memory_growing(1000, 1001, None).unwrap());
    }

    /// Without a limit everything is granted.
    #[test]
    fn no_limit() {
        assert!(Budget::default().memory_growing(0, usize::MAX, None).unwrap());
    }
}
