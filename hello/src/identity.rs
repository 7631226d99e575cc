//! Who answers, and what clients are told.

use std::net::SocketAddr;

/// Who answers.
pub(crate) struct Identity {
    pub(crate) pod: String,
    pub(crate) node: String,
}

impl Identity {
    /// The answer to `client`: who gave it, whom it saw, and one field more.
    pub(crate) fn answer(&self, client: SocketAddr, (field, value): (&str, &str)) -> String {
        format!(
            "{{\"pod\":{},\"node\":{},\"client\":\"{}\",\"{field}\":{}}}\n",
            json_string(&self.pod),
            json_string(&self.node),
            plain(client),
            json_string(value),
        )
    }
}

/// An IPv4 address of a dual-stack socket as itself, not as ::ffff:a.b.c.d.
pub(crate) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// `text` as a JSON string, quotes included.
fn json_string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            control if control < ' ' => quoted.push_str(&format!("\\u{:04x}", control as u32)),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_quotes_are_escaped_in_json() {
        assert_eq!(json_string("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    }

    #[test]
    fn ipv4_client_of_a_dual_stack_socket_is_shown_as_itself() {
        let identity = Identity {
            pod: "a".into(),
            node: "b".into(),
        };
        let client = "[::ffff:192.0.2.7]:5555".parse().unwrap();
        assert_eq!(
            identity.answer(client, ("said", "7")),
            "{\"pod\":\"a\",\"node\":\"b\",\"client\":\"192.0.2.7:5555\",\"said\":\"7\"}\n"
        );
    }
}
