//! The protocol for everything that is seen: `impasto://localhost/KIND/ID?rev=N`.
//!
//! The studio knows what the addresses mean. The revision only makes a new picture a new address.

use std::sync::Arc;

use percent_encoding::percent_decode_str;
use studio::{Code, Pixels, Studio};
use tauri::{
    UriSchemeResponder,
    http::{Request, Response, StatusCode, header},
};

use crate::frame;

/// The protocol's name.
pub(crate) const SCHEME: &str = "impasto";

/// A year: as long as a webview keeps anything.
const LASTING: &str = "private, max-age=31536000, immutable";

/// Answers on a thread for slow work: reading and scaling pictures takes a while.
pub(crate) fn answer(
    studio: Arc<Studio>,
    request: &Request<Vec<u8>>,
    responder: UriSchemeResponder,
) {
    let path = percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned();
    let origin = own_origin(request);
    tauri::async_runtime::spawn_blocking(move || {
        responder.respond(response(studio.pixels(&path), origin.as_deref()));
    });
}

/// Who asks, if that is our own page.
fn own_origin(request: &Request<Vec<u8>>) -> Option<String> {
    let origin = request.headers().get(header::ORIGIN)?.to_str().ok()?;
    frame::is_ours(&origin.parse().ok()?).then(|| origin.to_owned())
}

fn response(pixels: studio::Result<Pixels>, origin: Option<&str>) -> Response<Vec<u8>> {
    let mut response = Response::builder().header("x-content-type-options", "nosniff");
    if let Some(origin) = origin {
        response = response.header(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    let response = match pixels {
        Ok(Pixels { bytes, mime, lasting }) => response
            .header(header::CONTENT_TYPE, mime)
            .header(header::CACHE_CONTROL, if lasting { LASTING } else { "no-store" })
            .body(bytes),
        Err(error) => {
            let status = match error.code() {
                Code::MissingFile => StatusCode::NOT_FOUND,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            response
                .status(status)
                .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
                .header(header::CACHE_CONTROL, "no-store")
                .body(error.to_string().into_bytes())
        }
    };
    response.expect("every header above is valid")
}

#[cfg(test)]
mod tests {
    use studio::Error;

    use super::*;

    fn asked_by(origin: &str) -> Option<String> {
        own_origin(&Request::builder().header(header::ORIGIN, origin).body(Vec::new()).unwrap())
    }

    #[test]
    fn only_our_own_page_may_read_pixels() {
        assert_eq!(asked_by("tauri://localhost").as_deref(), Some("tauri://localhost"));
        for other in ["https://example.org", "tauri://elsewhere", "null", "file:///"] {
            assert_eq!(asked_by(other), None, "{other}");
        }
    }

    #[test]
    fn what_may_change_is_not_kept() {
        let pixels = |lasting| Ok(Pixels { bytes: vec![1], mime: "image/png", lasting });
        let lasting = response(pixels(true), Some("tauri://localhost"));
        assert_eq!(lasting.headers()[header::CACHE_CONTROL], LASTING);
        assert_eq!(lasting.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "tauri://localhost");
        assert_eq!(response(pixels(false), None).headers()[header::CACHE_CONTROL], "no-store");
    }

    #[test]
    fn a_picture_that_is_gone_is_said_in_words() {
        let gone =
            response(Err(Error::new(Code::MissingFile, "there is no picture `thumb/7`")), None);
        assert_eq!(gone.status(), StatusCode::NOT_FOUND);
        assert_eq!(gone.body(), b"there is no picture `thumb/7`");
        assert_eq!(gone.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN), None);
    }
}
