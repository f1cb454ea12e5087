//! The limit of a guest's memory.
//!
//! One budget covers all that a guest can grow: linear memories and tables. Beyond the budget `memory.grow` and
//! `table.grow` return -1. A guest that needs more to begin with does not start.
//!
//! A memory asks the budget each time it grows. A table cannot: wasmer grows it by itself, up to a maximum. So a new
//! table takes all its future growth from the budget: as much as it declares, but at most an eighth of the rest.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use wasmer::sys::vm::{LinearMemory, VMConfig, VMMemory, VMMemoryDefinition, VMTable, VMTableDefinition};
use wasmer::sys::{BaseTunables, Tunables};
use wasmer::{MemoryError, MemoryStyle, MemoryType, Pages, TableStyle, TableType, WASM_PAGE_SIZE};

/// Size of a table's element, in bytes.
const ELEMENT: u64 = size_of::<usize>() as u64;

/// A table may take one in so many bytes of the rest in advance.
const TABLES_PART: u64 = 8;

/// The rest of a guest's budget, in bytes. All memories and tables share it.
#[derive(Debug, Clone)]
struct Budget(Arc<Mutex<u64>>);

impl Budget {
    fn left(&self) -> u64 {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, bytes: u64) -> bool {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match left.checked_sub(bytes) {
            Some(rest) => {
                *left = rest;
                true
            }
            None => false,
        }
    }

    fn give_back(&self, bytes: u64) {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.saturating_add(bytes);
    }

    /// Takes a table's initial size and its growth from the budget. Returns the number of elements that it may grow to.
    fn table(&self, table: &TableType) -> Option<u32> {
        if !self.take(u64::from(table.minimum) * ELEMENT) {
            return None;
        }
        let wanted = u64::from(table.maximum.unwrap_or(u32::MAX).saturating_sub(table.minimum));
        let granted = wanted.min(self.left() / TABLES_PART / ELEMENT);
        self.take(granted * ELEMENT);
        table.minimum.checked_add(u32::try_from(granted).ok()?)
    }
}

/// A maker of memories and tables within a budget, on a stack that is large enough.
pub(super) struct LimitedTunables {
    base: BaseTunables,
    budget: Option<Budget>,
    config: VMConfig,
}

impl LimitedTunables {
    /// Makes a budget of `limit` bytes; without a limit every request is granted. The stack has its own limit.
    pub(super) fn new(base: BaseTunables, stack: usize, limit: Option<u64>) -> Self {
        let budget = limit.map(|limit| Budget(Arc::new(Mutex::new(limit))));
        Self { base, budget, config: VMConfig { wasm_stack_size: Some(stack) } }
    }

    fn memory(
        &self,
        ty: &MemoryType,
        make: impl FnOnce() -> Result<VMMemory, MemoryError>,
    ) -> Result<VMMemory, MemoryError> {
        let Some(budget) = &self.budget else {
            return make();
        };
        if !budget.take(bytes(ty.minimum)) {
            return Err(exceeded());
        }
        Ok(VMMemory(Box::new(Limited { inner: make()?, budget: budget.clone() })))
    }

    fn table(&self, ty: &TableType) -> Result<TableType, String> {
        let Some(budget) = &self.budget else {
            return Ok(*ty);
        };
        match budget.table(ty) {
            Some(maximum) => Ok(TableType { maximum: Some(maximum), ..*ty }),
            None => Err("a table exceeds memory limits".to_owned()),
        }
    }
}

fn bytes(pages: Pages) -> u64 {
    u64::from(pages.0) * WASM_PAGE_SIZE as u64
}

fn exceeded() -> MemoryError {
    MemoryError::Generic("it exceeds memory limits".to_owned())
}

impl Tunables for LimitedTunables {
    fn memory_style(&self, memory: &MemoryType) -> MemoryStyle {
        self.base.memory_style(memory)
    }

    fn table_style(&self, table: &TableType) -> TableStyle {
        self.base.table_style(table)
    }

    fn create_host_memory(&self, ty: &MemoryType, style: &MemoryStyle) -> Result<VMMemory, MemoryError> {
        self.memory(ty, || self.base.create_host_memory(ty, style))
    }

    unsafe fn create_vm_memory(
        &self,
        ty: &MemoryType,
        style: &MemoryStyle,
        vm_definition_location: NonNull<VMMemoryDefinition>,
    ) -> Result<VMMemory, MemoryError> {
        // SAFETY: the caller has promised all that this function requires.
        self.memory(ty, || unsafe { self.base.create_vm_memory(ty, style, vm_definition_location) })
    }

    fn create_host_table(&self, ty: &TableType, style: &TableStyle) -> Result<VMTable, String> {
        self.base.create_host_table(&self.table(ty)?, style)
    }

    unsafe fn create_vm_table(
        &self,
        ty: &TableType,
        style: &TableStyle,
        vm_definition_location: NonNull<VMTableDefinition>,
    ) -> Result<VMTable, String> {
        let ty = self.table(ty)?;
        // SAFETY: the caller has promised all that this function requires.
        unsafe { self.base.create_vm_table(&ty, style, vm_definition_location) }
    }

    fn vmconfig(&self) -> &VMConfig {
        &self.config
    }
}

/// A memory that asks before it grows. Native code reads the inner memory's definition.
#[derive(Debug)]
struct Limited {
    inner: VMMemory,
    budget: Budget,
}

impl LinearMemory for Limited {
    fn ty(&self) -> MemoryType {
        self.inner.ty()
    }

    fn size(&self) -> Pages {
        self.inner.size()
    }

    fn style(&self) -> MemoryStyle {
        self.inner.style()
    }

    fn grow(&mut self, delta: Pages) -> Result<Pages, MemoryError> {
        if !self.budget.take(bytes(delta)) {
            return Err(MemoryError::CouldNotGrow { current: self.size(), attempted_delta: delta });
        }
        let grown = self.inner.grow(delta);
        if grown.is_err() {
            self.budget.give_back(bytes(delta));
        }
        grown
    }

    fn vmmemory(&self) -> NonNull<VMMemoryDefinition> {
        self.inner.vmmemory()
    }

    fn try_clone(&self) -> Result<Box<dyn LinearMemory + Send + Sync + 'static>, MemoryError> {
        // A clone would grow past the budget. Only shared memories have clones, and there are none.
        Err(MemoryError::MemoryNotShared)
    }

    fn copy(&self) -> Result<Box<dyn LinearMemory + Send + Sync + 'static>, MemoryError> {
        Err(MemoryError::UnsupportedOperation { message: "a limited memory is not copied".to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use wasmer::Type;

    use super::*;

    fn budget(bytes: u64) -> Budget {
        Budget(Arc::new(Mutex::new(bytes)))
    }

    fn table(minimum: u32, maximum: Option<u32>) -> TableType {
        TableType::new(Type::FuncRef, minimum, maximum)
    }

    /// Taken bytes are gone, too large a request takes nothing, and returned bytes can be taken again.
    #[test]
    fn budget_is_one() {
        let budget = budget(1000);
        assert!(budget.take(600));
        assert!(!budget.take(401));
        budget.give_back(100);
        assert!(budget.take(500));
        assert_eq!(budget.left(), 0);
    }

    /// A table takes its initial size, and then its declared growth or an eighth of the rest, the smaller of the two.
    #[test]
    fn tables_take_in_advance() {
        let budget = budget(1000 * ELEMENT);
        assert_eq!(budget.table(&table(100, Some(110))), Some(110));
        assert_eq!(budget.left(), 890 * ELEMENT);
        assert_eq!(budget.table(&table(90, None)), Some(190));
        assert_eq!(budget.left(), 700 * ELEMENT);
        assert_eq!(budget.table(&table(701, None)), None);
        assert_eq!(budget.left(), 700 * ELEMENT);
    }

    /// A memory grows within the budget; a refused request leaves its bytes to others.
    #[test]
    fn memories_ask() {
        let base = super::super::options::CodeOptions::host().tunables();
        let limits = LimitedTunables::new(base, 1 << 20, Some(3 * WASM_PAGE_SIZE as u64));
        let ty = MemoryType::new(1, Some(2), false);
        let mut memory = limits.create_host_memory(&ty, &limits.memory_style(&ty)).unwrap();
        assert!(memory.grow(Pages(1)).is_ok());
        assert!(memory.grow(Pages(1)).is_err(), "beyond its own maximum");
        assert_eq!(limits.budget.as_ref().unwrap().left(), WASM_PAGE_SIZE as u64);
        let larger = MemoryType::new(2, None, false);
        assert!(limits.create_host_memory(&larger, &limits.memory_style(&larger)).is_err());
    }
}
