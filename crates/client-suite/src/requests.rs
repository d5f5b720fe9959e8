//! Validates requests of clients. Pure.

use serde_json::Value;

/// The types of requests.
const TYPES: &[&str] =
    &["auth", "command", "configure", "history", "ping", "presence", "publish", "subscribe", "unsubscribe"];
/// The fields of a channel's element in `subscribe`.
const OPTIONS: &[&str] = &["channel", "last", "max_rate", "since", "snapshot"];
const ID_CHARS_MAX: usize = 64;

/// Reads a request.
///
/// # Errors
/// What was expected instead.
pub(crate) fn read(text: &str) -> Result<Value, String> {
    let body: Value = serde_json::from_str(text).map_err(|error| format!("a JSON object ({error})"))?;
    let kind = body["type"].as_str().unwrap_or_default();
    if !TYPES.contains(&kind) {
        return Err(format!("a request with a `type` of {}", TYPES.join(", ")));
    }
    let id = &body["id"];
    let fits = id.as_str().is_some_and(|text| (1..=ID_CHARS_MAX).contains(&text.chars().count()));
    if !fits && !id.is_i64() && !id.is_u64() {
        return Err(format!("an `id`: an integer, or text of at most {ID_CHARS_MAX} characters"));
    }
    if kind == "subscribe" {
        if let Some(name) = OPTIONS.iter().find(|name| !body[**name].is_null()) {
            return Err(format!("`{name}` in the element of a channel, not in the request"));
        }
        elements(&body)?;
    }
    Ok(body)
}

/// The elements of a `subscribe`, each as an object.
pub(crate) fn elements(body: &Value) -> Result<Vec<Value>, String> {
    let channels = body["channels"].as_array().ok_or("`channels`: an array of names and objects")?;
    channels.iter().map(element).collect()
}

fn element(element: &Value) -> Result<Value, String> {
    if element.is_string() {
        return Ok(serde_json::json!({ "channel": element }));
    }
    let fields = element.as_object().ok_or("elements of `channels` that are names or objects")?;
    if !element["channel"].is_string() {
        return Err("a `channel` in each element".into());
    }
    match fields.keys().find(|name| !OPTIONS.contains(&name.as_str())) {
        Some(name) => Err(format!("no `{name}` in an element of `channels`")),
        None => Ok(element.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_the_contract_are_valid() {
        let text = r#"{"type":"subscribe","id":1,"channels":["a",{"channel":"b","since":"7-1","max_rate":2}]}"#;
        let body = read(text).unwrap();
        let elements = elements(&body).unwrap();
        assert_eq!((&elements[0]["channel"], &elements[1]["since"]), (&"a".into(), &"7-1".into()));
        assert!(read(r#"{"type":"publish","id":"p-1","channel":"a","data":{}}"#).is_ok());
    }

    #[test]
    fn invalid_requests_are_reported_with_what_was_expected() {
        for (text, part) in [
            ("[]", "`type`"),
            ("{", "JSON"),
            (r#"{"type":"news","id":1}"#, "`type`"),
            (r#"{"type":"ping"}"#, "`id`"),
            (r#"{"type":"ping","id":1.5}"#, "`id`"),
            (r#"{"type":"subscribe","id":1}"#, "`channels`"),
            (r#"{"type":"subscribe","id":1,"channels":["a"],"since":"7-1"}"#, "`since`"),
            (r#"{"type":"subscribe","id":1,"channels":[7]}"#, "names or objects"),
            (r#"{"type":"subscribe","id":1,"channels":[{"since":"7-1"}]}"#, "`channel`"),
            (r#"{"type":"subscribe","id":1,"channels":[{"channel":"a","where":1}]}"#, "`where`"),
        ] {
            let expected = read(text).unwrap_err();
            assert!(expected.contains(part), "{text}: {expected}");
        }
    }
}
