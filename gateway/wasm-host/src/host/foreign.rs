//! Foreign functions: what Envoy offers plugins by name. Unknown ones are `NOT_FOUND`.
//!
//! | name | arguments | result |
//! |---|---|---|
//! | `compress`, `uncompress` | bytes | bytes, zlib's format (RFC 1950) |
//! | `verify_signature` | `{ public_key = 1, hash_function = 2, signature = 3, text = 4 }` | `{ result = 1, error = 2 }` |
//! | `expr_create` | an expression of CEL | its number, 4 bytes |
//! | `expr_evaluate` | a number, 4 bytes | the value, as a property would be |
//! | `expr_delete` | a number, 4 bytes | none |
//! | `clear_route_cache` | none | none |
//!
//! Messages are protobuf. What cannot be done is `SERIALIZATION_FAILURE` for the first two, as in Envoy, and
//! `BAD_ARGUMENT` for arguments that are none.

use std::io::{self, Read, Write};

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};

use super::calls::proto;
use super::stream;
use crate::abi::Status;
use crate::expressions;
use crate::guest::{Call, HostResult, Out, Span, give, put_u32, slice, view};
use crate::shared::Quota;

/// Most bytes that a plugin may have compressed or checked in one call: a worker does nothing else meanwhile.
const MAX_BYTES: usize = 1 << 20;

pub(super) fn call(call: &mut Call<'_>, name: Span, arguments: Span, out: Out) -> HostResult {
    let (memory, state) = view(call)?;
    let (name, arguments) = (slice(memory, name)?, slice(memory, arguments)?);
    if arguments.len() > MAX_BYTES {
        state.refuse(Quota::Body);
        return Err(Status::BadArgument.into());
    }
    let limit = state.limits().body_bytes.max(MAX_BYTES);
    let result = match name {
        b"clear_route_cache" => {
            stream::clear_route_cache(call)?;
            Vec::new()
        }
        b"compress" => compress(arguments).map_err(|_| Status::SerializationFailure)?,
        b"uncompress" => uncompress(arguments, limit).map_err(|_| Status::SerializationFailure)?,
        b"verify_signature" => verify_signature(arguments).ok_or(Status::BadArgument)?,
        b"expr_create" => state.expressions.create(arguments)?.to_le_bytes().to_vec(),
        b"expr_evaluate" => expressions::evaluate(state, number(arguments)?)?,
        b"expr_delete" => {
            let number = number(arguments)?;
            state.expressions.delete(number);
            Vec::new()
        }
        _ => return Err(Status::NotFound.into()),
    };
    answer(call, out, &result)
}

/// Gives a result back, if the plugin has said where to: it may pass no pointers for one that it does not want.
fn answer(call: &mut Call<'_>, out: Out, result: &[u8]) -> HostResult {
    match out {
        Out(0, 0) => Ok(()),
        Out(0, length) => {
            let (memory, _) = view(call)?;
            Ok(put_u32(memory, length, 0)?)
        }
        out => give(call, out, result),
    }
}

fn number(bytes: &[u8]) -> Result<u32, Status> {
    bytes.try_into().map(u32::from_le_bytes).map_err(|_| Status::BadArgument)
}

fn compress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// At most `limit` bytes; more is an error, whatever the plugin was sent to uncompress.
fn uncompress(bytes: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    ZlibDecoder::new(bytes).take(limit as u64 + 1).read_to_end(&mut plain)?;
    if plain.len() > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(plain)
}

/// Envoy's `VerifySignatureArguments` → `VerifySignatureResult`. The key is a SubjectPublicKeyInfo in DER, of RSA or of an
/// elliptic curve; signatures are PKCS #1 v1.5 or ECDSA in ASN.1.
fn verify_signature(arguments: &[u8]) -> Option<Vec<u8>> {
    let (mut key, mut hash, mut signature, mut text) = (&[][..], &[][..], &[][..], &[][..]);
    for field in proto::fields(arguments) {
        match field? {
            (1, value) => key = value,
            (2, value) => hash = value,
            (3, value) => signature = value,
            (4, value) => text = value,
            _ => {}
        }
    }
    let Some(algorithms) = algorithms(hash) else {
        return Some(refused(&format!("{} is not supported.", String::from_utf8_lossy(hash))));
    };
    let verified = |algorithm: &&&'static dyn VerificationAlgorithm| {
        UnparsedPublicKey::new(**algorithm, key).verify(text, signature).is_ok()
    };
    // { result: true }
    Some(if algorithms.iter().any(|algorithm| verified(&algorithm)) {
        vec![0x08, 0x01]
    } else {
        refused("Failed to verify digest.")
    })
}

/// `{ error: … }`; the result is false, which protobuf leaves out.
fn refused(error: &str) -> Vec<u8> {
    // At most 127 bytes, so that the length is one byte.
    let error = error.as_bytes();
    let error = error.get(..127).unwrap_or(error);
    [&[0x12, error.len() as u8], error].concat()
}

/// What may have been signed with for a hash function; the key says which of them it was.
fn algorithms(hash: &[u8]) -> Option<[&'static dyn VerificationAlgorithm; 4]> {
    Some(match hash.to_ascii_lowercase().as_slice() {
        b"sha1" => [
            &signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
            &signature::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            &signature::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            &signature::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
        ],
        b"sha256" => [
            &signature::RSA_PKCS1_2048_8192_SHA256,
            &signature::ECDSA_P256_SHA256_ASN1,
            &signature::ECDSA_P384_SHA256_ASN1,
            &signature::ECDSA_P521_SHA256_ASN1,
        ],
        b"sha384" => [
            &signature::RSA_PKCS1_2048_8192_SHA384,
            &signature::ECDSA_P256_SHA384_ASN1,
            &signature::ECDSA_P384_SHA384_ASN1,
            &signature::ECDSA_P521_SHA384_ASN1,
        ],
        b"sha512" => [
            &signature::RSA_PKCS1_2048_8192_SHA512,
            &signature::ECDSA_P256_SHA512_ASN1,
            &signature::ECDSA_P384_SHA512_ASN1,
            &signature::ECDSA_P521_SHA512_ASN1,
        ],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use aws_lc_rs::{
        encoding::{AsDer, PublicKeyX509Der},
        rand::SystemRandom,
        rsa::KeySize,
        signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA512, RsaKeyPair},
    };

    use super::*;

    #[test]
    fn what_is_compressed_is_uncompressed_up_to_a_limit() {
        let packed = compress(&[7; 100_000]).unwrap();
        assert!(packed.len() < 1000 && packed[0] == 0x78, "zlib's format");
        assert_eq!(uncompress(&packed, 100_000).unwrap(), [7; 100_000]);
        assert!(uncompress(&packed, 99_999).is_err());
        assert!(uncompress(b"not compressed", 100).is_err());
        assert_eq!(uncompress(&compress(b"").unwrap(), 0).unwrap(), b"");
    }

    fn arguments(fields: [&[u8]; 4]) -> Vec<u8> {
        let mut message = Vec::new();
        for (number, value) in (1u8..).zip(fields) {
            message.push(number << 3 | 2);
            let mut length = value.len();
            while length > 127 {
                message.push(length as u8 | 0x80);
                length >>= 7;
            }
            message.push(length as u8);
            message.extend(value);
        }
        message
    }

    #[test]
    fn signatures_are_verified_with_the_key_that_is_passed() {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let der: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
        let signed = key.sign(&random, b"text").unwrap();
        let check = |hash: &[u8], signature: &[u8], text: &[u8]| {
            verify_signature(&arguments([der.as_ref(), hash, signature, text])).unwrap()
        };
        assert_eq!(check(b"sha256", signed.as_ref(), b"text"), [8, 1]);
        assert_eq!(check(b"sha256", signed.as_ref(), b"other"), refused("Failed to verify digest."));
        assert_eq!(check(b"sha512", signed.as_ref(), b"text"), refused("Failed to verify digest."));
        assert_eq!(check(b"md5", signed.as_ref(), b"text"), refused("md5 is not supported."));

        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
        let mut signed = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA512, &random, b"text", &mut signed).unwrap();
        let message = arguments([der.as_ref(), b"sha512", &signed, b"text"]);
        assert_eq!(verify_signature(&message).unwrap(), [8, 1]);
        assert_eq!(verify_signature(b"\x0a\xff"), None);
    }
}
