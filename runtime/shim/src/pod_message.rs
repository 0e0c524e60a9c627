//! `PodSandboxConfig` on the wire, for tests.

/// A message that is put together field by field.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodMessage {
    pod: Vec<u8>,
    linux: Vec<u8>,
}

/// A field of bytes: a string or a message.
pub(crate) fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    assert!(length < 128, "a length of one byte is enough for tests");
    [&[field << 3 | 2, length], content].concat()
}

/// A field that is a number.
pub(crate) fn number(field: u8, mut value: u64) -> Vec<u8> {
    let mut encoded = vec![field << 3];
    while value >= 0x80 {
        encoded.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    encoded.push(u8::try_from(value).unwrap());
    encoded
}

/// An entry of a map of strings.
pub(crate) fn entry(key: &str, value: &str) -> Vec<u8> {
    [bytes(1, key.as_bytes()), bytes(2, value.as_bytes())].concat()
}

impl PodMessage {
    pub(crate) fn with(mut self, field: &[u8]) -> Self {
        self.pod.extend_from_slice(field);
        self
    }

    fn with_linux(mut self, field: &[u8]) -> Self {
        self.linux.extend_from_slice(field);
        self
    }

    pub(crate) fn hostname(self, name: &str) -> Self {
        self.with(&bytes(2, name.as_bytes()))
    }

    pub(crate) fn annotation(self, key: &str, value: &str) -> Self {
        self.with(&bytes(7, &entry(key, value)))
    }

    pub(crate) fn dns(self, servers: &[&str], searches: &[&str], options: &[&str]) -> Self {
        let list = |field, words: &[&str]| -> Vec<u8> {
            words
                .iter()
                .flat_map(|word| bytes(field, word.as_bytes()))
                .collect()
        };
        let dns = [list(1, servers), list(2, searches), list(3, options)].concat();
        self.with(&bytes(4, &dns))
    }

    pub(crate) fn cgroup_parent(self, path: &str) -> Self {
        self.with_linux(&bytes(1, path.as_bytes()))
    }

    /// The fields of its `NamespaceOption`.
    pub(crate) fn namespaces(self, fields: &[u8]) -> Self {
        self.with_linux(&bytes(2, &bytes(1, fields)))
    }

    pub(crate) fn sysctl(self, name: &str, value: &str) -> Self {
        self.with_linux(&bytes(3, &entry(name, value)))
    }

    pub(crate) fn limits(self, quota: u64, period: u64, memory: u64) -> Self {
        let resources = [number(1, period), number(2, quota), number(4, memory)].concat();
        self.with_linux(&bytes(5, &resources))
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        let Self { pod, linux } = self;
        let length = linux.len();
        assert!(length < 128, "a length of one byte is enough for tests");
        if linux.is_empty() {
            pod
        } else {
            [pod, bytes(8, &linux)].concat()
        }
    }
}
