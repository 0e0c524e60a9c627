//! An EROFS image, made by hand: the testbed has no mkfs.erofs. As plain as the format allows
//! (Documentation/filesystems/erofs.rst): one block per directory, no compression, no attributes.
#![allow(
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const BLOCK: usize = 4096;
const SUPERBLOCK: usize = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
/// Bytes of a compact inode, which is also the unit of inode numbers.
const INODE: usize = 32;

/// What a layer has at a name.
pub(super) enum Node {
    Directory(BTreeMap<String, Node>),
    File(Vec<u8>, u16),
    Link(String),
    /// What an overlay takes for "no longer there": a character device 0:0.
    Whiteout,
}

impl Node {
    /// What is in a directory of this machine.
    pub(super) fn of(path: &Path) -> Self {
        let kind = fs::symlink_metadata(path).unwrap();
        if kind.is_dir() {
            let entries = fs::read_dir(path).unwrap().map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                (name, Self::of(&entry.path()))
            });
            return Self::Directory(entries.collect());
        }
        if kind.is_symlink() {
            let target = fs::read_link(path).unwrap();
            return Self::Link(target.to_str().unwrap().to_owned());
        }
        let mode = u16::try_from(kind.permissions().mode() & 0o7777).unwrap();
        Self::File(fs::read(path).unwrap(), mode)
    }

    /// A directory with one node in it.
    pub(super) fn with(name: &str, node: Self) -> Self {
        Self::Directory(BTreeMap::from([(name.to_owned(), node)]))
    }

    fn mode(&self) -> u16 {
        match self {
            Self::Directory(_) => 0o040_755,
            Self::File(_, mode) => 0o100_000 | mode,
            Self::Link(_) => 0o120_777,
            Self::Whiteout => 0o020_000,
        }
    }

    /// The type in a directory.
    fn file_type(&self) -> u8 {
        match self {
            Self::File(..) => 1,
            Self::Directory(_) => 2,
            Self::Whiteout => 3,
            Self::Link(_) => 7,
        }
    }
}

/// An inode that has its number and its data.
struct Inode {
    mode: u16,
    links: u16,
    size: usize,
    block: u32,
}

/// An image of a tree, all of root.
pub(super) fn image(root: &Node) -> Vec<u8> {
    let count = count(root);
    // The superblock's block, then the inodes, then data.
    let inode_blocks = (count * INODE).div_ceil(BLOCK);
    let mut image = Image {
        inodes: Vec::new(),
        data: Vec::new(),
        first_data: 1 + inode_blocks,
    };
    image.inodes.resize_with(count, || None);
    let mut next = 0;
    let number = image.add(root, None, &mut next);
    assert_eq!((number, next), (0, count));

    let mut bytes = vec![0; BLOCK * (1 + inode_blocks)];
    for (number, inode) in image.inodes.iter().enumerate() {
        let inode = inode.as_ref().unwrap();
        let at = BLOCK + number * INODE;
        // Compact, and its data in blocks of their own.
        put(&mut bytes, at + 4, &inode.mode.to_le_bytes());
        put(&mut bytes, at + 6, &inode.links.to_le_bytes());
        put(
            &mut bytes,
            at + 8,
            &u32::try_from(inode.size).unwrap().to_le_bytes(),
        );
        put(&mut bytes, at + 16, &inode.block.to_le_bytes());
        put(
            &mut bytes,
            at + 20,
            &u32::try_from(number + 1).unwrap().to_le_bytes(),
        );
    }
    bytes.extend(image.data);
    put(&mut bytes, SUPERBLOCK, &MAGIC.to_le_bytes());
    put(&mut bytes, SUPERBLOCK + 12, &[12]);
    put(&mut bytes, SUPERBLOCK + 16, &(count as u64).to_le_bytes());
    let blocks = u32::try_from(bytes.len() / BLOCK).unwrap();
    put(&mut bytes, SUPERBLOCK + 36, &blocks.to_le_bytes());
    // The inodes begin at block 1, and the root is number 0.
    put(&mut bytes, SUPERBLOCK + 40, &1_u32.to_le_bytes());
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn count(node: &Node) -> usize {
    match node {
        Node::Directory(entries) => 1 + entries.values().map(count).sum::<usize>(),
        _ => 1,
    }
}

struct Image {
    inodes: Vec<Option<Inode>>,
    data: Vec<u8>,
    first_data: usize,
}

impl Image {
    /// Adds a node and what is in it, and answers with its number.
    fn add(&mut self, node: &Node, parent: Option<usize>, next: &mut usize) -> usize {
        let number = *next;
        *next += 1;
        let mut links = 1;
        let content = match node {
            Node::File(content, _) => content.clone(),
            Node::Link(target) => target.clone().into_bytes(),
            Node::Whiteout => Vec::new(),
            Node::Directory(entries) => {
                links = 2;
                let up = parent.unwrap_or(number);
                let mut list = vec![(".".to_owned(), number, 2), ("..".to_owned(), up, 2)];
                for (name, entry) in entries {
                    let child = self.add(entry, Some(number), next);
                    list.push((name.clone(), child, entry.file_type()));
                    links += u16::from(matches!(entry, Node::Directory(_)));
                }
                list.sort();
                directory(&list)
            }
        };
        let block = self.first_data + self.data.len() / BLOCK;
        let is_device = matches!(node, Node::Whiteout);
        self.inodes[number] = Some(Inode {
            mode: node.mode(),
            links,
            size: content.len(),
            block: if is_device {
                0
            } else {
                u32::try_from(block).unwrap()
            },
        });
        self.data.extend(content);
        self.data.resize(self.data.len().next_multiple_of(BLOCK), 0);
        number
    }
}

/// The one block of a directory: entries in the order of their names, then the names.
fn directory(entries: &[(String, usize, u8)]) -> Vec<u8> {
    const ENTRY: usize = 12;
    let mut names: Vec<u8> = Vec::new();
    let mut block = Vec::new();
    for (name, number, file_type) in entries {
        let offset = u16::try_from(entries.len() * ENTRY + names.len()).unwrap();
        block.extend((*number as u64).to_le_bytes());
        block.extend(offset.to_le_bytes());
        block.extend([*file_type, 0]);
        names.extend(name.as_bytes());
    }
    block.extend(names);
    assert!(block.len() <= BLOCK, "too many names for one directory");
    block
}
