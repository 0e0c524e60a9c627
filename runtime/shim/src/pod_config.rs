//! `PodSandboxConfig` of the Kubernetes CRI, as far as a virtual machine has a use for it.
//!
//! containerd's sandbox service hands it over in place of an OCI configuration. The rest of it
//! (labels, ports, the log directory) is containerd's own business.

use std::collections::HashMap;

use caisson_sandbox::ContainerLimits;
use protobuf::CodedInputStream;
use protobuf::rt::skip_field_for_tag;
use protobuf::well_known_types::any::Any;

/// End of the type URL; containerd registers the type without a domain.
const TYPE: &str = "runtime.v1.PodSandboxConfig";

/// Wire types of protobuf, the lowest three bits of a tag.
const VARINT: u32 = 0;
const BYTES: u32 = 2;

/// `NamespaceMode.NODE`: the host's.
const NODE: i32 = 2;
/// `NamespaceMode.POD`.
const POD: i32 = 0;

/// The configuration of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PodConfig {
    /// Host name; empty for that of the host.
    pub(crate) hostname: String,
    /// What goes into resolv.conf; without, it is the host's.
    pub(crate) dns: Option<Dns>,
    /// Annotations of the pod.
    pub(crate) annotations: HashMap<String, String>,
    /// Control group of the host below which the pod's is to be; empty for none.
    pub(crate) cgroup_parent: String,
    /// Kernel parameters.
    pub(crate) sysctls: HashMap<String, String>,
    /// Namespaces of the host that the pod is to use.
    pub(crate) host: HostNamespaces,
    /// The limits of all containers together.
    pub(crate) limits: ContainerLimits,
}

/// Name servers, search domains and options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dns {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// What of the host a pod is to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent fields of the message"
)]
pub(crate) struct HostNamespaces {
    /// Its network.
    pub(crate) network: bool,
    /// Its processes.
    pub(crate) pid: bool,
    /// Its IPC.
    pub(crate) ipc: bool,
    /// Not its users.
    pub(crate) other_users: bool,
}

/// `LinuxContainerResources`.
#[derive(Default)]
struct Resources {
    period: i64,
    quota: i64,
    memory: i64,
}

impl PodConfig {
    /// Reads what came with a request; `None` when nothing did.
    ///
    /// # Errors
    /// Says what it is when it is no such configuration.
    pub(crate) fn from_any(any: Option<&Any>) -> Result<Option<Self>, String> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else {
            return Ok(None);
        };
        if !any.type_url.ends_with(TYPE) {
            return Err(format!(
                "a sandbox with {:?} is not known, only one with a {TYPE}",
                any.type_url
            ));
        }
        Self::decode(&any.value)
            .map(Some)
            .map_err(|error| format!("the {TYPE} cannot be decoded: {error}"))
    }

    // The numbers of fields are those of api.proto of k8s.io/cri-api, pkg/apis/runtime/v1.
    fn decode(bytes: &[u8]) -> protobuf::Result<Self> {
        let mut config = Self::default();
        for_each_field(bytes, |field, input| {
            match field {
                (2, BYTES) => config.hostname = input.read_string()?,
                (4, BYTES) => config.dns = Some(Dns::decode(&input.read_bytes()?)?),
                (7, BYTES) => insert(&mut config.annotations, &input.read_bytes()?)?,
                (8, BYTES) => config.decode_linux(&input.read_bytes()?)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(config)
    }

    /// `LinuxPodSandboxConfig`.
    fn decode_linux(&mut self, bytes: &[u8]) -> protobuf::Result<()> {
        for_each_field(bytes, |field, input| {
            match field {
                (1, BYTES) => self.cgroup_parent = input.read_string()?,
                (2, BYTES) => self.host = of_security_context(&input.read_bytes()?)?,
                (3, BYTES) => insert(&mut self.sysctls, &input.read_bytes()?)?,
                (5, BYTES) => {
                    let Resources {
                        period,
                        quota,
                        memory,
                    } = Resources::decode(&input.read_bytes()?)?;
                    self.limits = ContainerLimits::of_pod(quota, period, memory);
                }
                _ => return Ok(false),
            }
            Ok(true)
        })
    }
}

impl Dns {
    fn decode(bytes: &[u8]) -> protobuf::Result<Self> {
        let mut dns = Self::default();
        for_each_field(bytes, |field, input| {
            match field {
                (1, BYTES) => dns.servers.push(input.read_string()?),
                (2, BYTES) => dns.searches.push(input.read_string()?),
                (3, BYTES) => dns.options.push(input.read_string()?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(dns)
    }

    /// The text of resolv.conf(5).
    pub(crate) fn resolv_conf(&self) -> String {
        let mut text = String::new();
        let mut line = |key: &str, words: &[String]| {
            if !words.is_empty() {
                text += &format!("{key} {}\n", words.join(" "));
            }
        };
        line("search", &self.searches);
        for server in &self.servers {
            line("nameserver", std::slice::from_ref(server));
        }
        line("options", &self.options);
        text
    }
}

impl Resources {
    fn decode(bytes: &[u8]) -> protobuf::Result<Self> {
        let mut resources = Self::default();
        for_each_field(bytes, |field, input| {
            match field {
                (1, VARINT) => resources.period = input.read_int64()?,
                (2, VARINT) => resources.quota = input.read_int64()?,
                (4, VARINT) => resources.memory = input.read_int64()?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(resources)
    }
}

/// `LinuxSandboxSecurityContext`, whose `NamespaceOption` is its first field.
fn of_security_context(bytes: &[u8]) -> protobuf::Result<HostNamespaces> {
    let mut host = HostNamespaces::default();
    for_each_field(bytes, |field, input| {
        if field != (1, BYTES) {
            return Ok(false);
        }
        for_each_field(&input.read_bytes()?, |field, input| {
            match field {
                (1, VARINT) => host.network = input.read_int32()? == NODE,
                (2, VARINT) => host.pid = input.read_int32()? == NODE,
                (3, VARINT) => host.ipc = input.read_int32()? == NODE,
                // `UserNamespace`, whose mode is its first field.
                (5, BYTES) => host.other_users = first_number(&input.read_bytes()?)? == POD,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(true)
    })?;
    Ok(host)
}

/// Field 1 of a message, which is not there when it is 0.
fn first_number(bytes: &[u8]) -> protobuf::Result<i32> {
    let mut number = 0;
    for_each_field(bytes, |field, input| {
        let found = field == (1, VARINT);
        if found {
            number = input.read_int32()?;
        }
        Ok(found)
    })?;
    Ok(number)
}

/// Adds an entry of a map of strings.
fn insert(map: &mut HashMap<String, String>, bytes: &[u8]) -> protobuf::Result<()> {
    let (mut key, mut value) = (String::new(), String::new());
    for_each_field(bytes, |field, input| {
        match field {
            (1, BYTES) => key = input.read_string()?,
            (2, BYTES) => value = input.read_string()?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    map.insert(key, value);
    Ok(())
}

/// Has `take` read each field, whose number and wire type it gets, or say that it does not know it.
fn for_each_field(
    bytes: &[u8],
    mut take: impl FnMut((u32, u32), &mut CodedInputStream<'_>) -> protobuf::Result<bool>,
) -> protobuf::Result<()> {
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        if !take((tag >> 3, tag & 7), &mut input)? {
            skip_field_for_tag(tag, &mut input)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "pod_config_test.rs"]
mod tests;
