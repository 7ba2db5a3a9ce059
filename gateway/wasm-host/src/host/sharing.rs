//! Shared data and shared queues.
//!
//! At a limit the answer is the one refusal of each function that SDKs survive: `CAS_MISMATCH` for
//! data, `NOT_FOUND` for an item. Registering a queue has none, so that is `INTERNAL_FAILURE`.

use crate::abi::Status;
use crate::guest::{Call, HostResult, Out, Span, give, put_u32, slice, view};
use crate::shared::{EnqueueError, Quota, SetError};

/// Missing: `NOT_FOUND`.
pub(super) fn get(call: &mut Call<'_>, key: Span, out: Out, cas_out: u32) -> HostResult {
    let (memory, state) = view(call)?;
    let (value, cas) = state.plugin.data.get(slice(memory, key)?).ok_or(Status::NotFound)?;
    put_u32(memory, cas_out, cas)?;
    give(call, out, &value)
}

/// Changed meanwhile, or at a limit: `CAS_MISMATCH`.
pub(super) fn set(call: &mut Call<'_>, key: Span, value: Span, cas: u32) -> HostResult {
    let (memory, state) = view(call)?;
    let (key, value) = (slice(memory, key)?, slice(memory, value)?);
    let (keys, bytes) = (state.limits().shared_data_keys, state.limits().shared_data_bytes);
    match state.plugin.data.set(key, value, cas, keys, bytes) {
        Ok(()) => Ok(()),
        Err(SetError::Mismatch) => Err(Status::CasMismatch.into()),
        Err(SetError::Full) => {
            state.refuse(Quota::SharedData);
            Err(Status::CasMismatch.into())
        }
    }
}

/// The queue of this name, made if there is none.
pub(super) fn register(call: &mut Call<'_>, name: Span, out: u32) -> HostResult {
    let (memory, state) = view(call)?;
    let plugin = state.plugin.clone();
    let queue = plugin.shared.queues().register(&plugin.settings.vm_id, slice(memory, name)?, state.limits().queues);
    let Some(queue) = queue else {
        state.refuse(Quota::Queues);
        return Err(Status::InternalFailure.into());
    };
    put_u32(memory, out, queue.id)?;
    queue.listen(&state.inbox);
    plugin.data.keep(queue);
    Ok(())
}

/// The queue of another (or, with an empty `vm_id`, the plugin's own) VM. Missing: `NOT_FOUND`.
pub(super) fn resolve(call: &mut Call<'_>, vm_id: Span, name: Span, out: u32) -> HostResult {
    let (memory, state) = view(call)?;
    let plugin = &state.plugin;
    let vm_id = match slice(memory, vm_id)? {
        [] => &plugin.settings.vm_id,
        vm_id => std::str::from_utf8(vm_id).map_err(|_| Status::NotFound)?,
    };
    let queue = plugin.shared.queues().resolve(vm_id, slice(memory, name)?).ok_or(Status::NotFound)?;
    Ok(put_u32(memory, out, queue.id)?)
}

/// Unknown or full: `NOT_FOUND`.
pub(super) fn enqueue(call: &mut Call<'_>, id: u32, item: Span) -> HostResult {
    let (memory, state) = view(call)?;
    let item = slice(memory, item)?;
    let queue = state.plugin.shared.queues().get(id).ok_or(Status::NotFound)?;
    let (items, bytes) = (state.limits().queue_items, state.limits().queue_bytes);
    queue.enqueue(item, items, bytes).map_err(|EnqueueError| {
        state.refuse(Quota::Queues);
        Status::NotFound.into()
    })
}

/// Empty: `EMPTY`. Unknown: `NOT_FOUND`.
pub(super) fn dequeue(call: &mut Call<'_>, id: u32, out: Out) -> HostResult {
    let queue = call.data().plugin.shared.queues().get(id).ok_or(Status::NotFound)?;
    let item = queue.dequeue().ok_or(Status::Empty)?;
    give(call, out, &item)
}
