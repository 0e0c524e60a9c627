//! How `start` is asked and how it must answer.
//!
//! Three generations of containerd run this program in the same way and read different answers:
//!
//! | containerd | standard input | `MAX_SHIM_VERSION` | answer |
//! |---|---|---|---|
//! | 1.6, CRI-O | runtime options or nothing | absent | the bare address |
//! | 1.7, 2.0 to 2.2 | runtime options or nothing | 2 | JSON, version 2 |
//! | 2.3 and later | `BootstrapParams` | 2 | `BootstrapResult`, version 3 |
//!
//! 1.6 takes JSON for an address, 1.7 refuses version 3, and 2.0 to 2.2 do not read protobuf.
//!
//! A pod of the sandbox service is version 3 in JSON as well: only 2.x has that service, and from
//! version 3 on asks the shim of a pod for its containers without running this program for each.

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde::Serialize;

use crate::options::Options;

/// Most bytes read from standard input. containerd's own limit for one ttrpc message, and far more
/// than options or parameters need.
pub(crate) const MAX_INPUT: u64 = 4 << 20;

/// containerd logs details when it passes this level or a lower one (`LOG_LEVEL_DEBUG`).
const DEBUG_LEVEL: i32 = -4;

/// The form in which `start` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// The address alone.
    Address,
    /// `{"version":2,"address":…,"protocol":"ttrpc"}`.
    Json,
    /// The same with version 3.
    SandboxJson,
    /// A `BootstrapResult` message of version 3.
    Bootstrap,
}

/// What `start` was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bootstrap {
    /// How to answer.
    pub(crate) dialect: Dialect,
    /// containerd's ttrpc socket, for events; empty when there is nobody to tell.
    pub(crate) ttrpc_address: String,
    /// Directory for our socket, when containerd prescribes one.
    pub(crate) socket_dir: Option<String>,
    /// Whether containerd asks for a detailed log.
    pub(crate) debug: bool,
    /// The runtime options, an `Any` on the wire.
    pub(crate) options: Option<Vec<u8>>,
}

/// Answer in JSON.
#[derive(Serialize)]
struct JsonAnswer<'a> {
    version: u32,
    address: &'a str,
    protocol: &'a str,
}

impl Bootstrap {
    /// Decides from what containerd wrote to standard input (`input`) and set in the environment
    /// (`MAX_SHIM_VERSION`, `TTRPC_ADDRESS`); `id` and `namespace` are those of the command line.
    ///
    /// Runtime options of the older generations are an `Any`, which also parses as
    /// `BootstrapParams`: its type URL in place of the id. Only parameters that name our own id and
    /// namespace are taken for such.
    pub(crate) fn recognise(
        input: &[u8],
        id: &str,
        namespace: &str,
        max_shim_version: Option<&str>,
        ttrpc_address: Option<&str>,
    ) -> Self {
        let from_environment = ttrpc_address.unwrap_or_default().to_owned();
        if let Some(params) = parameters(input, id, namespace) {
            let prescribed = params.containerd_ttrpc_address;
            return Self {
                dialect: Dialect::Bootstrap,
                ttrpc_address: if prescribed.is_empty() {
                    from_environment
                } else {
                    prescribed
                },
                socket_dir: params.socket_dir.filter(|dir| !dir.is_empty()),
                debug: params.log_level.value() <= DEBUG_LEVEL,
                options: params
                    .extensions
                    .into_iter()
                    .filter_map(|extension| extension.value.into_option())
                    .find(Options::are_in)
                    .and_then(|any| any.write_to_bytes().ok()),
            };
        }
        Self {
            dialect: if max_shim_version.is_some() {
                Dialect::Json
            } else {
                Dialect::Address
            },
            ttrpc_address: from_environment,
            socket_dir: None,
            debug: false,
            options: Any::parse_from_bytes(input)
                .is_ok_and(|any| Options::are_in(&any))
                .then(|| input.to_vec()),
        }
    }
}

impl Dialect {
    /// The form for a pod of the sandbox service.
    pub(crate) fn of_sandbox(self) -> Self {
        match self {
            Self::Json => Self::SandboxJson,
            other => other,
        }
    }

    /// The bytes to print for a shim that listens at `address`.
    ///
    /// # Errors
    /// Only when memory runs out while the answer is encoded.
    pub(crate) fn answer(self, address: &str) -> anyhow::Result<Vec<u8>> {
        Ok(match self {
            Self::Address => address.as_bytes().to_vec(),
            Self::Json | Self::SandboxJson => serde_json::to_vec(&JsonAnswer {
                version: if self == Self::Json { 2 } else { 3 },
                address,
                protocol: "ttrpc",
            })?,
            Self::Bootstrap => {
                let mut result = BootstrapResult::new();
                result.version = 3;
                address.clone_into(&mut result.address);
                "ttrpc".clone_into(&mut result.protocol);
                result.write_to_bytes()?
            }
        })
    }
}

fn parameters(input: &[u8], id: &str, namespace: &str) -> Option<BootstrapParams> {
    BootstrapParams::parse_from_bytes(input)
        .ok()
        .filter(|params| params.instance_id == id && params.namespace == namespace)
}

#[cfg(test)]
#[path = "dialect_test.rs"]
mod tests;
