//! Group F: TLS. Its rows are tests of their own (`rows`), because certificates are needed for them; what is here is what
//! a client in clear text can get wrong.

use super::Case;

pub(super) fn cases() -> Vec<Case> {
    let hello = b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    vec![Case::http1("F-9", "the beginning of a TLS handshake on a port in clear text", hello).gets("400, closed")]
}
