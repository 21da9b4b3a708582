//! x
use busway::*;
use std::time::Instant;
fn main() {
    let (h, p) = Link::pair(&Config::default().idle(Idle::Spin)).unwrap();
    let payload = vec![7u8; std::env::args().nth(2).map_or(32, |a| a.parse().unwrap())];
    let n: u32 = std::env::args().nth(1).map_or(20_000_000, |a| a.parse().unwrap());
    for _ in 0..2 {
        let t = Instant::now();
        let mut out = payload.clone();
        let mut b = payload.clone();
        for _ in 0..n {
            let c = h.submit(1, &payload, Deadline::NEVER).unwrap();
            let r = p.try_recv().unwrap().unwrap();
            let s = r.as_slice();

            b.copy_from_slice(s.unwrap());
            r.reply(&b).unwrap();
            let m = c.wait().unwrap();
            m.bytes().copy_to(&mut out);
        }
        std::hint::black_box(&out);
        println!("{:.1} ns a call", t.elapsed().as_nanos() as f64 / n as f64);
    }
}
