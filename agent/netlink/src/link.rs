//! What is done to an interface on either side.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};

use crate::{Netlink, NetlinkError};

impl Netlink {
    /// All interfaces of the namespace.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn links(&mut self) -> Result<Vec<LinkMessage>, NetlinkError> {
        let all = self.list(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let links = all.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        Ok(links.collect())
    }

    /// Changes what `attributes` name of the interface with this index.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn set_link(
        &mut self,
        index: u32,
        attributes: Vec<LinkAttribute>,
    ) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = attributes;
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Takes an interface up.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn raise(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.set_flags(index, LinkFlags::Up)
    }

    /// Takes an interface down.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn lower(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.set_flags(index, LinkFlags::empty())
    }

    fn set_flags(&mut self, index: u32, up: LinkFlags) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = up;
        message.header.change_mask = LinkFlags::Up;
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Has the kernel make no link-local address of its own for an interface that is still down.
    ///
    /// # Errors
    /// `EAFNOSUPPORT` from a kernel without IPv6.
    pub fn no_generated_address(&mut self, index: u32) -> Result<(), NetlinkError> {
        let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let inet6 = AfSpecUnspec::Inet6(vec![none]);
        self.set_link(index, vec![LinkAttribute::AfSpecUnspec(vec![inet6])])
    }
}
