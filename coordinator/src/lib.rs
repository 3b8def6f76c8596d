//! Under construction.
pub mod records;
