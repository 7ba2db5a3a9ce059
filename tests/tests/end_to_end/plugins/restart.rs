//! A restart does not compile plugins again, and trusts nothing that it did not write itself.

use super::get;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::plugins::{module_bytes, variant, wasm_plugin};
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol;
use gateway_tests::upstream::Upstream;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How many plugins there are, each with a module of its own.
const PLUGINS: usize = 20;

/// The files with compiled code and their inode numbers, which tell whether they were written anew.
fn compiled(data: &Path) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(data.join("compiled")).unwrap().map(Result::unwrap);
    let named = entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().ino()));
    named.filter(|(name, _)| name.ends_with(".code")).collect()
}

async fn passes_all(gateway: &TestGateway) {
    let response = get(&mut gateway.client().await.unwrap(), "/", "").await;
    assert_eq!((response.status, response.header_values("x-trace").len()), (200, PLUGINS));
}

#[tokio::test]
async fn plugins_are_compiled_once_and_not_with_every_start() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let module = module_bytes("probe");
    let plugins: String = (0..PLUGINS)
        .map(|number| {
            let path = folder.path().join(format!("{number}.wasm"));
            fs::write(&path, variant(&module, &number.to_string())).unwrap();
            wasm_plugin(&format!("p{number}"), &path, &format!("pluginConfig: {{name: p{number}}}"))
        })
        .collect();
    let start = async || {
        let setup = Setup::new().data_dir(&data).file("all.yaml", everything_to(&upstream)).file("p.yaml", &plugins);
        setup.start().await.unwrap()
    };
    let gateway = start().await;
    passes_all(&gateway).await;
    gateway.shutdown().await.unwrap();
    let first = compiled(&data);
    assert_eq!(first.len(), PLUGINS);

    let gateway = start().await;
    passes_all(&gateway).await;
    gateway.shutdown().await.unwrap();
    assert_eq!(compiled(&data), first, "nothing was compiled");

    // One is damaged, one is somebody else's: those are compiled again, the others are not.
    let names: Vec<&String> = first.keys().collect();
    let path = |name: &str| data.join("compiled").join(name);
    let mut bytes = fs::read(path(names[0])).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path(names[0]), bytes).unwrap();
    fs::copy(path(names[2]), path(names[1])).unwrap();
    let gateway = start().await;
    passes_all(&gateway).await;
    let second = compiled(&data);
    let anew: Vec<_> = names.iter().filter(|name| first[**name] != second[**name]).collect();
    assert_eq!(anew, [&names[0], &names[1]]);
}
