//! Functions that are the same, of which generic code has many, are folded into one: rust-lld, the linker of this target, can.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = std::env::var("TARGET").unwrap_or_default();
    // The feature is there where cargo-c makes a library for C.
    let for_c = std::env::var_os("CARGO_FEATURE_CAPI").is_some();
    if for_c && target == "x86_64-unknown-linux-gnu" {
        println!("cargo::rustc-link-arg-cdylib=-Wl,--icf=all");
    }
}
