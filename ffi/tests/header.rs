//! The committed header is the one that the sources make. `BUSWAY_BLESS=1` writes it anew.

#[test]
fn the_header_is_that_of_the_sources() {
    let here = env!("CARGO_MANIFEST_DIR");
    let config = cbindgen::Config::from_file(format!("{here}/cbindgen.toml")).unwrap();
    let mut made = Vec::new();
    cbindgen::generate_with_config(here, config).unwrap().write(&mut made);
    let made = String::from_utf8(made).unwrap();
    let path = format!("{here}/include/busway.h");
    if std::env::var_os("BUSWAY_BLESS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = committed.lines().zip(made.lines()).position(|(a, b)| a != b);
    assert!(committed == made, "include/busway.h differs, first in line {:?}; BUSWAY_BLESS=1 writes it anew", differs);
}
