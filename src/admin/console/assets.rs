//! The style sheet, the script and the icon. Their paths have a digest of their content, so that browsers keep them
//! until they change.

use std::sync::LazyLock;

use actix_web::HttpResponse;
use actix_web::http::header::CACHE_CONTROL;
use ring::digest;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
const ICON: &str = include_str!("icon.svg");

/// The path of the icon.
pub const ICON_PATH: &str = "/assets/icon.svg";

static STYLE_PATH: LazyLock<String> = LazyLock::new(|| versioned("/assets/style.css", STYLE));
static SCRIPT_PATH: LazyLock<String> = LazyLock::new(|| versioned("/assets/script.js", SCRIPT));

fn versioned(path: &str, content: &str) -> String {
    let digest = digest::digest(&digest::SHA256, content.as_bytes());
    format!("{path}?v={}", hex::encode(&digest.as_ref()[..6]))
}

/// The path of the style sheet.
pub fn style_path() -> &'static str {
    &STYLE_PATH
}

pub fn script_path() -> &'static str {
    &SCRIPT_PATH
}

fn asset(content_type: &str, content: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(content_type)
        .insert_header((CACHE_CONTROL, "public, max-age=31536000, immutable"))
        .body(content)
}

/// Serves the style sheet, which browsers may keep.
pub async fn style() -> HttpResponse {
    asset("text/css; charset=utf-8", STYLE)
}

/// Serves the script, which browsers may keep.
pub async fn script() -> HttpResponse {
    asset("text/javascript; charset=utf-8", SCRIPT)
}

/// Serves the icon of the browser's tab.
pub async fn icon() -> HttpResponse {
    asset("image/svg+xml", ICON)
}
