//! Elements of a section.

use super::{Region, Section};
use core::marker::PhantomData;
use core::ptr::NonNull;

/// The elements of one section of a mapped region: shared words and cells, never plain data.
///
/// Indices that come from a peer are checked by whoever reads them; one that is out of bounds here is a bug of ours and
/// panics.
#[derive(Debug)]
pub struct Array<T> {
    base: NonNull<T>,
    count: u32,
    _elements: PhantomData<T>,
}

impl<T> Clone for Array<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Array<T> {}

// SAFETY: an address range; access is through `&T`.
unsafe impl<T: Sync> Send for Array<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Array<T> {}

impl<T> Array<T> {
    /// The elements of `section`.
    ///
    /// # Safety
    /// The section was found in the validated table of `region` with elements of `T`'s size, any bits there are a valid
    /// `T` that tolerates writes of the region's writer, and the region outlives the array.
    pub unsafe fn new(region: &Region, section: Section) -> Self {
        assert!(section.stride as usize == size_of::<T>());
        // SAFETY: inside the region by the validation of the table.
        let base = unsafe { region.base().add(section.offset as usize) };
        Self { base: base.cast(), count: section.count, _elements: PhantomData }
    }

    /// The elements of a slice that outlives the array.
    ///
    /// # Safety
    /// `slice` outlives the array.
    pub unsafe fn of(slice: &[T]) -> Self {
        Self { base: NonNull::from(slice).cast(), count: slice.len() as u32, _elements: PhantomData }
    }

    /// Number of elements.
    #[inline(always)]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Address of the first element.
    #[inline(always)]
    pub fn base(&self) -> NonNull<T> {
        self.base
    }

    /// One element.
    #[inline(always)]
    pub fn at(&self, index: u32) -> &T {
        assert!(index < self.count);
        // SAFETY: in bounds; valid by the contract of `new`.
        unsafe { self.base.add(index as usize).as_ref() }
    }
}

impl<T> core::ops::Deref for Array<T> {
    type Target = T;

    /// The first element, for sections that have just one.
    #[inline(always)]
    fn deref(&self) -> &T {
        self.at(0)
    }
}
