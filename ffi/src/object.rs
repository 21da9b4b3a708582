//! Objects: what is made for each message, in memory of the caller.
//!
//! An object is a struct of the header with a [`Slot`] in its private part. A tag says whether there is something in it. It depends on
//! the object's address, so that a copy, which would give back twice what it holds, is found out, like one that is zeroed or spent.
//!
//! What is inside borrows its link as long as it holds nothing of it but a number, which costs nothing; the slot remembers the
//! link's handle, and looks whether it is still valid. What has a payload in shared memory keeps that mapped.

use crate::error::Failure;
use crate::handle::{self, Used};
use core::mem::{ManuallyDrop, MaybeUninit};

/// The private part of an object.
#[repr(C)]
pub(crate) struct Slot<T> {
    tag: u64,
    /// The handle that the value borrows from; 0 if it is its own owner.
    lender: u64,
    value: MaybeUninit<T>,
}

/// A struct of the header.
///
/// # Safety
/// `repr(C)`; `SLOT` is the offset of a private part that is aligned for and as large as a `Slot` of its value.
pub(crate) unsafe trait Object: Sized {
    /// What it can hold.
    type Value;
    /// Any number; each has its own.
    const TAG: u64;
    /// Where the private part is.
    const SLOT: usize;
    /// What a spent one is said to be.
    const SPENT: &'static str;
    /// Makes the public part say what the value is; `None` makes it empty.
    fn show(&mut self, value: Option<&Self::Value>);
}

/// Says where the private part of an object is, and that it is large enough.
macro_rules! object {
    ($object:ident holds $value:ty, tag $tag:literal, spent: $spent:literal, $show:expr) => {
        const _: () = {
            const AT: usize = core::mem::offset_of!($object, reserved);
            assert!(AT % 8 == 0 && align_of::<$object>() >= align_of::<crate::object::Slot<$value>>());
            assert!(AT + size_of::<crate::object::Slot<$value>>() + 16 <= size_of::<$object>(), "no slack");
        };
        // SAFETY: asserted above.
        unsafe impl crate::object::Object for $object {
            type Value = $value;
            const TAG: u64 = $tag << 32 | 0xb05_a1e5;
            const SLOT: usize = core::mem::offset_of!($object, reserved);
            const SPENT: &'static str = $spent;
            #[inline(always)]
            fn show(&mut self, value: Option<&$value>) {
                let show: fn(&mut $object, Option<&$value>) = $show;
                show(self, value);
            }
        }
    };
}
pub(crate) use object;

/// Uses what a value is borrowed from; nothing if it is its own owner.
#[inline(always)]
fn used(lender: u64) -> Result<Option<Used>, Failure> {
    match lender {
        0 => Ok(None),
        lender => handle::enter(lender).map(Some).ok_or(Failure::Bus(busway::Error::Closed)),
    }
}

/// What this thread uses while it spends one object after the other: a handle is looked at once for as many as have it.
#[derive(Default)]
pub(crate) struct Lender {
    handle: u64,
    _used: Option<Used>,
}

impl Lender {
    #[inline(always)]
    fn change(&mut self, handle: u64) -> Result<(), Failure> {
        if handle != self.handle {
            // One at a time.
            *self = Self::default();
            *self = Self { handle, _used: used(handle)? };
        }
        Ok(())
    }
}

/// An object of the caller, wherever it is and whatever is in it.
pub(crate) struct At<O: Object>(*mut O);

impl<O: Object> At<O> {
    /// # Safety
    /// `object` is null, or valid for reads and writes for as long as the result is used, and no other thread uses it meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn new(object: *mut O) -> Result<Self, Failure> {
        if object.is_null() || !object.is_aligned() {
            return Err(Failure::Invalid("an object's address is NULL or not aligned"));
        }
        Ok(Self(object))
    }

    /// The objects of an array.
    ///
    /// # Safety
    /// As [`new`](Self::new), for each.
    #[inline(always)]
    pub(crate) unsafe fn array(first: *mut O, count: usize) -> Result<impl Iterator<Item = Self> + Clone, Failure> {
        crate::check_array(first, count)?;
        Ok((0..count).map(move |i| Self(first.wrapping_add(i))))
    }

    #[inline(always)]
    fn slot(&self) -> *mut Slot<O::Value> {
        // SAFETY: inside the object, by the trait's contract.
        unsafe { self.0.cast::<u8>().add(O::SLOT).cast() }
    }

    #[inline(always)]
    fn tag(&self) -> u64 {
        O::TAG ^ self.0.addr() as u64
    }

    /// Whether there is something in it. What was never initialised may be read as anything.
    #[inline(always)]
    pub(crate) fn is_full(&self) -> bool {
        // SAFETY: valid, by the contract of `new`. Memory of another language's program, so any bits are a number.
        unsafe { (&raw const (*self.slot()).tag).read() == self.tag() }
    }

    /// For a result: there has to be nothing in it.
    #[inline(always)]
    pub(crate) fn vacant(self) -> Result<Self, Failure> {
        if self.is_full() {
            return Err(Failure::Busy("the object for the result still holds something; release it first"));
        }
        Ok(self)
    }

    /// Puts a value in, which borrows from `lender`, or from nobody if that is 0.
    #[inline(always)]
    pub(crate) fn put(&self, lender: u64, value: O::Value) {
        // SAFETY: written.
        let put = unsafe {
            self.put_by(lender, |to| {
                to.write(value);
                Ok(())
            })
        };
        debug_assert!(put.is_ok());
    }

    /// Has `write` put a value in, in its place.
    ///
    /// # Safety
    /// `write` has written the value unless it fails.
    #[inline(always)]
    pub(crate) unsafe fn put_by(
        &self,
        lender: u64,
        write: impl FnOnce(&mut MaybeUninit<O::Value>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let slot = self.slot();
        // SAFETY: valid, by the contract of `new`. The public part is made of numbers.
        unsafe {
            write(&mut (*slot).value)?;
            (&raw mut (*slot).lender).write(lender);
            (&raw mut (*slot).tag).write(self.tag());
            (*self.0).show(Some(&*(&raw const (*slot).value).cast()));
        }
        Ok(())
    }

    /// Makes what is in it its own owner, by `own`.
    #[inline(never)]
    pub(crate) fn settle(&self, own: impl FnOnce(O::Value) -> O::Value) {
        let slot = self.slot();
        // SAFETY: full, as the caller has put something in just now; taken out and put back.
        unsafe {
            let value = (&raw const (*slot).value).cast::<O::Value>().read();
            self.put(0, own(value));
        }
    }

    /// Whether an address lies in it.
    #[inline(always)]
    pub(crate) fn contains(&self, at: *const u8) -> bool {
        at.addr().wrapping_sub(self.0.addr()) < size_of::<O>()
    }

    /// The public part.
    #[inline(always)]
    pub(crate) fn get(&self) -> &O {
        // SAFETY: valid, by the contract of `new`, and written before, since it is full.
        unsafe { &*self.0 }
    }

    /// Changes the public part.
    #[inline(always)]
    pub(crate) fn set(&self, change: impl FnOnce(&mut O)) {
        // SAFETY: valid, by the contract of `new`, and written before, since it is full.
        change(unsafe { &mut *self.0 });
    }

    /// Looks at what is in it. BUSWAY_CLOSED if its link was freed meanwhile.
    #[inline(always)]
    pub(crate) fn peek<R>(&self, body: impl FnOnce(&O::Value) -> Result<R, Failure>) -> Result<R, Failure> {
        let _used = used(self.lender()?)?;
        // SAFETY: full.
        body(unsafe { &*(&raw const (*self.slot()).value).cast::<O::Value>() })
    }

    /// Changes what is in it, which is its own owner.
    #[inline(always)]
    pub(crate) fn change<R>(&self, body: impl FnOnce(&mut O::Value) -> Result<R, Failure>) -> Result<R, Failure> {
        if !self.is_full() {
            return Err(Failure::Stale(O::SPENT));
        }
        // SAFETY: full, and no other thread uses it, by the contract of `new`.
        body(unsafe { &mut *(&raw mut (*self.slot()).value).cast::<O::Value>() })
    }

    /// Takes out what is in it, and uses it up. BUSWAY_CLOSED if its link was freed meanwhile.
    #[inline(always)]
    pub(crate) fn spend<R>(&self, body: impl FnOnce(O::Value) -> Result<R, Failure>) -> Result<R, Failure> {
        self.spend_of(&mut Lender::default(), body)
    }

    /// As [`spend`](Self::spend), of many that have one lender mostly.
    #[inline(always)]
    pub(crate) fn spend_of<R>(
        &self,
        lender: &mut Lender,
        body: impl FnOnce(O::Value) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let changed = lender.change(self.lender()?);
        // SAFETY: full, since it has a lender. If that is gone it holds nothing, and dropping it would look at the link.
        let value = ManuallyDrop::new(unsafe { self.take_full() });
        changed?;
        body(ManuallyDrop::into_inner(value))
    }

    /// Whom its value is borrowed from; 0 is nobody.
    #[inline(always)]
    pub(crate) fn lender(&self) -> Result<u64, Failure> {
        if !self.is_full() {
            return Err(Failure::Stale(O::SPENT));
        }
        // SAFETY: full.
        Ok(unsafe { (&raw const (*self.slot()).lender).read() })
    }

    /// Takes out what is in it.
    #[inline(always)]
    pub(crate) fn take(&self) -> Result<O::Value, Failure> {
        self.lender()?;
        // SAFETY: full, since it has a lender.
        Ok(unsafe { self.take_full() })
    }

    /// # Safety
    /// It is full.
    #[inline(always)]
    pub(crate) unsafe fn take_full(&self) -> O::Value {
        let slot = self.slot();
        // SAFETY: full, and no more after this.
        unsafe {
            (&raw mut (*slot).tag).write(0);
            (*self.0).show(None);
            (&raw const (*slot).value).cast::<O::Value>().read()
        }
    }
}
