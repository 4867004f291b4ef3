//! Trouble before there is a window: said in a box on the screen, and to the terminal.

use studio::{Code, Error, Failure, Result};

/// Refuses to go on where there is no screen; the toolkit would end the program without a word.
pub(crate) fn need_display() -> Result<()> {
    if has_display() {
        return Ok(());
    }
    let message =
        "there is no display to open a window on (neither DISPLAY nor WAYLAND_DISPLAY is set)";
    Err(Error::new(Code::Unknown, message)
        .hint("start it on a desktop, or make pictures with `impasto generate`"))
}

fn has_display() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    cfg!(not(target_os = "linux")) || set("DISPLAY") || set("WAYLAND_DISPLAY")
}

/// The toolkit's reasons for not opening a window.
pub(crate) fn no_window(error: tauri::Error) -> Error {
    Error::new(Code::Unknown, format!("cannot open the window: {error}")).because(error)
}

/// Tells the person why the program ends.
pub(crate) fn tell(error: &Error) {
    tracing::error!("{error}");
    let Failure { message, hint, .. } = Failure::from(error);
    let text = match hint {
        Some(hint) => format!("{message}\n{hint}"),
        None => message,
    };
    #[expect(clippy::print_stderr, reason = "a person may have started it from a terminal")]
    {
        eprintln!("{text}");
    }
    // Whoever drives the program has nobody to press the button.
    if has_display() && std::env::var_os("TAURI_WEBVIEW_AUTOMATION").is_none() {
        rfd::MessageDialog::new()
            .set_level(rfd::MessageLevel::Error)
            .set_title("Impasto cannot start")
            .set_description(text)
            .show();
    }
}
