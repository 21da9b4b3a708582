//! The committed header is the one that the sources make. `BUSWAY_BLESS=1` writes it anew. The reference is made from it.

#[path = "../build/reference.rs"]
mod reference;

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

/// Each name that the header declares is in the reference, and each function has a manual page.
#[test]
fn the_reference_has_every_name() {
    let header = include_str!("../include/busway.h");
    let items = reference::items(header);
    let (page, manuals) = (reference::markdown(&items), reference::manuals(&items, "0"));
    let mut functions = 0;
    for line in header.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase())) {
        let Some((before, _)) = line.split_once('(') else { continue };
        let name = before.rsplit([' ', '*']).next().unwrap();
        let (_, manual) = manuals.iter().find(|(file, _)| *file == format!("{name}.3")).expect(name);
        assert!(manual.contains(&format!(".SH NAME\n{name} \\- ")) && manual.contains(&format!("{name}(")), "{name}");
        assert!(page.contains(&format!("\n### {name}\n")), "{name}");
        functions += 1;
    }
    assert!(functions > 100 && functions == manuals.len());
    for name in header.lines().filter_map(|line| line.strip_prefix("#define BUSWAY_")?.split(' ').next()) {
        let documented = page.contains(&format!("\n### BUSWAY_{name}\n"));
        assert!(documented || name == "H" || name.starts_with("INIT_"), "{name}");
    }
    for name in header.lines().filter_map(|line| line.strip_prefix("typedef struct ")?.split([' ', ';']).next()) {
        assert!(page.contains(&format!("\n### {name}\n")), "{name}");
    }
}
