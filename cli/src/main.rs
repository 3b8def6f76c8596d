//! The `girok` command: topics, producing and consuming, offsets, a look inside, repair, and the demo.
//!
//! Here are the words of the command line and what they end with; each command is a module of its own. What can be
//! seen from outside (`dump`, `verify`, `stats`, listing topics) works beside the process that has the directory open;
//! everything else opens the directory, which one process at a time can do.

mod checkpoint;
mod close;
mod consume;
mod demo;
mod dump;
mod fail;
mod format;
mod offsets;
mod out;
mod produce;
mod progress;
mod spec;
mod stats;
mod topics;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use girok::Girok;

use crate::fail::{Fail, Result};
use crate::out::Out;

/// A log with Kafka's semantics and Kafka's bytes, in one directory, without a broker.
#[derive(Parser)]
#[command(
    name = "girok",
    version,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Exit codes: 0 all is well; 1 it failed, or a problem was found; 2 the command line asks for something that cannot be;
3 another process holds the directory (its name is in the message).

`dump`, `verify`, `stats` and `topics list|describe` only look, and work beside the process that has the directory open."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Args)]
struct Global {
    /// The directory of topics [default: $GIROK_DIR, else ./girok-data]
    #[arg(long, value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
}

impl Global {
    fn dir(&self) -> PathBuf {
        let given = self.dir.clone();
        let from_env = || std::env::var_os("GIROK_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        given.or_else(from_env).unwrap_or_else(|| "girok-data".into())
    }

    /// Opens the directory; says on stderr what recovery had to do, if it cost anything.
    fn open(&self, create: bool) -> Result<Girok> {
        let girok = progress::with_spinner("opening", || Girok::builder().create(create).open(self.dir()))?;
        close::tell_losses(&girok);
        Ok(girok)
    }
}

#[derive(Subcommand)]
enum Command {
    /// List, create, describe, change and delete topics
    Topics(topics::Topics),
    /// Send lines of a file, or of what is piped in, as records
    Produce(produce::Produce),
    /// Print records
    Consume(consume::Consume),
    /// What groups have committed, and where topics begin and end
    Offsets(offsets::Offsets),
    /// Print batches and records of segment files, whoever wrote them
    Dump(dump::Dump),
    /// Check every checksum in a directory
    Verify(verify::Verify),
    /// Repair a directory after a crash, and close it so that Kafka's tools read it
    Close(close::Close),
    /// How many partitions, segments and bytes there are
    Stats(stats::Stats),
    /// Copy a directory as it is at one moment
    Checkpoint(checkpoint::Checkpoint),
    /// This machine's metrics, two readers, an outage and a SIGKILL; then everything is counted
    Demo(demo::Demo),
    #[command(hide = true)]
    DemoChild(demo::Child),
}

fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    let mut out = Out::new(global.json);
    let done = match &command {
        Command::Topics(topics) => topics.run(&global, &mut out),
        Command::Produce(produce) => produce.run(&global, &mut out),
        Command::Consume(consume) => consume.run(&global, &mut out),
        Command::Offsets(offsets) => offsets.run(&global, &mut out),
        Command::Dump(dump) => dump.run(&global, &mut out),
        Command::Verify(verify) => verify.run(&global, &mut out),
        Command::Close(close) => close.run(&global, &mut out),
        Command::Stats(stats) => stats.run(&global, &mut out),
        Command::Checkpoint(checkpoint) => checkpoint.run(&global, &mut out),
        Command::Demo(demo) => demo.run(&global, &mut out),
        Command::DemoChild(child) => child.run(),
    };
    match done.and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has read enough.
        Err(Fail::NobodyReads) => ExitCode::SUCCESS,
        Err(fail) => {
            let _ = out.flush();
            eprintln!("girok: {fail}");
            fail.code()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
