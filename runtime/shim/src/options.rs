//! Runtime options: what a runtime class, docker or `ctr --runtime-config-path` passes along with
//! a container.

use protobuf::CodedInputStream;
use protobuf::well_known_types::any::Any;

/// End of the type URL of containerd's generic options; the beginning changed over time.
const GENERIC: &str = "runtimeoptions.v1.Options";

/// `runtimeoptions.v1.Options`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// A configuration file instead of ours (`ConfigPath`).
    pub(crate) config_path: String,
    /// The configuration itself in TOML, from containerd 1.7 on; empty for none.
    pub(crate) config_body: Vec<u8>,
}

impl Options {
    /// Whether these are such options.
    pub(crate) fn are_in(any: &Any) -> bool {
        any.type_url.ends_with(GENERIC)
    }

    /// Reads the options of a Create request; options of another type are ignored, since a client
    /// may pass runc's whatever the runtime is.
    ///
    /// # Errors
    /// Says so when they cannot be decoded.
    pub(crate) fn from_any(any: Option<&Any>) -> Result<Self, String> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else {
            return Ok(Self::default());
        };
        if !Self::are_in(any) {
            tracing::warn!("runtime options of type {:?} are ignored", any.type_url);
            return Ok(Self::default());
        }
        Self::decode(&any.value)
            .map_err(|error| format!("the runtime options cannot be decoded: {error}"))
    }

    fn decode(bytes: &[u8]) -> Result<Self, protobuf::Error> {
        let mut options = Self::default();
        let mut input = CodedInputStream::from_bytes(bytes);
        // Field numbers of containerd's api/types/runtimeoptions/v1; 1 is a type URL for the body,
        // which is always TOML here.
        while let Some(tag) = input.read_raw_tag_or_eof()? {
            match tag {
                0x12 => options.config_path = input.read_string()?,
                0x1a => options.config_body = input.read_bytes()?,
                other => protobuf::rt::skip_field_for_tag(other, &mut input)?,
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
#[path = "options_test.rs"]
mod tests;
