//! Names of fields that the gateway itself looks for or writes.

#![allow(missing_docs, reason = "each is the name that it says")]

use crate::Key;

pub static CONNECTION: Key = Key::from_static("connection");
pub static CONTENT_LENGTH: Key = Key::from_static("content-length");
pub static CONTENT_TYPE: Key = Key::from_static("content-type");
pub static COOKIE: Key = Key::from_static("cookie");
pub static HOST: Key = Key::from_static("host");
pub static LOCATION: Key = Key::from_static("location");
pub static SERVER: Key = Key::from_static("server");
pub static TE: Key = Key::from_static("te");
pub static TRAILER: Key = Key::from_static("trailer");
pub static TRANSFER_ENCODING: Key = Key::from_static("transfer-encoding");
pub static UPGRADE: Key = Key::from_static("upgrade");
