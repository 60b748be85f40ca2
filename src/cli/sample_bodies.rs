//! Sample bodies for `hooktrail send` without a file: one for each scheme, in the sender's format, with a
//! new id each time.

/// Returns a sample body for a scheme. `id` makes it differ from earlier ones, so it is no duplicate.
pub fn body(scheme: &str, id: &str) -> String {
    match scheme {
        "paminga" => format!(
            r#"{{"contact_id":"1","form_id":"test","form_completion_id":"{id}","submission_time":"2026-11-23T10:00:00+00:00","submission_values":{{"first_name":["Ada"],"last_name":["Lovelace"],"email_address":["ada@example.com"]}}}}"#
        ),
        "github" => format!(r#"{{"zen":"Keep it logically awesome.","hook_id":1,"test":"{id}"}}"#),
        "gitlab" => format!(r#"{{"object_kind":"push","checkout_sha":"{id}"}}"#),
        "stripe" => format!(
            r#"{{"id":"evt_{id}","object":"event","type":"customer.created","data":{{"object":{{}}}}}}"#
        ),
        "slack" => format!(
            r#"{{"type":"event_callback","event_id":"Ev{id}","event":{{"type":"app_mention","text":"test"}}}}"#
        ),
        "twilio" => format!("MessageSid=SM{id}&From=%2B15005550006&Body=test"),
        "sendgrid" => format!(r#"[{{"event":"delivered","sg_event_id":"{id}"}}]"#),
        "mailgun" => format!(r#"{{"event-data":{{"event":"delivered","id":"{id}"}}}}"#),
        "mailchimp" => {
            format!("type=subscribe&data%5Bid%5D={id}&data%5Bemail%5D=ada%40example.com")
        }
        "mandrill" => {
            format!("mandrill_events=%5B%7B%22event%22%3A%22send%22%2C%22_id%22%3A%22{id}%22%7D%5D")
        }
        "meta" => format!(r#"{{"object":"page","entry":[{{"id":"{id}","changes":[]}}]}}"#),
        "zoom" => format!(
            r#"{{"event":"meeting.started","payload":{{"object":{{"uuid":"{id}","topic":"test"}}}}}}"#
        ),
        "paddle" => {
            format!(r#"{{"event_id":"evt_{id}","event_type":"customer.created","data":{{}}}}"#)
        }
        "square" => {
            format!(r#"{{"event_id":"{id}","type":"customer.created","data":{{}}}}"#)
        }
        "hubspot" => format!(
            r#"[{{"eventId":1,"subscriptionType":"contact.creation","objectId":1,"test":"{id}"}}]"#
        ),
        "linear" => {
            format!(r#"{{"action":"create","type":"Issue","data":{{"id":"{id}","title":"test"}}}}"#)
        }
        "bitbucket" => format!(r#"{{"push":{{"changes":[]}},"test":"{id}"}}"#),
        "dropbox" => format!(r#"{{"list_folder":{{"accounts":["{id}"]}}}}"#),
        "shopify" => format!(r#"{{"id":1,"name":"test","note":"{id}"}}"#),
        "trello" => {
            format!(r#"{{"action":{{"id":"{id}","type":"updateCard"}},"webhook":{{"id":"test"}}}}"#)
        }
        "microsoft-graph" => format!(
            r#"{{"value":[{{"subscriptionId":"test","changeType":"updated","resource":"{id}"}}]}}"#
        ),
        _ => format!(r#"{{"id":"{id}","type":"test"}}"#),
    }
}

/// Whether the sender of a scheme posts forms.
pub fn is_form(scheme: &str) -> bool {
    matches!(scheme, "slack" | "twilio" | "mailgun" | "mailchimp" | "mandrill")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SCHEMES;
    use crate::json;

    #[test]
    fn each_body_is_json_or_a_form_and_has_its_id() {
        for scheme in SCHEMES {
            let body = body(scheme.name, "7f3c");
            assert!(body.contains("7f3c"), "{}", scheme.name);
            assert!(json::validate(body.as_bytes()).is_ok() || is_form(scheme.name), "{body}");
        }
    }
}
