//! What a request asks for: `AT=ACTION:ARGUMENT`, several of them with `;` between.
//!
//! AT is a callback: `request_headers`, `request_body`, `request_trailers`, the same for `response`, `create`, `log`;
//! in the configuration's `always` also `start`. What the actions do stands where they are carried out: [`Step::misbehave`] here,
//! the others in `stream`.

use std::hint::black_box;

/// One thing to do.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// In which callback.
    pub(crate) at: String,
    /// What.
    pub(crate) action: String,
    /// With what; may be empty.
    pub(crate) argument: String,
}

/// Reads a script. What has no `=` is left out.
pub(crate) fn parse(text: &str) -> Vec<Step> {
    let step = |text: &str| {
        let (at, action) = text.trim().split_once('=')?;
        let (action, argument) = action.split_once(':').unwrap_or((action, ""));
        Some(Step { at: at.to_owned(), action: action.to_owned(), argument: argument.to_owned() })
    };
    text.split(';').filter_map(step).collect()
}

/// The string in a flat JSON object without escapes: all that this plugin's configuration ever is.
pub(crate) fn string<'a>(json: &'a str, name: &str) -> &'a str {
    let value = json.split_once(&format!("\"{name}\"")).and_then(|(_, rest)| rest.split_once('"'));
    value.and_then(|(_, rest)| rest.split_once('"')).map_or("", |(value, _)| value)
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn proc_exit(code: u32) -> !;
}

/// Does not return.
pub(crate) fn forever() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

impl Step {
    /// The ways to die: `trap`, `loop`, `memory`, `exit`. Returns if the action is none of them.
    pub(crate) fn misbehave(&self) {
        match self.action.as_str() {
            "trap" => panic!("asked to"),
            "loop" => forever(),
            "memory" => loop {
                // Leaked, so that the memory is really taken.
                black_box(vec![1_u8; 1 << 20].leak());
            },
            // SAFETY: takes a number and never returns.
            "exit" => unsafe { proc_exit(7) },
            _ => {}
        }
    }
}
