//! What a client sees, in every mode.

mod common;

use common::Server;

const FILTERED: [&str; 3] = ["inline", "busway", "uds"];

#[test]
fn without_a_filter_everything_passes() {
    let server = Server::start(&["--filter", "none"]);
    let mut client = server.client();
    for path in ["/", "/admin", "/hello"] {
        let answer = client.get(path);
        assert_eq!((answer.status, answer.header("x-filtered-by")), (200, None), "{path}");
    }
    server.stop();
}

#[test]
fn the_filter_decides_alike_wherever_it_is() {
    for mode in FILTERED {
        let server = Server::start(&["--filter", mode]);
        let mut client = server.client();

        let passed = client.get("/some/path?query");
        assert_eq!((passed.status, passed.header("x-filtered-by")), (200, Some("example")), "{mode}");
        assert_eq!(passed.body, "GET /some/path, 0 bytes of body\n");

        assert_eq!(client.get("/admin/users").status, 403, "{mode}");
        let token = ("authorization", "Bearer open-sesame");
        assert_eq!(client.ask("GET", "/admin/users", &[token], b"").unwrap().status, 200, "{mode}");

        let hello = client.ask("GET", "/hello", &[("user-agent", "test/1")], b"").unwrap();
        assert_eq!((hello.status, &*hello.body), (200, "hello, test/1\n"), "{mode}");
        assert_eq!(hello.header("content-type"), Some("text/plain"), "{mode}");

        let headers =
            [("x-internal-user", "root"), ("x-mine", "1"), ("X-Internal-Role", "any"), ("x-filtered-by", "me")];
        let echo = client.ask("GET", "/headers", &headers, b"").unwrap();
        assert!(
            echo.body.contains("x-mine: 1\n") && echo.body.contains("x-filtered-by: example\n"),
            "{mode}: {}",
            echo.body
        );
        assert!(!echo.body.contains("x-internal-") && !echo.body.contains(": me\n"), "{mode}: {}", echo.body);

        assert_eq!(client.ask("BREW", "/pot", &[], b"").unwrap().body, "BREW /pot, 0 bytes of body\n", "{mode}");
        server.stop();
    }
}

#[test]
fn bodies_are_filtered_up_to_their_limit() {
    for mode in FILTERED {
        let server = Server::start(&["--filter", mode]);
        for len in [1, 32, 1000, 70_000, 262_144] {
            let mut body = vec![b'q'; len];
            let answer = server.client().ask("POST", "/", &[], &body).unwrap();
            assert_eq!((answer.status, answer.body), (200, format!("POST /, {len} bytes of body\n")), "{mode}");
            let evil = b"forbidden words";
            if let Some(end) = len.checked_sub(evil.len()) {
                body[end..].copy_from_slice(evil);
                assert_eq!(server.client().ask("POST", "/", &[], &body).unwrap().status, 422, "{mode}, {len}");
            }
        }
        // Refused before the body is read, so that sending it may fail.
        let refused = server.client().ask("POST", "/", &[], &vec![b'q'; 262_145]);
        assert!(refused.is_ok_and(|answer| answer.status == 413), "{mode}");
        server.stop();
    }
}

#[test]
fn the_filter_can_be_another_program() {
    for mode in ["busway", "uds"] {
        let server = Server::start(&["--filter", mode, "--plugin", env!("CARGO_BIN_EXE_http_filter_plugin")]);
        assert_eq!(server.client().get("/admin").status, 403, "{mode}");
        server.stop();
    }
}

#[test]
fn many_connections_get_their_own_answers() {
    for mode in FILTERED {
        let server = Server::start(&["--filter", mode]);
        std::thread::scope(|threads| {
            for connection in 0..32 {
                let mut client = server.client();
                threads.spawn(move || {
                    for request in 0..50 {
                        let path = format!("/{connection}/{request}");
                        let answer = client.get(&path);
                        assert_eq!(
                            (answer.status, answer.body),
                            (200, format!("GET {path}, 0 bytes of body\n")),
                            "{mode}"
                        );
                    }
                });
            }
        });
        server.stop();
    }
}
