//! Passwords as they are configured: hashed with PBKDF2-HMAC-SHA-256 (RFC 8018 section 5.2), each with a salt of its own.
//!
//! One text holds it all: `pbkdf2-sha256$ITERATIONS$SALT$HASH`, salt and hash in hexadecimal. Knows nothing of requests.

use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::hint::black_box;
use std::ops::RangeInclusive;

/// The name of the only scheme.
const SCHEME: &str = "pbkdf2-sha256";
/// Enough that guessing is work, few enough that one check stays far below a callback's 50 ms of CPU time.
const ITERATIONS: RangeInclusive<u32> = 1_000..=20_000;
/// Bytes of a salt.
const SALT: RangeInclusive<usize> = 8..=64;

type Hash = [u8; 32];

/// The hash of a password.
pub(crate) struct Secret {
    iterations: u32,
    salt: Vec<u8>,
    hash: Hash,
    /// A plain salted hash of the password once it was right: checking it again costs next to nothing. It stays in this
    /// instance's memory, as the password itself does while a request passes.
    right: Cell<Option<Hash>>,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Right,
    Wrong,
}

impl Secret {
    /// Reads the configured text. The error says what is wrong with it, without repeating it.
    pub(crate) fn parse(text: &str) -> Result<Secret, String> {
        let parts: Vec<&str> = text.split('$').collect();
        let [SCHEME, iterations, salt, hash] = parts[..] else {
            let hint = match text {
                _ if text.starts_with("{SHA}") => "unsalted SHA-1 can be guessed, ",
                _ if text.starts_with("$2") => "bcrypt takes longer than a plugin may, ",
                _ if text.starts_with("$apr1$") => "this MD5 of Apache can be guessed, ",
                _ => "",
            };
            return Err(format!(
                "{hint}must be {SCHEME}$ITERATIONS$SALT$HASH; README.md has the command that makes one"
            ));
        };
        let (fewest, most) = (ITERATIONS.start(), ITERATIONS.end());
        let iterations = iterations.parse().ok().filter(|iterations| ITERATIONS.contains(iterations));
        let iterations =
            iterations.ok_or_else(|| format!("the iterations must be a number from {fewest} to {most}"))?;
        let salt = unhex(salt).filter(|salt| SALT.contains(&salt.len()));
        let salt = salt.ok_or("the salt must be 8 to 64 bytes in hexadecimal")?;
        let hash = unhex(hash).and_then(|hash| hash.try_into().ok());
        let hash = hash.ok_or("the hash must be 32 bytes in hexadecimal")?;
        Ok(Secret { iterations, salt, hash, right: Cell::new(None) })
    }

    /// One that no password is right for, and that takes as long to find out as the slowest of these.
    pub(crate) fn impossible<'a>(others: impl Iterator<Item = &'a Secret>) -> Secret {
        let iterations = others.map(|secret| secret.iterations).max().unwrap_or(*ITERATIONS.start());
        Secret { iterations, salt: vec![0; 16], hash: [0; 32], right: Cell::new(None) }
    }

    /// Whether this password is known to be right. False means nothing.
    pub(crate) fn remembers(&self, password: &[u8]) -> bool {
        self.right.get().is_some_and(|right| same(&right, &self.quick(password)))
    }

    /// Computes whether a password is right; takes as long as the iterations say.
    pub(crate) fn check(&self, password: &[u8]) -> Check {
        if same(&pbkdf2(password, &self.salt, self.iterations), &self.hash) {
            self.right.set(Some(self.quick(password)));
            Check::Right
        } else {
            Check::Wrong
        }
    }

    fn quick(&self, password: &[u8]) -> Hash {
        Sha256::new().chain_update(&self.salt).chain_update(password).finalize().into()
    }
}

/// Compares in the same time wherever the difference is.
fn same(left: &Hash, right: &Hash) -> bool {
    black_box(left.iter().zip(right).fold(0, |difference, (l, r)| black_box(difference | (l ^ r)))) == 0
}

/// The first block of PBKDF2, which is all that a hash of 32 bytes needs.
fn pbkdf2(password: &[u8], salt: &[u8], iterations: u32) -> Hash {
    let hmac = Hmac::new(password);
    let mut last = hmac.of(&[salt, &1_u32.to_be_bytes()]);
    let mut sum = last;
    for _ in 1..iterations {
        last = hmac.of(&[&last]);
        for (sum, byte) in sum.iter_mut().zip(last) {
            *sum ^= byte;
        }
    }
    sum
}

/// HMAC-SHA-256 (RFC 2104) with a key that has been worked in already.
struct Hmac {
    inner: Sha256,
    outer: Sha256,
}

impl Hmac {
    fn new(key: &[u8]) -> Hmac {
        const BLOCK: usize = 64;
        let mut block = [0; BLOCK];
        let hashed: Hash;
        let key = if key.len() > BLOCK {
            hashed = Sha256::digest(key).into();
            &hashed[..]
        } else {
            key
        };
        for (place, byte) in block.iter_mut().zip(key) {
            *place = *byte;
        }
        let padded = |pad: u8| Sha256::new_with_prefix(block.map(|byte| byte ^ pad));
        Hmac { inner: padded(0x36), outer: padded(0x5c) }
    }

    fn of(&self, parts: &[&[u8]]) -> Hash {
        let inner = parts.iter().fold(self.inner.clone(), |hash, part| hash.chain_update(part));
        self.outer.clone().chain_update(inner.finalize()).finalize().into()
    }
}

/// Bytes of a hexadecimal text, `None` if it is none.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?));
    if rest.is_empty() { bytes.collect() } else { None }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_function_is_that_of_the_specification() {
        // RFC 7914 section 11, and the known answers for the inputs of RFC 6070.
        let hex = |hash: Hash| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hex(pbkdf2(b"passwd", b"salt", 1)),
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
        );
        assert_eq!(
            hex(pbkdf2(b"Password", b"NaCl", 80_000)),
            "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56"
        );
        assert_eq!(
            hex(pbkdf2(b"password", b"salt", 4096)),
            "c5e478d59288c841aa530db6845c4c8d962893a001ce4e11a4963873aa98134a"
        );
        let long = pbkdf2(&[b'k'; 100], b"saltsalt", 2);
        assert_eq!(long, pbkdf2(&Sha256::digest([b'k'; 100]), b"saltsalt", 2), "long keys are hashed");
    }

    #[test]
    fn a_right_password_is_remembered_and_a_wrong_one_is_not() {
        let secret = Secret::parse(&hashed("sesame")).unwrap();
        assert!(!secret.remembers(b"sesame"));
        assert_eq!(secret.check(b"Sesame"), Check::Wrong);
        assert!(!secret.remembers(b"Sesame"));
        assert_eq!(secret.check(b"sesame"), Check::Right);
        assert!(secret.remembers(b"sesame") && !secret.remembers(b"sesam"));
        assert_eq!(secret.check(b"other"), Check::Wrong);
        assert!(secret.remembers(b"sesame"));
        assert_eq!(Secret::impossible([&secret].into_iter()).check(b""), Check::Wrong);
    }

    #[test]
    fn what_is_not_a_hash_is_refused_and_not_repeated() {
        for (text, part) in [
            ("sesame", "must be pbkdf2-sha256$"),
            ("", "must be pbkdf2-sha256$"),
            ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "unsalted SHA-1"),
            ("$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC", "bcrypt"),
            ("$apr1$salt$hash", "MD5 of Apache"),
            ("pbkdf2-sha256$999$0001020304050607$00", "from 1000 to 20000"),
            ("pbkdf2-sha256$20001$0001020304050607$00", "from 1000 to 20000"),
            ("pbkdf2-sha256$x$0001020304050607$00", "from 1000 to 20000"),
            ("pbkdf2-sha256$1000$00$00", "salt"),
            ("pbkdf2-sha256$1000$0001020304050607$00", "32 bytes"),
            ("pbkdf2-sha256$1000$000102030405060g$00", "salt"),
            ("pbkdf2-sha256$1000$00010203040506071$00", "salt"),
        ] {
            let problem = Secret::parse(text).err().unwrap();
            assert!(problem.contains(part), "{text}: {problem}");
            assert!(text.is_empty() || !problem.contains(text), "{problem}");
        }
    }

    fn hashed(password: &str) -> String {
        let (salt, iterations) = (b"saltsalt", 1_000);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
        format!("{SCHEME}${iterations}${}${}", hex(salt), hex(&pbkdf2(password.as_bytes(), salt, iterations)))
    }
}
