//! What a library for C takes besides: its linker, and its manual.

use std::path::Path;
use std::{env, fs};

#[path = "build/reference.rs"]
mod reference;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build/reference.rs");
    println!("cargo::rerun-if-changed=include/busway.h");
    // The feature is there where cargo-c makes a library for C.
    if env::var_os("CARGO_FEATURE_CAPI").is_none() {
        return;
    }
    // Functions that are the same, of which generic code has many, are folded into one: rust-lld, the linker of this target, can.
    if env::var("TARGET").is_ok_and(|target| target == "x86_64-unknown-linux-gnu") {
        println!("cargo::rustc-link-arg-cdylib=-Wl,--icf=all");
    }
    let out = env::var_os("OUT_DIR").expect("cargo says where");
    write_manual(Path::new(&out)).expect("write the manual");
}

/// cargo-c installs what is here.
fn write_manual(out: &Path) -> std::io::Result<()> {
    let header = fs::read_to_string("include/busway.h")?;
    let items = reference::items(&header);
    let man = out.join("man3");
    // Of functions that are no more, too.
    let _ = fs::remove_dir_all(&man);
    fs::create_dir_all(&man)?;
    for (name, page) in reference::manuals(&items, env!("CARGO_PKG_VERSION")) {
        fs::write(man.join(name), page)?;
    }
    fs::write(out.join("reference.md"), reference::markdown(&items))
}
