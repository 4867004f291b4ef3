//! Says on the desktop that a picture is done, if nobody looks at the window.

use std::sync::mpsc;

use studio::{
    Failure, Studio,
    event::Event,
    queue::{Job, JobState},
};
use tauri::{AppHandle, Manager};

use crate::frame;

/// A message for the desktop.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    title: &'static str,
    text: String,
}

/// Listens for jobs that end, and for a second start that wants the window in front.
pub(crate) fn listen(app: &AppHandle, studio: &Studio) {
    let (sender, receiver) = mpsc::channel();
    let mut wanted = studio.settings().notify;
    let front = app.clone();
    studio.listen(move |event| {
        match event {
            Event::Settings(settings) => wanted = settings.notify,
            Event::Files(_) => frame::to_front(&front),
            Event::Job(job) if wanted => {
                if let Some(message) = message(job) {
                    return sender.send(message).is_ok();
                }
            }
            _ => {}
        }
        true
    });

    // Asking the desktop takes time, and what listens must not.
    let app = app.clone();
    let work = move || {
        let mut shown = None;
        for message in receiver {
            if !in_front(&app) {
                shown = show(&message, shown);
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("notifications".into()).spawn(work) {
        tracing::warn!("nothing will be said on the desktop: {error}");
    }
}

fn in_front(app: &AppHandle) -> bool {
    let window = app.get_webview_window(frame::LABEL);
    window.is_none_or(|window| window.is_focused().unwrap_or(true))
}

fn message(job: &Job) -> Option<Message> {
    match job.state {
        JobState::Done => {
            let text = job.params.prompt.trim().to_owned();
            Some(Message { title: "The picture is done", text })
        }
        JobState::Failed => {
            let reason = |Failure { message, .. }| message;
            let text = job.error.clone().map(reason).unwrap_or_default();
            Some(Message { title: "A picture failed", text })
        }
        _ => None,
    }
}

/// Shows a message in place of the one before, so that a long queue does not fill the screen.
fn show(message: &Message, before: Option<u32>) -> Option<u32> {
    let mut notification = notify_rust::Notification::new();
    notification
        .appname("Impasto")
        .icon("impasto-studio")
        .summary(message.title)
        .body(&escaped(&message.text));
    if let Some(before) = before {
        notification.id(before);
    }
    match notification.show() {
        #[cfg(target_os = "linux")]
        Ok(shown) => Some(shown.id()),
        #[cfg(not(target_os = "linux"))]
        Ok(_) => None,
        Err(error) => {
            tracing::info!("the desktop takes no notifications: {error}");
            before
        }
    }
}

/// Desktops read marks in the text; a prompt may have some.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use studio::{Code, Error, GenerationParams};

    use super::*;

    fn job(state: JobState) -> Job {
        let params = GenerationParams { prompt: " a <fox> ".into(), ..GenerationParams::default() };
        let error = Error::new(Code::OutOfMemory, "memory does not suffice");
        let error = (state == JobState::Failed).then(|| Failure::from(&error));
        Job { id: 1, state, params, image: None, error, created_at: 0, sheet: None }
    }

    #[test]
    fn only_jobs_that_ended_by_themselves_are_told() {
        assert_eq!(message(&job(JobState::Done)).unwrap().text, "a <fox>");
        let failed = message(&job(JobState::Failed)).unwrap();
        assert_eq!(failed.text, "Memory does not suffice.");
        for state in [JobState::Queued, JobState::Running, JobState::Cancelled] {
            assert_eq!(message(&job(state)), None);
        }
    }

    #[test]
    fn a_prompt_is_no_markup() {
        assert_eq!(escaped("<b>&"), "&lt;b&gt;&amp;");
    }
}
