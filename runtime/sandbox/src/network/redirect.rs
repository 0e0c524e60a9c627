//! Everything that comes into one interface goes out of another (tc-mirred(8)).
//!
//! The rule hangs on the ingress queueing discipline of the first one, before anything of the host
//! sees a packet, so the host's own stack in the pod's namespace answers nothing. Checksums and
//! segments that are left to be done are done by the kernel when it hands a packet to an interface
//! that cannot do them.
//!
//! The filter is `u32` without a condition: kernels have it that lack `matchall`, and without a key
//! it also takes packets that are too short for one.

use caisson_netlink::packet::RouteNetlinkMessage;
use caisson_netlink::packet::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption,
    TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror,
    TcMirrorActionType, TcOption, TcU32Selector, TcU32SelectorFlags,
};
use caisson_netlink::{NLM_F_CREATE, NLM_F_EXCL, Netlink, NetlinkError};

/// The ingress queueing discipline is always `ffff:`.
const HANDLE: TcHandle = TcHandle {
    major: u16::MAX,
    minor: 0,
};
/// The first and only rule there.
const PRIORITY: u32 = 1;

/// Sends what comes into interface `from` out of interface `to`.
///
/// # Errors
/// `EEXIST` when `from` has an ingress queueing discipline already; nothing is changed then.
pub(super) fn redirect(netlink: &mut Netlink, from: u32, to: u32) -> Result<(), NetlinkError> {
    let qdisc = RouteNetlinkMessage::NewQueueDiscipline(ingress(from));
    netlink.change(qdisc, NLM_F_CREATE | NLM_F_EXCL)?;
    let filter = RouteNetlinkMessage::NewTrafficFilter(everything(from, to));
    netlink
        .change(filter, NLM_F_CREATE | NLM_F_EXCL)
        .inspect_err(|_| {
            // The first error is the one to tell.
            let _ = undo(netlink, from);
        })
}

/// Takes the rule away again.
///
/// # Errors
/// When there is none, or no such interface.
pub(super) fn undo(netlink: &mut Netlink, from: u32) -> Result<(), NetlinkError> {
    netlink.change(RouteNetlinkMessage::DelQueueDiscipline(ingress(from)), 0)
}

fn ingress(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = TcHandle::INGRESS;
    message.header.handle = HANDLE;
    message.attributes = vec![TcAttribute::Kind("ingress".to_owned())];
    message
}

fn everything(from: u32, to: u32) -> TcMessage {
    let mut message = TcMessage::with_index(from.cast_signed());
    message.header.parent = HANDLE;
    // Priority, and protocol in the order of the network (TC_H_MAKE).
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    message.header.info = PRIORITY << 16 | u32::from(protocol);

    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(
            mirror,
        ))]),
    ];
    let mut all = TcU32Selector::default();
    all.flags = TcU32SelectorFlags::Terminal;
    message.attributes = vec![
        TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
        TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(all)),
            TcOption::U32(TcFilterU32Option::Action(vec![action])),
        ]),
    ];
    message
}
