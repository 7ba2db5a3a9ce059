//! The control side of configuration, a one-way street:
//! source → store (last good per resource) → validate → compile → snapshot → published to the workers.

pub mod problem;
