//! What the coordinator promises, one module per promise; `support` holds the naive things the promises are held
//! against.

mod golden;
mod support;
