//! What the coordinator promises, one module per promise; `support` holds the small world the promises are held in.

mod expiry;
mod golden;
mod model;
mod over_a_log;
mod receipts;
mod replay;
mod rules;
mod state_file;
mod support;
mod waiting;
