//! JSON as Kafka's tools print it: no spaces, keys in the schema's order, bytes in base64.

use std::fmt::Write;

/// Writes one JSON text. Commas are put where they belong; balance is the caller's.
#[derive(Default)]
pub(crate) struct Json {
    out: String,
}

impl Json {
    pub(crate) fn new() -> Self {
        Json::default()
    }

    pub(crate) fn into_string(self) -> String {
        self.out
    }

    fn comma(&mut self) {
        if !matches!(self.out.as_bytes().last(), None | Some(b'{' | b'[' | b':')) {
            self.out.push(',');
        }
    }

    pub(crate) fn object(&mut self, fields: impl FnOnce(&mut Self)) {
        self.comma();
        self.out.push('{');
        fields(self);
        self.out.push('}');
    }

    pub(crate) fn array<T>(&mut self, elements: &[T], mut element: impl FnMut(&mut Self, &T)) {
        self.comma();
        self.out.push('[');
        for e in elements {
            element(self, e);
        }
        self.out.push(']');
    }

    /// The name of a field; its value comes next.
    pub(crate) fn key(&mut self, name: &str) -> &mut Self {
        self.string(name);
        self.out.push(':');
        self
    }

    pub(crate) fn number(&mut self, value: impl Into<i64>) {
        self.comma();
        let _ = write!(self.out, "{}", value.into());
    }

    pub(crate) fn null(&mut self) {
        self.comma();
        self.out.push_str("null");
    }

    /// Escapes what JSON demands and nothing else, as Jackson does by default.
    pub(crate) fn string(&mut self, text: &str) {
        self.comma();
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\u{8}' => self.out.push_str("\\b"),
                '\t' => self.out.push_str("\\t"),
                '\n' => self.out.push_str("\\n"),
                '\u{c}' => self.out.push_str("\\f"),
                '\r' => self.out.push_str("\\r"),
                '\0'..='\x1f' => {
                    let _ = write!(self.out, "\\u{:04X}", c as u32);
                }
                _ => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    pub(crate) fn nullable_string(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.string(text),
            None => self.null(),
        }
    }

    pub(crate) fn base64(&mut self, bytes: &[u8]) {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        self.comma();
        self.out.push('"');
        for three in bytes.chunks(3) {
            let bits =
                three.iter().fold(0u32, |bits, &b| bits << 8 | u32::from(b)) << (8 * (3 - three.len()));
            for digit in 0..4 {
                let shown = digit <= three.len();
                let value = (bits >> (18 - 6 * digit)) & 63;
                self.out.push(if shown { DIGITS[value as usize] as char } else { '=' });
            }
        }
        self.out.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Json)) -> String {
        let mut json = Json::new();
        write(&mut json);
        json.into_string()
    }

    #[test]
    fn commas_stand_between_and_nowhere_else() {
        let text = written(|j| {
            j.object(|j| {
                j.key("a").number(1);
                j.key("b").array(&["x,", "["], |j, s| j.string(s));
                j.key("c").object(|_| {});
                j.key("d").array(&[1, 2], |j, n| {
                    j.object(|j| {
                        j.key("n").number(*n);
                    });
                });
            });
        });
        assert_eq!(text, r#"{"a":1,"b":["x,","["],"c":{},"d":[{"n":1},{"n":2}]}"#);
    }

    #[test]
    fn strings_are_escaped_as_jackson_does() {
        assert_eq!(
            written(|j| j.string("\"\\/\t\n\r\u{8}\u{c}\u{1f}\u{7f}기")),
            "\"\\\"\\\\/\\t\\n\\r\\b\\f\\u001F\u{7f}기\""
        );
    }

    #[test]
    fn base64_pads() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(written(|j| j.base64(bytes.as_bytes())), format!("\"{text}\""));
        }
    }
}
