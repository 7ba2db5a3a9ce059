//! How much plugins may take up on the control side.

use std::time::Duration;

/// The limits of uploads and of loading modules. What a running plugin may use is [`proxy_wasm_host::Limits`].
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest module in bytes. Default 32 MiB.
    pub module_bytes: usize,
    /// Largest settings of an upload as JSON, in bytes. Default 1 MiB.
    pub settings_bytes: usize,
    /// Uploads that can exist at the same time. Default 100.
    pub uploads: usize,
    /// Bytes of all uploaded modules together, those of earlier versions included, which give way to new ones.
    /// Default 1 GiB.
    pub stored_bytes: u64,
    /// Versions that are kept of each upload, the current one included; their settings, without the current ones,
    /// have at most [`Limits::settings_bytes`] together. Default 10.
    pub versions: usize,
    /// How long compiling a module may take. Default 60 s. The module is refused then; the thread that
    /// compiles it cannot be stopped and counts against the two that may compile until it is done.
    pub compile: Duration,
    /// Bytes of compiled modules that are kept on disk. Default 1 GiB; those unused for longest go first.
    pub compiled_bytes: u64,
    /// Bytes of one answer while a module is fetched, packed as it comes. Default 64 MiB.
    pub fetch_bytes: usize,
    /// Bytes that are unpacked in search of a module. Default 128 MiB.
    pub unpacked_bytes: usize,
    /// How long one request for a module may take. Default 15 s.
    pub fetch_request: Duration,
    /// How long all requests for a module may take. Default 30 s.
    pub fetch: Duration,
    /// How long the start waits for modules that have to be fetched. Default 60 s.
    pub first_fetches: Duration,
    /// Redirects that are followed for one request. Default 5.
    pub fetch_redirects: usize,
    /// How long after a first failure a module is asked for again; twice as long after each further one, at most
    /// 5 min, a quarter more or less. Default 1 s.
    pub fetch_retry: Duration,
    /// Bytes of fetched modules that are kept on disk. Default 1 GiB; those unused for longest go first.
    pub fetched_bytes: u64,
    /// What every running plugin may use.
    pub running: proxy_wasm_host::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            module_bytes: 32 << 20,
            settings_bytes: 1 << 20,
            uploads: 100,
            stored_bytes: 1 << 30,
            versions: 10,
            compile: Duration::from_secs(60),
            compiled_bytes: 1 << 30,
            fetch_bytes: 64 << 20,
            unpacked_bytes: 128 << 20,
            fetch_request: Duration::from_secs(15),
            fetch: Duration::from_secs(30),
            first_fetches: Duration::from_secs(60),
            fetch_redirects: 5,
            fetch_retry: Duration::from_secs(1),
            fetched_bytes: 1 << 30,
            running: proxy_wasm_host::Limits::default(),
        }
    }
}
