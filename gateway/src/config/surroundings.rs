//! What compilation takes from outside the resources: certificate files as they are now, the time, and the ticket keys
//! that outlive a configuration.

use std::{path::PathBuf, time::SystemTime};

use super::{Options, certificate_files::CertificateFiles, resources::Resources};
use crate::tls::TicketKeys;

/// The world around the resources.
#[derive(Debug)]
pub struct Surroundings {
    pub(crate) files: CertificateFiles,
    pub(crate) tickets: TicketKeys,
    pub(crate) now: SystemTime,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self { files: CertificateFiles::default(), tickets: TicketKeys::default(), now: SystemTime::now() }
    }
}

impl Surroundings {
    /// Looks at the clock, and at the files that these resources name.
    pub fn refresh(&mut self, resources: &Resources, options: &Options) {
        self.files.refresh(resources, options);
        self.now = SystemTime::now();
    }

    /// The files whose change matters.
    pub fn watched_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.paths()
    }
}
