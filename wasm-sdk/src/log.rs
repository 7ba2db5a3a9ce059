//! Lines in the gateway's log: [`trace!`](crate::trace), [`debug!`](crate::debug), [`info!`](crate::info),
//! [`warn!`](crate::warn), [`error!`](crate::error), used like [`println!`].
//!
//! The host adds the plugin's name and drops what is below its level. In native tests the lines are kept and appear
//! in [`Exchange::logs`](crate::testing::Exchange::logs).

use std::fmt;

/// How much a line matters; the numbers are those of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Level {
    /// Every step, for the author of the plugin.
    Trace = 0,
    /// Decisions about single requests.
    Debug = 1,
    /// What an operator wants to see once: the configuration that is used.
    Info = 2,
    /// Something is odd and the plugin goes on.
    Warn = 3,
    /// Something failed and somebody has to act.
    Error = 4,
    /// The plugin cannot go on; used for panics.
    Critical = 5,
}

/// Writes one line. The macros are the usual way to call it.
pub fn write(level: Level, message: fmt::Arguments<'_>) {
    match message.as_str() {
        Some(text) => sink(level, text),
        None => sink(level, &message.to_string()),
    }
}

#[cfg(target_arch = "wasm32")]
use crate::wasm::log as sink;

#[cfg(not(target_arch = "wasm32"))]
use crate::testing::log as sink;

/// Logs at [`Level::Trace`], with the syntax of [`println!`].
#[macro_export]
macro_rules! trace { ($($message:tt)+) => { $crate::log::write($crate::log::Level::Trace, ::core::format_args!($($message)+)) } }

/// Logs at [`Level::Debug`], with the syntax of [`println!`].
#[macro_export]
macro_rules! debug { ($($message:tt)+) => { $crate::log::write($crate::log::Level::Debug, ::core::format_args!($($message)+)) } }

/// Logs at [`Level::Info`], with the syntax of [`println!`].
#[macro_export]
macro_rules! info { ($($message:tt)+) => { $crate::log::write($crate::log::Level::Info, ::core::format_args!($($message)+)) } }

/// Logs at [`Level::Warn`], with the syntax of [`println!`].
#[macro_export]
macro_rules! warn { ($($message:tt)+) => { $crate::log::write($crate::log::Level::Warn, ::core::format_args!($($message)+)) } }

/// Logs at [`Level::Error`], with the syntax of [`println!`].
#[macro_export]
macro_rules! error { ($($message:tt)+) => { $crate::log::write($crate::log::Level::Error, ::core::format_args!($($message)+)) } }
