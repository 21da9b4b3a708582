//! Rings that one side makes in Rust, of a type, and the other opens as C does, by its layout.

use busway::ring::{Mpmc, Spsc};
use busway_ffi::error::{BUSWAY_OK, BUSWAY_WRONG_SIZE};
use busway_ffi::ring::*;
use core::ptr::null_mut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

const ELEMENTS: usize = 40;

/// Elements of `N` units of `T`, whose every byte counts.
fn elements<T: bytemuck::Pod, const N: usize>() -> Vec<[T; N]>
where
    [T; N]: bytemuck::Pod,
{
    let mut next = 0u8;
    let mut byte = |_| {
        next = next.wrapping_mul(5).wrapping_add(11);
        next
    };
    (0..ELEMENTS)
        .map(|_| bytemuck::pod_read_unaligned(&(0..size_of::<[T; N]>()).map(&mut byte).collect::<Vec<_>>()))
        .collect()
}

fn spsc<T: bytemuck::Pod + PartialEq + core::fmt::Debug, const N: usize>()
where
    [T; N]: bytemuck::Pod,
{
    let values = elements::<T, N>();
    let (size, align) = (size_of::<[T; N]>(), align_of::<T>());
    let other = if N > 1 { size - align } else { size + align };
    let made_here = Spsc::<[T; N]>::create(ELEMENTS).unwrap();
    let mut consumer = made_here.consumer().unwrap();
    let (mut ring, mut fd, mut count) = (null_mut(), -1, 0);
    // SAFETY: zeroed, as the header wants it; all pointers are to variables of the right type.
    unsafe {
        let mut producer: busway_producer = core::mem::zeroed();
        let file = made_here.as_fd().as_raw_fd();
        assert_eq!(busway_spsc_open(file, other, align, &raw mut ring), BUSWAY_WRONG_SIZE);
        assert_eq!(busway_spsc_open(file, size, align, &raw mut ring), BUSWAY_OK);
        assert_eq!(busway_spsc_producer(ring, &raw mut producer), BUSWAY_OK);
        let first = values.as_ptr().cast();
        assert_eq!(busway_producer_push_many(&raw mut producer, first, ELEMENTS, &raw mut count), BUSWAY_OK);
        assert_eq!(count, ELEMENTS);
        assert_eq!(busway_producer_release(&raw mut producer), BUSWAY_OK);
        assert_eq!(busway_spsc_free(ring), BUSWAY_OK);
    }
    let mut got: Vec<[T; N]> = vec![bytemuck::Zeroable::zeroed(); ELEMENTS];
    assert_eq!(consumer.pop_slice(&mut got).unwrap(), ELEMENTS);
    assert_eq!(got, values, "{size} bytes, aligned to {align}");

    // SAFETY: as above.
    let opened = unsafe {
        assert_eq!(busway_spsc_create(size, align, ELEMENTS, &raw mut ring), BUSWAY_OK);
        assert_eq!(busway_spsc_fd(ring, &raw mut fd), BUSWAY_OK);
        Spsc::<[T; N]>::open(BorrowedFd::borrow_raw(fd).try_clone_to_owned().unwrap()).unwrap()
    };
    let mut producer = opened.producer().unwrap();
    assert_eq!(producer.push_slice(&values).unwrap(), ELEMENTS);
    let mut got: Vec<[T; N]> = vec![bytemuck::Zeroable::zeroed(); ELEMENTS];
    // SAFETY: as above.
    unsafe {
        let mut consumer: busway_consumer = core::mem::zeroed();
        assert_eq!(busway_spsc_consumer(ring, &raw mut consumer), BUSWAY_OK);
        let first = got.as_mut_ptr().cast();
        assert_eq!(busway_consumer_pop_many(&raw mut consumer, first, ELEMENTS, &raw mut count), BUSWAY_OK);
        assert_eq!(busway_consumer_release(&raw mut consumer), BUSWAY_OK);
        assert_eq!(busway_spsc_free(ring), BUSWAY_OK);
    }
    assert_eq!(got, values, "{size} bytes, aligned to {align}");
}

fn mpmc<T: bytemuck::Pod + PartialEq + core::fmt::Debug, const N: usize>()
where
    [T; N]: bytemuck::Pod,
{
    let values = elements::<T, N>();
    let (size, align) = (size_of::<[T; N]>(), align_of::<T>());
    let other = if N > 1 { size - align } else { size + align };
    let made_here = Mpmc::<[T; N]>::create(ELEMENTS, 2).unwrap();
    let here = made_here.join().unwrap();
    let (mut ring, mut there) = (null_mut(), null_mut());
    // SAFETY: as above.
    unsafe {
        let file = made_here.as_fd().as_raw_fd();
        assert_eq!(busway_mpmc_open(file, other, align, &raw mut ring), BUSWAY_WRONG_SIZE);
        assert_eq!(busway_mpmc_open(file, size, align, &raw mut ring), BUSWAY_OK);
        assert_eq!(busway_mpmc_join(ring, &raw mut there), BUSWAY_OK);
        for value in &values {
            assert_eq!(busway_mpmc_push(there, value.as_ptr().cast()), BUSWAY_OK);
            assert_eq!(here.pop().unwrap().as_ref(), Some(value), "{size} bytes, aligned to {align}");
            here.push(*value).unwrap();
            let mut got: [T; N] = bytemuck::Zeroable::zeroed();
            assert_eq!(busway_mpmc_pop(there, got.as_mut_ptr().cast()), BUSWAY_OK);
            assert_eq!(got, *value, "{size} bytes, aligned to {align}");
        }
        assert_eq!(busway_mpmc_leave(there), BUSWAY_OK);
        assert_eq!(busway_mpmc_free(ring), BUSWAY_OK);
    }
}

#[test]
fn a_type_and_its_layout_are_the_same_ring() {
    macro_rules! both {
        ($($unit:ty: $($n:literal)*;)*) => { $($(
            spsc::<$unit, $n>();
            mpmc::<$unit, $n>();
        )*)* };
    }
    both! {
        u8: 1 3 8 17 31 32 64 128;
        u16: 1 5 16 24;
        u32: 1 4 9 15 30 32;
        u64: 1 2 3 6 7 8 11 14 15 16;
    }
}
