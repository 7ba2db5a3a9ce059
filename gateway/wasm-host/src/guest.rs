//! The plugin's linear memory, seen from host functions: every pointer is checked, nothing is
//! allocated from a length that was not.

use wasmtime::{Caller, Extern, Memory, format_err};

use crate::abi::Status;
use crate::state::State;
use crate::trap::OutOfMemory;

/// A host function's view of the instance that called it.
pub(crate) type Call<'a> = Caller<'a, State>;

/// What a host function ends with.
pub(crate) type HostResult = Result<(), Stop>;

/// Bytes that the plugin passes: address and length.
#[derive(Clone, Copy)]
pub(crate) struct Span(pub(crate) u32, pub(crate) u32);

/// Where a host function writes the address and the length of the bytes it returns.
#[derive(Clone, Copy)]
pub(crate) struct Out(pub(crate) u32, pub(crate) u32);

/// Why a host function did not succeed.
pub(crate) enum Stop {
    /// Tell the plugin.
    Status(Status),
    /// End the callback.
    Trap(wasmtime::Error),
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// The plugin's memory and the instance's data, side by side.
pub(crate) fn view<'a>(call: &'a mut Call<'_>) -> Result<(&'a mut [u8], &'a mut State), Stop> {
    let memory = memory(call)?;
    Ok(memory.data_and_store_mut(call))
}

fn memory(call: &mut Call<'_>) -> Result<Memory, Stop> {
    if let Some(memory) = call.data().memory {
        return Ok(memory);
    }
    // Only before instantiation is finished, in the module's start function.
    match call.get_export("memory") {
        Some(Extern::Memory(memory)) => {
            call.data_mut().memory = Some(memory);
            Ok(memory)
        }
        _ => Err(Stop::Trap(format_err!("the module exports no memory"))),
    }
}

/// The bytes the plugin points at. No bytes may be anywhere: SDKs pass dangling pointers for them.
pub(crate) fn slice(memory: &[u8], Span(pointer, length): Span) -> Result<&[u8], Status> {
    if length == 0 {
        return Ok(&[]);
    }
    let start = pointer as usize;
    memory.get(start..start.saturating_add(length as usize)).ok_or(Status::InvalidMemoryAccess)
}

/// As [`slice`], to write into; no bytes must be within the memory too.
pub(crate) fn slice_mut(memory: &mut [u8], Span(pointer, length): Span) -> Result<&mut [u8], Status> {
    let start = pointer as usize;
    memory.get_mut(start..start.saturating_add(length as usize)).ok_or(Status::InvalidMemoryAccess)
}

/// Writes a `u32` for the plugin.
pub(crate) fn put_u32(memory: &mut [u8], pointer: u32, value: u32) -> Result<(), Status> {
    slice_mut(memory, Span(pointer, 4))?.copy_from_slice(&value.to_le_bytes());
    Ok(())
}

/// Writes a `u64` for the plugin.
pub(crate) fn put_u64(memory: &mut [u8], pointer: u32, value: u64) -> Result<(), Status> {
    slice_mut(memory, Span(pointer, 8))?.copy_from_slice(&value.to_le_bytes());
    Ok(())
}

/// The global in which a module says where short answers of host functions may be put; it has moved each before it calls
/// the host again. That spares a call of its allocator, which costs as much as the rest of a small host function. Other
/// hosts do not know it and call the allocator.
pub(crate) const SMALL_ANSWERS: &str = "gateway_small_answers";

/// Bytes that there is room for.
pub(crate) const SMALL_ANSWER: usize = 256;

/// Returns bytes to the plugin.
pub(crate) fn give(call: &mut Call<'_>, out: Out, bytes: &[u8]) -> HostResult {
    give_with(call, out, bytes.len(), |_, place| place.copy_from_slice(bytes))
}

/// Returns bytes where the plugin wants short answers. `false`: these are not, or it has not said where.
pub(crate) fn give_small(memory: &mut [u8], place: Option<u32>, out: Out, bytes: &[u8]) -> Result<bool, Status> {
    let Some(place) = place.filter(|_| bytes.len() <= SMALL_ANSWER) else { return Ok(false) };
    // No longer than what is checked above.
    let size = bytes.len() as u32;
    put_u32(memory, out.0, if size == 0 { 0 } else { place })?;
    put_u32(memory, out.1, size)?;
    slice_mut(memory, Span(place, size))?.copy_from_slice(bytes);
    Ok(true)
}

/// Returns `length` bytes to the plugin, which `fill` writes straight into its memory.
///
/// The allocator is called only for a length above 0 and with the exact length, because some
/// allocators abort on 0 and some free with the length they are told.
pub(crate) fn give_with(
    call: &mut Call<'_>,
    out: Out,
    length: usize,
    fill: impl FnOnce(&State, &mut [u8]),
) -> HostResult {
    let (memory, _) = view(call)?;
    // Checked first, so that a bad pointer does not cost the plugin memory.
    put_u32(memory, out.0, 0)?;
    put_u32(memory, out.1, 0)?;
    if length == 0 {
        return Ok(());
    }
    let size = u32::try_from(length).map_err(|_| Status::InternalFailure)?;
    let address = match call.data().small_answers {
        Some(place) if length <= SMALL_ANSWER => place,
        _ => allocate(call, size)?,
    };
    let (memory, state) = view(call)?;
    let place = slice_mut(memory, Span(address, size)).map_err(|_| {
        Stop::Trap(format_err!("the plugin's allocator returned {address:#x}, which is outside its memory"))
    })?;
    fill(state, place);
    put_u32(memory, out.0, address)?;
    put_u32(memory, out.1, size)?;
    Ok(())
}

fn allocate(call: &mut Call<'_>, size: u32) -> Result<u32, Stop> {
    let Some(allocator) = call.data_mut().allocator.take() else {
        return Err(Stop::Trap(format_err!("a host function that returns bytes was called too early")));
    };
    call.data_mut().allocating = true;
    let address = allocator.call(&mut *call, size);
    let state = call.data_mut();
    state.allocating = false;
    state.allocator = Some(allocator);
    match address {
        Ok(0) => Err(Stop::Trap(OutOfMemory(size as usize).into())),
        Ok(address) => Ok(address),
        Err(error) => Err(Stop::Trap(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_checked_against_the_memory() {
        let mut memory = [0u8; 16];
        assert_eq!(slice(&memory, Span(12, 4)).map(<[u8]>::len), Ok(4));
        assert_eq!(slice(&memory, Span(13, 4)), Err(Status::InvalidMemoryAccess));
        assert_eq!(slice(&memory, Span(u32::MAX, u32::MAX)), Err(Status::InvalidMemoryAccess));
        assert_eq!(slice(&memory, Span(u32::MAX, 0)), Ok(&[][..]), "nothing is nowhere");
        assert_eq!(put_u32(&mut memory, 13, 1), Err(Status::InvalidMemoryAccess));
        assert_eq!(put_u64(&mut memory, 8, u64::MAX), Ok(()));
        assert_eq!(put_u64(&mut memory, u32::MAX - 3, 1), Err(Status::InvalidMemoryAccess));
        assert_eq!(memory[8..], [0xff; 8]);
    }
}
