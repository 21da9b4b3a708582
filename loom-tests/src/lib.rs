//! Loom models of the protocols of `busway`; see `tests/`.
