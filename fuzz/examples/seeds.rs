//! Writes inputs to begin with into the directory that is named, one directory a target.

use busway::internals::link::words::Geometry;
use busway_fuzz::{Step, link};
use std::path::Path;
use std::{env, fs};

fn write(directory: &Path, seeds: impl Iterator<Item = Vec<u8>>) {
    fs::create_dir_all(directory).expect("create a directory");
    for (number, seed) in seeds.enumerate() {
        fs::write(directory.join(format!("seed-{number}")), seed).expect("write a seed");
    }
}

fn bytes(steps: &[Step]) -> Vec<u8> {
    bytemuck::cast_slice(steps).to_vec()
}

fn main() {
    let directory = env::args_os().nth(1).expect("a directory");
    let of = |target| Path::new(&directory).join(target);
    // The last byte says whether the host serves nested calls.
    let links = link::seeds();
    let nested = links.iter().flat_map(|steps| [0, 1].map(|nested| [bytes(steps), vec![nested]].concat()));
    write(&of("link"), nested);

    let geometry = Geometry { entries: 8, cells: 8, classes: vec![busway::SizeClass { size: 64, count: 1 }] };
    let tables = [geometry.plan(), geometry.plan_bells()].map(|table| table.expect("a plan"));
    let pages = tables.iter().flat_map(|table| {
        let (pages, page) = ((table.len() / 4096 - 1) as u8, table.to_page());
        let sections = &page[64..][..table.sections().len() * 32];
        [[&[pages, 0], sections].concat(), [&[pages, 1], &page[..]].concat()]
    });
    write(&of("layout"), pages);

    let step = |what, a, b, c, value| Step::new(what, a, b, c, value);
    let (hello, ack, offer) = (step(0, 0, 0, 0, 0), step(1, 0, 0, 0, 0), step(4, 0, 0, 0, 0));
    let joins = [
        vec![hello, offer, ack, offer],
        vec![hello, offer, step(5, 1, 4, 0, 0), ack],
        vec![step(3, 8, 0, 0, 0), offer, ack, ack],
        vec![step(2, 1, 2, 40, 1)],
        vec![hello, offer, step(2, 5, 6, 40, 3)],
        vec![step(2, 64, 0, 255, 9)],
    ];
    write(&of("join"), joins.iter().map(|steps| bytes(steps)));
}
