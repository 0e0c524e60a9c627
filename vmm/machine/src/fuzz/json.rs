//! Messages that are nearly what a protocol says.

use serde_json::{Map, Value};

use super::Random;

/// Changes one thing somewhere in `value`.
pub(super) fn damage(random: &mut Random, value: &mut Value) {
    match value {
        Value::Object(map) if !map.is_empty() && !random.one_in(4) => {
            let which = random.index(map.len());
            if let Some((_, inner)) = map.iter_mut().nth(which) {
                damage(random, inner);
            }
        }
        Value::Array(list) if !list.is_empty() && !random.one_in(4) => {
            let which = random.index(list.len());
            damage(random, &mut list[which]);
        }
        Value::Object(map) => match random.below(3) {
            0 => drop(map.insert("surplus".into(), any(random, 2))),
            1 => {
                let which = random.index(map.len().max(1));
                if let Some(key) = map.keys().nth(which).cloned() {
                    map.remove(&key);
                }
            }
            _ => *value = any(random, 3),
        },
        Value::Array(list) => match list.first().cloned() {
            Some(first) if random.one_in(2) => list.resize(random.index(200), first),
            _ => *value = any(random, 3),
        },
        _ => *value = any(random, 3),
    }
}

/// Any value, at most `depth` deep.
pub(super) fn any(random: &mut Random, depth: u32) -> Value {
    match random.below(if depth == 0 { 6 } else { 8 }) {
        0 => Value::Null,
        1 => random.one_in(2).into(),
        2 => random.number().into(),
        3 => (random.next() as i64).into(),
        4 => (random.next() as f64 / 3.0).into(),
        5 => text(random).into(),
        6 => {
            let length = random.index(4);
            Value::Array((0..length).map(|_| any(random, depth - 1)).collect())
        }
        _ => {
            let length = random.index(4);
            let entries = (0..length).map(|_| (text(random), any(random, depth - 1)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
    }
}

fn text(random: &mut Random) -> String {
    let length = random.pick(&[0, 1, 5, 36, 300]);
    let bytes = random.bytes(length);
    match random.below(3) {
        0 => "a".repeat(length),
        1 => bytes.iter().map(|byte| char::from(byte % 128)).collect(),
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

/// The text of `value`, perhaps cut off or with some bytes changed.
pub(super) fn encode(random: &mut Random, value: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).unwrap();
    match random.below(12) {
        0 => bytes.truncate(random.index(bytes.len() + 1)),
        1 => {
            for _ in 0..=random.below(3) {
                let position = random.index(bytes.len());
                bytes[position] = random.next() as u8;
            }
        }
        // Deeper than any parser should follow.
        2 if random.one_in(8) => bytes = b"[".repeat(60_000),
        3 if random.one_in(8) => bytes = random.bytes(1000),
        _ => {}
    }
    bytes
}
