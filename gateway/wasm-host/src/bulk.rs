//! Filling and copying much memory, in pieces between which the deadline is looked at.
//!
//! `memory.fill` and `memory.copy` are one instruction each, and nothing interrupts them: over 64 MiB that was not in use
//! before they take 60 ms. So a module calls two functions instead, which are added to it. They do at once what is short,
//! or outside the memory, where the instruction itself says so; the rest they do piece by piece, in loops, and loops are where
//! compiled code looks at the deadline.

use std::ops::Range;

use wasm_encoder::{BlockType, Function, InstructionSink};
use wasmparser::{FunctionBody, Operator};

use crate::module::ModuleError;

/// The longest piece, in bytes. Takes a millisecond where none of it was in use.
const PIECE: i32 = 1 << 20;

/// One of the two instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bulk {
    Fill,
    Copy,
}

/// How many functions are added.
pub(crate) const FUNCTIONS: u32 = 2;

/// The functions, which both take three numbers, in the order of their indices.
pub(crate) fn functions() -> [Function; FUNCTIONS as usize] {
    [Bulk::Fill, Bulk::Copy].map(Bulk::function)
}

/// A function as it is written anew: its instructions call the functions that begin at `first`. `None`: it has none of
/// them that could be long.
pub(crate) fn rewritten(wasm: &[u8], body: &FunctionBody<'_>, first: u32) -> Result<Option<Vec<u8>>, ModuleError> {
    let mut found: Vec<(Range<usize>, Bulk)> = Vec::new();
    let mut operators = body.get_operators_reader()?;
    let mut is_short = false;
    while !operators.eof() {
        let begin = operators.original_position();
        let operator = operators.read()?;
        let bulk = match operator {
            Operator::MemoryFill { .. } => Some(Bulk::Fill),
            Operator::MemoryCopy { .. } => Some(Bulk::Copy),
            _ => None,
        };
        if let Some(bulk) = bulk.filter(|_| !is_short) {
            found.push((begin..operators.original_position(), bulk));
        }
        // The length is what was put on the stack last.
        is_short = matches!(operator, Operator::I32Const { value } if (0..=PIECE).contains(&value));
    }
    if found.is_empty() {
        return Ok(None);
    }
    let (mut text, mut from) = (Vec::new(), body.range().start);
    for (range, bulk) in found {
        text.extend_from_slice(wasm.get(from..range.start).unwrap_or_default());
        InstructionSink::new(&mut text).call(first + bulk as u32);
        from = range.end;
    }
    text.extend_from_slice(wasm.get(from..body.range().end).unwrap_or_default());
    Ok(Some(text))
}

/// The parameters: where to, what or where from, how much.
const TO: u32 = 0;
const FROM: u32 = 1;
const LENGTH: u32 = 2;

impl Bulk {
    fn function(self) -> Function {
        let mut function = Function::new([]);
        let mut code = function.instructions();
        // Short?
        code.local_get(LENGTH).i32_const(PIECE).i32_le_u();
        // Outside of the memory?
        for start in self.starts() {
            code.local_get(*start).i64_extend_i32_u().local_get(LENGTH).i64_extend_i32_u().i64_add();
            code.memory_size(0).i64_extend_i32_u().i64_const(16).i64_shl().i64_gt_u().i32_or();
        }
        code.if_(BlockType::Empty).local_get(TO).local_get(FROM).local_get(LENGTH);
        self.instruction(&mut code).return_().end();
        match self {
            Self::Fill => self.forwards(&mut code),
            // What overlaps must not be written before it is read.
            Self::Copy => {
                code.local_get(TO).local_get(FROM).i32_le_u().if_(BlockType::Empty);
                self.forwards(&mut code);
                code.else_();
                self.backwards(&mut code);
                code.end();
            }
        }
        code.local_get(TO).local_get(FROM).local_get(LENGTH);
        self.instruction(&mut code).end();
        function
    }

    /// The parameters that are places in the memory.
    fn starts(self) -> &'static [u32] {
        match self {
            Self::Fill => &[TO],
            Self::Copy => &[TO, FROM],
        }
    }

    fn instruction<'a, 'b>(self, code: &'a mut InstructionSink<'b>) -> &'a mut InstructionSink<'b> {
        match self {
            Self::Fill => code.memory_fill(0),
            Self::Copy => code.memory_copy(0, 0),
        }
    }

    /// Pieces from the front, until a short one is left.
    fn forwards(self, code: &mut InstructionSink<'_>) {
        code.loop_(BlockType::Empty).local_get(TO).local_get(FROM).i32_const(PIECE);
        self.instruction(code);
        for start in self.starts() {
            code.local_get(*start).i32_const(PIECE).i32_add().local_set(*start);
        }
        code.local_get(LENGTH).i32_const(PIECE).i32_sub().local_tee(LENGTH);
        code.i32_const(PIECE).i32_gt_u().br_if(0).end();
    }

    /// Pieces from the end.
    fn backwards(self, code: &mut InstructionSink<'_>) {
        code.loop_(BlockType::Empty).local_get(LENGTH).i32_const(PIECE).i32_sub().local_set(LENGTH);
        for start in [TO, FROM] {
            code.local_get(start).local_get(LENGTH).i32_add();
        }
        code.i32_const(PIECE);
        self.instruction(code);
        code.local_get(LENGTH).i32_const(PIECE).i32_gt_u().br_if(0).end();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;
    use wasmtime::{Engine, Instance, Module, Store, TypedFunc};

    use crate::instrument::instrument;

    /// Both instructions, behind imported and other functions, with a length that is given and one that is constant.
    const TEXT: &str = r#"(module
        (import "env" "proxy_done" (func (result i32)))
        (type $pair (func (param i32 i32) (result i32)))
        (memory (export "memory") 80)
        (func $other (param i32) (result i32) (local i64 f32) (local.get 0))
        (func (export "fill") (param i32 i32 i32) (local i32)
            (memory.fill (call $other (local.get 0)) (local.get 1) (local.get 2)))
        (func (export "copy") (param i32 i32 i32)
            (block (loop (memory.copy (local.get 0) (local.get 1) (local.get 2)) (br 1))))
        (func (export "short") (param i32 i32 i32)
            (memory.fill (local.get 0) (local.get 1) (i32.const 100))))"#;

    struct Machine {
        store: Store<()>,
        instance: Instance,
    }

    impl Machine {
        fn new(wasm: &[u8]) -> Self {
            let engine = Engine::default();
            let module = Module::new(&engine, wasm).unwrap();
            let mut store = Store::new(&engine, ());
            let done = wasmtime::Func::wrap(&mut store, || 0);
            let instance = Instance::new(&mut store, &module, &[done.into()]).unwrap();
            Self { store, instance }
        }

        /// Whether it succeeded, and the memory.
        fn run(&mut self, name: &str, arguments: (u32, u32, u32)) -> (bool, &[u8]) {
            let function: TypedFunc<(u32, u32, u32), ()> = self.instance.get_typed_func(&mut self.store, name).unwrap();
            let done = function.call(&mut self.store, arguments).is_ok();
            let memory = self.instance.get_memory(&mut self.store, "memory").unwrap();
            (done, memory.data(&self.store))
        }
    }

    fn both() -> [Machine; 2] {
        let wasm = wat::parse_str(TEXT).unwrap();
        let (changed, _) = instrument(&wasm).unwrap();
        assert_ne!(changed, wasm);
        [Machine::new(&wasm), Machine::new(&changed)]
    }

    #[test]
    fn a_module_without_them_is_not_touched() {
        let text = TEXT.replace("memory.fill (call $other (local.get 0)) (local.get 1) (local.get 2)", "nop");
        let text = text.replace("memory.copy (local.get 0) (local.get 1) (local.get 2)", "nop");
        let wasm = wat::parse_str(text).unwrap();
        assert_eq!(instrument(&wasm).unwrap().0.len(), wasm.len(), "a constant length is short");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn pieces_do_what_the_whole_does(
            steps in prop::collection::vec(
                (0..3_usize, 0..0x51_0000_u32, 0..0x51_0000_u32, prop_oneof![0..100_u32, 0..0x51_0000_u32, Just(1 << 20), Just((1 << 20) + 1), Just(2 << 20)]),
                1..6,
            )
        ) {
            let [mut whole, mut pieces] = both();
            // So that it is seen what came from where.
            for machine in [&mut whole, &mut pieces] {
                let memory = machine.instance.get_memory(&mut machine.store, "memory").unwrap();
                let bytes = memory.data_mut(&mut machine.store);
                bytes.iter_mut().enumerate().for_each(|(n, byte)| *byte = (n ^ (n >> 8) ^ (n >> 16)) as u8);
            }
            for (name, to, from, length) in steps {
                let name = ["fill", "copy", "short"][name];
                let (expected, came) = (whole.run(name, (to, from, length)), pieces.run(name, (to, from, length)));
                prop_assert_eq!(expected.0, came.0, "{} {:#x} {:#x} {:#x}", name, to, from, length);
                prop_assert!(expected.1 == came.1, "{} {:#x} {:#x} {:#x}", name, to, from, length);
            }
        }
    }
}
