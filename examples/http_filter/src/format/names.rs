//! Header names and methods that travel as numbers. The numbers are part of the format: new ones may be added in place of
//! gaps, none may change.

use hyper::header::HeaderName;
use std::sync::LazyLock;

/// Names by number. 0 is no name: such a header brings its own.
pub const NAMES: [&str; 64] = [
    "",
    "accept",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
    "access-control-request-headers",
    "access-control-request-method",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-range",
    "content-security-policy",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "forwarded",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "origin",
    "pragma",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "sec-fetch-site",
    "server",
    "set-cookie",
    "te",
    "traceparent",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
    "x-filtered-by",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-request-id",
];

/// Methods by number. 0 is none of these: the request brings its text.
pub const METHODS: [&str; 10] = ["", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// The number of a name that the source code spells, checked when the program is built.
pub const fn known(name: &str) -> u8 {
    let number = number(name.as_bytes());
    assert!(number != 0, "this name has no number");
    number
}

/// The number of a lower-case name, or 0.
pub const fn number(name: &[u8]) -> u8 {
    let mut place = hash(name);
    loop {
        let number = PLACES[place];
        if number == 0 || equal(NAMES[number as usize].as_bytes(), name) {
            return number;
        }
        place = (place + 1) % PLACES.len();
    }
}

/// The number of a method, or 0.
pub fn method_number(method: &str) -> u8 {
    METHODS.iter().skip(1).position(|known| *known == method).map_or(0, |at| at as u8 + 1)
}

/// The name of a number, as hyper has it; `None` if there is none.
pub fn header_name(number: u8) -> Option<HeaderName> {
    static HEADER_NAMES: LazyLock<Vec<Option<HeaderName>>> =
        LazyLock::new(|| NAMES.iter().map(|name| HeaderName::try_from(*name).ok()).collect());
    HEADER_NAMES.get(usize::from(number))?.clone()
}

/// An open hash table of the numbers, made when the program is built; three quarters of it are empty.
static PLACES: [u8; 256] = {
    let mut places = [0; 256];
    let mut number = 1;
    while number < NAMES.len() {
        let mut place = hash(NAMES[number].as_bytes());
        while places[place] != 0 {
            place = (place + 1) % places.len();
        }
        places[place] = number as u8;
        number += 1;
    }
    places
};

const fn hash(name: &[u8]) -> usize {
    let len = name.len();
    if len == 0 {
        return 0;
    }
    let (first, middle, last) = (name[0] as usize, name[len / 2] as usize, name[len - 1] as usize);
    (len * 37 + first * 5 + middle * 101 + last * 19) % 256
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_number() {
        assert!(NAMES.is_sorted());
        for (at, name) in NAMES.iter().enumerate().skip(1) {
            assert_eq!(usize::from(number(name.as_bytes())), at, "{name}");
            assert_eq!(header_name(at as u8).unwrap().as_str(), *name);
        }
        for unknown in ["", "x", "x-filtered-b", "x-filtered-by-", "hosts", "Host"] {
            assert_eq!(number(unknown.as_bytes()), 0, "{unknown}");
        }
        assert_eq!((header_name(0), header_name(64)), (None, None));
    }

    #[test]
    fn the_numbers_are_those_of_the_page() {
        let page = include_str!("../../../../docs/http_filter.md");
        for (number, name) in NAMES.iter().enumerate().skip(1) {
            assert!(page.contains(&format!("| {number} {name} |")), "{number} {name}");
        }
        for (number, method) in METHODS.iter().enumerate().skip(1) {
            assert!(
                page.contains(&format!(" {number} {method}")) || page.contains(&format!("\n{number} {method}")),
                "{method}"
            );
        }
    }

    #[test]
    fn few_names_share_a_place() {
        let steps = |name: &&str| {
            let number = number(name.as_bytes());
            (0..256).find(|step| PLACES[(hash(name.as_bytes()) + step) % 256] == number).unwrap()
        };
        assert!(NAMES[1..].iter().map(steps).max() <= Some(3), "a better hash is needed");
    }

    #[test]
    fn every_method_has_its_number() {
        for (at, method) in METHODS.iter().enumerate().skip(1) {
            assert_eq!(usize::from(method_number(method)), at);
        }
        assert_eq!((method_number("get"), method_number("BREW"), method_number("")), (0, 0, 0));
    }
}
