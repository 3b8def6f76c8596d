//! `girok checkpoint`: a copy that is whole.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::Global;
use crate::fail::Result;
use crate::out::Out;
use crate::progress::with_spinner;

/// Makes a directory that can be opened by itself: sealed segments are hard links, so it takes little time and room on the
/// same file system; the rest is copied. A running program makes its own with `Girok::checkpoint`.
#[derive(Args)]
pub struct Checkpoint {
    /// Where to; it must not exist, or be empty
    target: PathBuf,
}

impl Checkpoint {
    pub fn run(&self, global: &Global, out: &mut Out) -> Result<()> {
        let girok = global.open(false)?;
        with_spinner("copying", || girok.checkpoint(&self.target))?;
        girok.close()?;
        let target = self.target.display().to_string();
        if out.json {
            out.object(&json!({ "checkpoint": target }))
        } else {
            out.line(format!("made {target}"))
        }
    }
}
