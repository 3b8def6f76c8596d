//! The `girok` command.
fn main() {}
