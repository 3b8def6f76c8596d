//! How a command fails: what it says, and which exit code that is.

use std::fmt;
use std::io;
use std::process::ExitCode;

pub type Result<T, E = Fail> = std::result::Result<T, E>;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub enum Fail {
    /// The library's error; it says what to do.
    Girok(girok::Error),
    /// The command line asks for something that cannot be.
    Usage(String),
    /// Something was found wrong, and was said, or is said here.
    Found(String),
    /// A file or pipe of the command's own.
    Io {
        /// "reading orders.txt"
        doing: String,
        source: io::Error,
    },
    /// The other end of stdout is closed: no failure at all.
    NobodyReads,
}

impl Fail {
    pub fn usage(text: impl Into<String>) -> Self {
        Fail::Usage(text.into())
    }

    pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Fail::Io { doing: doing.into(), source }
    }

    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Fail::Usage(_) => 2,
            Fail::Girok(girok::Error::Engine(error)) => match error {
                girok_engine::Error::Invalid { .. } | girok_engine::Error::Unsupported { .. } => 2,
                girok_engine::Error::Locked { .. } => 3,
                _ => 1,
            },
            Fail::NobodyReads => 0,
            Fail::Girok(_) | Fail::Found(_) | Fail::Io { .. } => 1,
        })
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fail::Girok(error) => error.fmt(f),
            Fail::Usage(text) | Fail::Found(text) => f.write_str(text),
            Fail::Io { doing, source } => write!(f, "{doing}: {source}"),
            Fail::NobodyReads => f.write_str("nobody reads the output"),
        }
    }
}

impl From<girok::Error> for Fail {
    fn from(error: girok::Error) -> Self {
        Fail::Girok(error)
    }
}

impl From<girok_engine::Error> for Fail {
    fn from(error: girok_engine::Error) -> Self {
        Fail::Girok(error.into())
    }
}

impl From<girok::Reject> for Fail {
    fn from(reject: girok::Reject) -> Self {
        Fail::Girok(reject.into())
    }
}
