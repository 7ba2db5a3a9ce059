//! What a module exports: the lifecycle always, of the callbacks about streams those it has handlers for.
//!
//! Only [`plugin`](macro@crate::plugin) expands this; what the exported functions do is in `wasm/module.rs`.

/// `TYPE; CALLBACK …`, where `forgets` stands for a plugin that remembers nothing of a stream between its handlers.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($plugin:ty; forgets $($callback:ident)*) => {
        $crate::__export!($plugin, $crate::Forgotten; forgets $($callback)*);
    };
    ($plugin:ty; $($callback:ident)*) => {
        $crate::__export!($plugin, $crate::Remembered<$plugin>; $($callback)*);
    };
    ($plugin:ty, $streams:ty; $($callback:ident)*) => {
        const _: () = {
            const fn is_a_plugin<P: $crate::Plugin>() {}
            is_a_plugin::<$plugin>();

            #[cfg(target_arch = "wasm32")]
            mod exports {
                use super::*;

                static MODULE: $crate::Module<$plugin, $streams> = $crate::Module::new();

                #[cfg(target_os = "wasi")]
                unsafe extern "C" {
                    fn __wasm_call_ctors();
                }

                // What a host calls first (a reactor, in the words of WASI).
                #[unsafe(no_mangle)]
                extern "C" fn _initialize() {
                    // SAFETY: called once, before anything else, as the C library of the target demands.
                    #[cfg(target_os = "wasi")]
                    unsafe {
                        __wasm_call_ctors()
                    };
                    $crate::start();
                }

                #[unsafe(no_mangle)]
                extern "C" fn proxy_abi_version_0_2_1() {}

                #[unsafe(no_mangle)]
                extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
                    $crate::allocate(size)
                }

                #[unsafe(no_mangle)]
                extern "C" fn proxy_on_context_create(context: u32, parent: u32) {
                    MODULE.on_context_create(context, parent);
                }

                #[unsafe(no_mangle)]
                extern "C" fn proxy_on_configure(root: u32, size: usize) -> u32 {
                    MODULE.on_configure(root, size)
                }

                #[unsafe(no_mangle)]
                extern "C" fn proxy_on_delete(context: u32) {
                    MODULE.on_delete(context);
                }

                $($crate::__export!(@ $callback);)*
            }
        };
    };
    // What this gateway knows of: it need not be told where a stream begins and ends.
    (@ forgets) => {
        #[unsafe(no_mangle)]
        extern "C" fn gateway_streams_are_forgotten() {}
    };
    (@ request_headers) => {
        #[unsafe(no_mangle)]
        extern "C" fn proxy_on_request_headers(context: u32, _: usize, end: u32) -> u32 {
            MODULE.on_headers(context, $crate::Side::Request, end != 0)
        }
    };
    (@ request_body) => {
        #[unsafe(no_mangle)]
        extern "C" fn proxy_on_request_body(context: u32, size: usize, end: u32) -> u32 {
            MODULE.on_body(context, $crate::Side::Request, size, end != 0)
        }
    };
    (@ request_trailers) => {
        #[unsafe(no_mangle)]
        extern "C" fn proxy_on_request_trailers(context: u32, _: usize) -> u32 {
            MODULE.on_trailers(context, $crate::Side::Request)
        }
    };
    (@ response_headers) => {
        #[unsafe(no_mangle)]
        extern "C" fn proxy_on_response_headers(context: u32, _: usize, end: u32) -> u32 {
            MODULE.on_headers(context, $crate::Side::Response, end != 0)
        }
    };
    (@ response_body) => {
        #[unsafe(no_mangle)]
        extern "C" fn proxy_on_response_body(context: u32, size: usize, end: u32) -> u32 {
            MODULE.on_body(context, $crate::Side::Response, size, end != 0)
        }
    };
    (@ response_trailers) => {
        #[unsafe(no_mangle)]
        extern "C" fn proxy_on_response_trailers(context: u32, _: usize) -> u32 {
            MODULE.on_trailers(context, $crate::Side::Response)
        }
    };
    (@ log) => {
        #[unsafe(no_mangle)]
        extern "C" fn proxy_on_log(context: u32) {
            MODULE.on_log(context);
        }
    };
    (@ tick) => {
        #[unsafe(no_mangle)]
        extern "C" fn proxy_on_tick(root: u32) {
            MODULE.on_tick(root);
        }
    };
    (@ queue_ready) => {
        #[unsafe(no_mangle)]
        extern "C" fn proxy_on_queue_ready(root: u32, queue: u32) {
            MODULE.on_queue_ready(root, queue);
        }
    };
}
