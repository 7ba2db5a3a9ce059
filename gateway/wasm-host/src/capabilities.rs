//! Plugins that may not call every host function: those that are not allowed are replaced by ones that say so.

use wasmtime::{Caller, ExternType, InstancePre, Val};

use crate::abi::Status;
use crate::module::Module;
use crate::state::State;

/// What WASI functions answer that a plugin may not call: `ENOTCAPABLE`.
const NOT_CAPABLE: i32 = 76;

/// The module with the allowed host functions, and substitutes for the others: as in Envoy they answer
/// `INTERNAL_FAILURE` and leave a line in the log. Nothing is checked when an allowed one is called.
pub(crate) fn restrict(module: &Module, allowed: &[String]) -> wasmtime::Result<InstancePre<State>> {
    let mut linker = module.linker().clone();
    linker.allow_shadowing(true);
    let compiled = module.pre().module();
    for import in compiled.imports() {
        let ExternType::Func(signature) = import.ty() else { continue };
        let name = import.name().to_owned();
        if allowed.contains(&name) {
            continue;
        }
        let status = if import.module() == "env" { Status::InternalFailure as i32 } else { NOT_CAPABLE };
        linker.func_new(
            import.module(),
            import.name(),
            signature,
            move |mut caller: Caller<'_, State>, _, results| {
                if let Some(result) = results.first_mut() {
                    *result = Val::I32(status);
                }
                caller
                    .data_mut()
                    .note(&format!("the plugin called {name}, which is not among its allowedCapabilities"));
                Ok(())
            },
        )?;
    }
    linker.instantiate_pre(compiled)
}
