//! Secrets and ConfigMaps: what looks like a certificate must be one. A Secret that is refused leaves its last good
//! version in use, so a renewal that went wrong does not take a server down.

use super::Report;
use crate::{
    config::{
        credentials::{authorities, key_pair, place},
        path::Path,
        resources::Resource,
    },
    istio::{ConfigMap, Secret},
};

/// Most bytes of all entries together, as in Kubernetes.
const MAX_BYTES: usize = 1 << 20;

/// Checks a Secret.
pub(crate) fn secret(resource: &Resource<Secret>, report: &mut Report<'_, Secret>) {
    let (data, plain) = (&resource.spec.data, &resource.spec.string_data);
    let bytes = data.values().map(|text| text.0.len() / 4 * 3).sum::<usize>()
        + plain.values().map(|text| text.0.len()).sum::<usize>();
    if bytes > MAX_BYTES {
        return report.too_large(&Path::Root.key("data"), "a Secret must not be larger than 1 MiB");
    }
    let found = key_pair(resource).err().into_iter().chain(authorities(resource).err());
    for (entry, message) in found {
        place(resource, entry, |path| report.reject(path, message));
    }
}

/// Checks a ConfigMap: most hold something else, so only its size.
pub(crate) fn config_map(resource: &Resource<ConfigMap>, report: &mut Report<'_, ConfigMap>) {
    let entries = resource.spec.data.values().chain(resource.spec.binary_data.values());
    if entries.map(|text| text.0.len()).sum::<usize>() > MAX_BYTES * 4 / 3 {
        report.too_large(&Path::Root.key("data"), "a ConfigMap must not be larger than 1 MiB");
    }
}
