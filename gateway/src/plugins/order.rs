//! Where a plugin stands in the chain, and when it becomes another version of itself.

use std::cmp::{Ordering, Reverse};

use sha2::{Digest as _, Sha256};

use super::{Declaration, Digest};
use crate::snapshot::PluginId;

/// Chain order as Istio builds it: phase; higher priority first, unset last even below negative ones;
/// the gateway's namespace before the root namespace; older first; name; namespace (istio.md W1).
pub(crate) fn compare(one: &Declaration, other: &Declaration) -> Ordering {
    let place = |plugin: &Declaration| (plugin.phase, Reverse(plugin.priority), plugin.root_namespace);
    place(one)
        .cmp(&place(other))
        .then_with(|| one.created.cmp(&other.created))
        .then_with(|| one.name.cmp(&other.name))
        .then_with(|| one.namespace.cmp(&other.namespace))
}

/// The version that `declaration` with a module of this `digest` is.
///
/// A fingerprint of all that running instances are made from, so that equal settings give the equal
/// version, also after a restart; 64 of 256 bits, so that two versions never meet in practice.
pub(crate) fn version(declaration: &Declaration, digest: Digest, limits: &proxy_wasm_host::Limits) -> PluginId {
    let mut hash = fingerprint(declaration);
    hash.update(digest.to_string());
    for (name, value) in &declaration.environment {
        field(&mut hash, name.as_bytes());
        field(&mut hash, value.as_bytes());
    }
    field(&mut hash, declaration.root_id.as_bytes());
    field(&mut hash, &declaration.configuration);
    let terms = &declaration.terms;
    field(&mut hash, format!("{limits:?} {:?} {:?}", terms.isolation, terms.allowed_capabilities).as_bytes());
    id(hash)
}

/// The version that stands for "there is no code": never that of a plugin which runs.
pub(crate) fn unavailable(declaration: &Declaration) -> PluginId {
    let mut hash = fingerprint(declaration);
    hash.update("unavailable");
    id(hash)
}

fn fingerprint(declaration: &Declaration) -> Sha256 {
    let mut hash = Sha256::new();
    field(&mut hash, declaration.namespace.as_bytes());
    field(&mut hash, declaration.name.as_bytes());
    hash
}

/// With its length in front, so that two fields cannot be mistaken for other two.
fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn id(hash: Sha256) -> PluginId {
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
    PluginId(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        plugins::{ModuleSource, Origin, Terms},
        snapshot::{FailStrategy, Phase},
    };

    fn declaration(name: &str) -> Declaration {
        Declaration {
            namespace: "default".into(),
            name: name.into(),
            origin: Origin::Upload,
            source: ModuleSource::File("/module.wasm".into()),
            sha256: None,
            root_id: String::new(),
            configuration: Bytes::new(),
            environment: Vec::new(),
            phase: Phase::Unspecified,
            priority: None,
            network: false,
            fail_strategy: FailStrategy::Close,
            ports: Vec::new(),
            root_namespace: false,
            created: String::new(),
            terms: Terms::default(),
        }
    }

    #[test]
    fn the_chain_is_istios() {
        let with = |name: &str, phase, priority, root_namespace, created: &str| Declaration {
            phase,
            priority,
            root_namespace,
            created: created.into(),
            ..declaration(name)
        };
        let expected = [
            with("authn-low", Phase::Authn, Some(-5), false, "9"),
            with("authn-unset", Phase::Authn, None, false, "1"),
            with("authz", Phase::Authz, None, true, "1"),
            with("stats-root", Phase::Stats, Some(9), true, "1"),
            with("stats", Phase::Stats, Some(8), false, "1"),
            with("high", Phase::Unspecified, Some(10), false, "9"),
            with("own", Phase::Unspecified, Some(0), false, "9"),
            with("root", Phase::Unspecified, Some(0), true, "1"),
            with("lowest", Phase::Unspecified, Some(i32::MIN), false, "9"),
            with("z-older", Phase::Unspecified, None, false, "1"),
            with("a-younger", Phase::Unspecified, None, false, "2"),
            with("b-younger", Phase::Unspecified, None, false, "2"),
        ];
        let mut sorted = expected.to_vec();
        sorted.reverse();
        sorted.sort_by(compare);
        let names = |list: &[Declaration]| list.iter().map(|plugin| plugin.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&sorted), names(&expected));
    }

    #[test]
    fn a_version_is_what_instances_are_made_from() {
        let limits = proxy_wasm_host::Limits::default();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let base = declaration("a");
        let id = version(&base, one, &limits);

        let placed = Declaration {
            phase: Phase::Authn,
            priority: Some(1),
            fail_strategy: FailStrategy::Open,
            ports: vec![8080],
            created: "later".into(),
            ..base.clone()
        };
        assert_eq!(version(&placed, one, &limits), id, "the place in the chain is not part of it");

        let smaller = proxy_wasm_host::Limits { memory_bytes: 1 << 20, ..limits };
        let environment = |pairs: &[(&str, &str)]| Declaration {
            environment: pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..base.clone()
        };
        let all = [
            id,
            version(&base, two, &limits),
            version(&base, one, &smaller),
            version(&Declaration { name: "b".into(), ..base.clone() }, one, &limits),
            version(&Declaration { root_id: "x".into(), ..base.clone() }, one, &limits),
            version(&Declaration { configuration: Bytes::from_static(b"x"), ..base.clone() }, one, &limits),
            version(&environment(&[("a", "bc")]), one, &limits),
            version(&environment(&[("ab", "c")]), one, &limits),
            version(&environment(&[("a", "b"), ("c", "")]), one, &limits),
            unavailable(&base),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one), "{index} is another version");
        }
    }
}
