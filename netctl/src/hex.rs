//! Frames, for people: what their headers say, and their bytes.

use serde_json::Value;

/// Bytes of a line.
const LINE: usize = 16;

/// A frame as agents give it: `length`, `layers` and `bytes`.
pub(crate) fn frame(frame: &Value) -> String {
    let mut text = format!("{} bytes:\n", frame["length"]);
    let layers: Vec<&Value> = frame["layers"].as_array().into_iter().flatten().collect();
    let name = |layer: &Value| layer["name"].as_str().unwrap_or("?").to_owned();
    let width = layers.iter().map(|layer| name(layer).len()).max();
    let width = width.unwrap_or(0);
    for layer in layers {
        let fields: Vec<String> = layer["fields"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{name} {}", value.as_str().unwrap_or("?")))
            .collect();
        let name = name(layer);
        text.push_str(&format!("  {name:<width$}  {}\n", fields.join(", ")));
    }
    text.push_str(&dump(&bytes(frame["bytes"].as_str().unwrap_or(""))));
    text
}

/// Offsets, hexadecimal digits and characters, as `hexdump -C` prints them.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (index, line) in bytes.chunks(LINE).enumerate() {
        let mut digits = String::new();
        let mut characters = String::new();
        for (place, byte) in line.iter().enumerate() {
            let gap = if place == LINE / 2 { " " } else { "" };
            digits.push_str(&format!("{gap}{byte:02x} "));
            characters.push(match byte {
                0x20..=0x7e => char::from(*byte),
                _ => '.',
            });
        }
        let offset = index * LINE;
        text.push_str(&format!("  {offset:04x}  {digits:<49} {characters}\n"));
    }
    text
}

fn bytes(digits: &str) -> Vec<u8> {
    digits
        .as_bytes()
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}
