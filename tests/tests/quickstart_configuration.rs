//! The folder that `make run` shows to somebody who sees the gateway for the first time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use gateway::config::source::FileSource;
use gateway::config::{Options, Store, Surroundings, compile};
use gateway::plugins::ModuleSource;
use std::path::Path;

#[test]
fn the_quickstart_has_no_problem() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = project.join("config/quickstart");
    let options = Options::default();
    let mut store = Store::new(options.clone());
    store.update(FileSource::new(vec![folder]).unwrap().read());
    let (declarations, mut problems) = compile::declarations(store.resources(), &options);
    problems.extend(compile::compile(store.resources(), &options, &[], &Surroundings::default()).1);
    problems.extend(store.problems().iter().cloned());

    assert!(problems.is_empty(), "{problems:#?}");
    assert_eq!(store.resources().len(), 4, "Gateway, VirtualService, ServiceEntry, WasmPlugin");

    // `plugins/build` puts the module where the WasmPlugin looks for it.
    let [plugin] = &declarations[..] else { panic!("{declarations:#?}") };
    let ModuleSource::File(module) = &plugin.source else { panic!("{:?}", plugin.source) };
    assert_eq!(module.file_name().unwrap(), "add-header.wasm");
    let folder = module.parent().unwrap();
    std::fs::create_dir_all(project.join("target/plugins")).unwrap();
    assert_eq!(folder.canonicalize().unwrap(), project.join("target/plugins").canonicalize().unwrap());
}
