//! x
#[test] fn show() { let t = busway::Geometry::default().plan().unwrap(); println!("{}", t.len()); for s in t.sections() { println!("{s:?}"); } }
