//! (first module lands soon)
