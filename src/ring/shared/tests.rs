use super::place::Place;
use super::*;
use crate::region::Process;
use crate::sync::dies_at;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::thread;

#[test]
fn a_head_is_one_line() {
    assert_eq!(size_of::<Head>(), 64);
}

#[test]
fn ends_move_between_threads_and_members_are_shared() {
    fn moves<T: Send>() {}
    fn is_shared<T: Send + Sync>() {}
    moves::<Producer<u64>>();
    moves::<Consumer<u64>>();
    is_shared::<MpmcMember<u64>>();
    is_shared::<Spsc<u64>>();
    is_shared::<Mpmc<u64>>();
}

#[test]
fn elements_cross_between_threads() {
    const ELEMENTS: u64 = if cfg!(miri) { 200 } else { 100_000 };
    let (mut producer, mut consumer) = Spsc::<[u64; 2]>::pair(8).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            for i in 0..ELEMENTS {
                while producer.push([i, !i]).is_err() {
                    thread::yield_now();
                }
            }
        });
        for i in 0..ELEMENTS {
            let value = loop {
                match consumer.pop().unwrap() {
                    Some(value) => break value,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(value, [i, !i]);
        }
        while !consumer.is_abandoned() {
            thread::yield_now();
        }
    });
}

#[test]
fn members_share_elements_between_threads() {
    const ELEMENTS: u64 = if cfg!(miri) { 100 } else { 20_000 };
    let mut members = Mpmc::<u64>::group(4, 4).unwrap();
    let consumers = members.split_off(2);
    let sum: u64 = thread::scope(|scope| {
        for producer in members {
            scope.spawn(move || {
                for i in 1..=ELEMENTS {
                    while producer.push(i).is_err() {
                        thread::yield_now();
                    }
                }
            });
        }
        let consume = |consumer: MpmcMember<u64>| {
            let (mut sum, mut count) = (0, 0);
            while count < ELEMENTS {
                match consumer.pop().unwrap() {
                    Some(value) => (sum, count) = (sum + value, count + 1),
                    None => thread::yield_now(),
                }
            }
            sum
        };
        let threads: Vec<_> = consumers.into_iter().map(|member| scope.spawn(move || consume(member))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(sum, ELEMENTS * (ELEMENTS + 1));
}

#[test]
fn elements_of_no_size_and_of_many_bytes() {
    let (mut producer, mut consumer) = Spsc::pair(2).unwrap();
    producer.push(()).unwrap();
    assert_eq!((consumer.pop().unwrap(), consumer.pop().unwrap()), (Some(()), None));
    let members = Mpmc::group(2, 1).unwrap();
    members[0].push([7u8; 1024]).unwrap();
    assert_eq!(members[0].pop().unwrap(), Some([7; 1024]));
}

/// A process of a test: number 9 is alive, the others are dead.
fn process(number: u64) -> Process {
    Process::from_bits(number).unwrap()
}

fn is_dead(process: Process) -> bool {
    process.bits() != 9
}

#[test]
fn a_place_is_recovered_once_whoever_dies_meanwhile() {
    let living = process(9);
    let mut deaths = 0;
    for step in 0.. {
        let place = Place::new();
        assert!(place.join(process(1)) && !place.join(living));
        // Process 2 dies before some step of its recovery.
        let first = dies_at(step, || place.recover(process(2), is_dead, || 1));
        deaths += u32::from(first.is_none());
        place.recover(living, is_dead, || 1);
        assert!(place.join(living), "the place is free");
        assert_eq!(place.recover(process(2), is_dead, || 1), None, "who lives is not recovered");
        if first.is_some() {
            break;
        }
    }
    assert!(deaths >= 3, "a death at {deaths} steps only");
}

#[test]
fn a_place_that_a_living_process_recovers_is_left_to_it() {
    let place = Place::new();
    place.join(process(1));
    let inner = std::cell::Cell::new(Some(1));
    let freed = place.recover(process(9), is_dead, || {
        inner.set(place.recover(process(2), is_dead, || 1));
        7
    });
    assert_eq!((freed, inner.get()), (Some(7), None));
    assert!(place.join(process(9)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 256 }))]

    /// Any order of pushes and pops, singly or many, does what a queue does that holds `capacity` elements or a
    /// quarter more.
    #[test]
    fn a_pair_is_a_queue(capacity in 1usize..40, steps in proptest::collection::vec((any::<bool>(), 0usize..50), 0..100)) {
        let (mut producer, mut consumer) = Spsc::<u32>::pair(capacity).unwrap();
        let (mut model, mut next) = (VecDeque::new(), 0..);
        for (push, count) in steps {
            if push && count == 0 {
                let value = next.next().unwrap();
                let full = producer.push(value).is_err();
                prop_assert!(!full || model.len() >= capacity);
                if !full {
                    model.push_back(value);
                }
            } else if push {
                let values: Vec<u32> = next.by_ref().take(count).collect();
                let pushed = producer.push_slice(&values).unwrap();
                prop_assert!(pushed == count || model.len() + pushed >= capacity);
                model.extend(&values[..pushed]);
            } else if count == 0 {
                prop_assert_eq!(consumer.pop().unwrap(), model.pop_front());
            } else {
                let mut values = vec![0; count];
                let popped = consumer.pop_slice(&mut values).unwrap();
                prop_assert_eq!(popped, count.min(model.len()));
                prop_assert!(values[..popped].iter().copied().eq(model.drain(..popped)));
            }
            prop_assert_eq!(consumer.is_empty(), model.is_empty());
            prop_assert!(model.len() < capacity + (capacity / 4).max(1));
        }
    }

    /// The same, for one member, of a ring that holds `capacity` elements exactly.
    #[test]
    fn a_group_is_a_queue(bits in 0u32..6, steps in proptest::collection::vec(any::<bool>(), 0..200)) {
        let capacity = 1 << bits;
        let members = Mpmc::<u32>::group(capacity, 2).unwrap();
        let mut model = VecDeque::new();
        for (i, push) in steps.into_iter().enumerate() {
            let (i, member) = (i as u32, &members[i % 2]);
            if push {
                let full = member.push(i).is_err();
                prop_assert_eq!(full, model.len() == capacity);
                if !full {
                    model.push_back(i);
                }
            } else {
                prop_assert_eq!(member.pop().unwrap(), model.pop_front());
            }
        }
    }
}
