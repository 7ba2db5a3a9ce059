//! The control side of configuration, a one-way street:
//! source → store (last good per resource) → validate → compile → snapshot → published to the workers.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use gateway::config::{Options, Store, Surroundings, compile, source::FileSource};
//!
//! let options = Options::default();
//! let source = FileSource::new(vec!["config/quickstart".into()])?;
//! let mut store = Store::new(options.clone());
//! store.update(source.read());
//! let (declarations, _problems) = compile::declarations(store.resources(), &options);
//! // … `plugins` turns declarations into what can be attached …
//! let mut surroundings = Surroundings::default();
//! surroundings.refresh(store.resources(), &options);
//! let (_snapshot, _problems) = compile::compile(store.resources(), &options, &[], &surroundings);
//! # Ok(())
//! # }
//! ```

mod base64;
mod certificate_files;
pub mod compile;
mod credentials;
mod decode;
mod duration;
#[cfg(any(test, fuzzing))]
pub(crate) mod invariants;
pub mod mesh;
mod options;
mod path;
pub mod problem;
mod read;
mod resources;
pub mod source;
mod store;
mod surroundings;
pub mod topology;
mod validate;
pub(crate) mod yaml;

pub use options::{Options, PrivilegedPorts};
pub use resources::{Origin, Resource, Resources};
pub use store::{Changed, Store};
pub use surroundings::Surroundings;
pub(crate) use yaml::to_text as to_yaml;

/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
