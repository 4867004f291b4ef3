//! What goes wrong outside the engine, and how it is told.

use std::{error, fmt, io};

use serde::{Deserialize, Serialize, Serializer};
use ts_rs::TS;

/// The studio's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure, in the two parts in which a person reads it: what happened, and what to try.
///
/// Both texts are clauses in lower case without a full stop; the command line prints them as they are,
/// a window makes sentences of them.
pub struct Error {
    code: Code,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn error::Error + Send + Sync>>,
}

/// What a program can do about a failure, beyond showing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The person stopped it: not a failure.
    Cancelled,
    /// A file or folder is not there, or nothing has that name: choose another.
    MissingFile,
    /// An adapter is not for this base model: choose another of either.
    WrongBaseModel,
    /// A parameter has a value that cannot be used: correct this field.
    InvalidParams {
        /// The parameter, as the person knows it.
        field: &'static str,
    },
    /// Memory does not suffice: make it smaller.
    OutOfMemory,
    /// There is no trash for this file: ask whether it may be deleted for good.
    NoTrash,
    /// Anything else.
    Unknown,
}

impl Error {
    /// A failure; `message` says what was being done and what was found.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error { code, message: message.into(), hint: None, source: None }
    }

    /// Adds what to try.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Error {
        Error { hint: Some(hint.into()), ..self }
    }

    /// Keeps the failure that led to this one.
    #[must_use]
    pub fn because(self, source: impl Into<Box<dyn error::Error + Send + Sync>>) -> Error {
        Error { source: Some(source.into()), ..self }
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// What happened.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to try.
    #[must_use]
    pub fn suggestion(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// A failure as a window shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS)]
pub struct Failure {
    /// The kind of failure: `missing_file`, `invalid_params`, ….
    #[ts(as = "FailureCode")]
    pub code: String,
    /// The parameter that has to be corrected.
    pub field: Option<String>,
    /// What happened: a whole sentence.
    pub message: String,
    /// What to try: a whole sentence.
    pub hint: Option<String>,
}

/// What a window can do about a failure, beyond showing it.
#[derive(TS)]
#[ts(rename = "Code", rename_all = "snake_case")]
#[expect(dead_code, reason = "it only names the values for TypeScript")]
pub(crate) enum FailureCode {
    Cancelled,
    MissingFile,
    WrongBaseModel,
    InvalidParams,
    OutOfMemory,
    NoTrash,
    Unknown,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Failure {
        let (code, field) = match error.code {
            Code::Cancelled => ("cancelled", None),
            Code::MissingFile => ("missing_file", None),
            Code::WrongBaseModel => ("wrong_base_model", None),
            Code::InvalidParams { field } => ("invalid_params", Some(field.to_owned())),
            Code::OutOfMemory => ("out_of_memory", None),
            Code::NoTrash => ("no_trash", None),
            Code::Unknown => ("unknown", None),
        };
        Failure {
            code: code.to_owned(),
            field,
            message: sentence(&error.message),
            hint: error.hint.as_deref().map(sentence),
        }
    }
}

/// A failure crosses to the window as a [`Failure`].
impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Failure::from(self).serialize(serializer)
    }
}

/// A clause as a sentence: with a capital and a full stop.
pub(crate) fn sentence(clause: &str) -> String {
    let mut chars = clause.chars();
    let first = chars.next().into_iter().flat_map(char::to_uppercase);
    let mut sentence: String = first.chain(chars).collect();
    if !sentence.ends_with(['.', '?', '!']) {
        sentence.push('.');
    }
    sentence
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.message)?;
        self.hint.iter().try_for_each(|hint| write!(f, " (hint: {hint})"))
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<engine::Error> for Error {
    fn from(error: engine::Error) -> Error {
        let code = match &error {
            engine::Error::Cancelled => Code::Cancelled,
            engine::Error::WrongBaseModel { .. } => Code::WrongBaseModel,
            engine::Error::InvalidRequest { field, .. } => Code::InvalidParams { field },
            engine::Error::OutOfMemory { .. } => Code::OutOfMemory,
            engine::Error::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                Code::MissingFile
            }
            _ => Code::Unknown,
        };
        // The engine says in one text what happened and then, as a sentence, what to do.
        let text = error.to_string();
        let (message, hint) = split_advice(&text);
        Error {
            code,
            message: message.to_owned(),
            hint: hint.map(lower_first),
            source: Some(Box::new(error)),
        }
    }
}

/// The message comes from `fs_err`, which puts the operation, the path and the reason into it.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        let (code, hint) = match error.kind() {
            io::ErrorKind::NotFound => (Code::MissingFile, None),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                (Code::Unknown, Some("the disk is full: free some space, or choose another folder"))
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                (Code::Unknown, Some("choose a folder that you may write to"))
            }
            _ => (Code::Unknown, None),
        };
        let message = error.to_string();
        Error { code, message, hint: hint.map(str::to_owned), source: Some(Box::new(error)) }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Error {
        let message = format!("cannot use the database `studio.db`: {error}");
        let full = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
        let hint = full.then(|| "the disk is full: free some space".to_owned());
        Error { code: Code::Unknown, message, hint, source: Some(Box::new(error)) }
    }
}

/// Splits at the first end of a sentence that is not inside backticks, as a path may have one, too.
fn split_advice(text: &str) -> (&str, Option<&str>) {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        quoted ^= c == '`';
        if !quoted && text[at..].starts_with(". ") {
            return (&text[..at], Some(&text[at + 2..]));
        }
    }
    (text, None)
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().into_iter().flat_map(char::to_lowercase);
    first.chain(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_s_advice_becomes_the_hint() {
        let error = Error::from(engine::Error::Damaged {
            path: "Mr. Model. Final/x.safetensors".into(),
            problem: "it is only 3 bytes long".into(),
        });
        assert_eq!(
            error.message(),
            "cannot read `Mr. Model. Final/x.safetensors`: it is only 3 bytes long"
        );
        let hint = error.suggestion().expect("the engine's text has an advice");
        assert!(hint.starts_with("the file is damaged"), "{hint}");
    }

    #[test]
    fn a_window_reads_sentences() {
        let error = Error::new(Code::InvalidParams { field: "width" }, "`7` is no width")
            .hint("choose a multiple of 8");
        let json = serde_json::to_value(&error).expect("plain data");
        let expected = serde_json::json!({
            "code": "invalid_params", "field": "width", "message": "`7` is no width.",
            "hint": "Choose a multiple of 8."
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn wrong_values_name_their_field() {
        let error = Error::from(engine::Error::InvalidRequest {
            field: "width",
            found: "0".into(),
            rule: "it must be a multiple of 8".into(),
        });
        assert_eq!(error.code(), Code::InvalidParams { field: "width" });
        assert_eq!(error.suggestion(), None);
    }
}
