#![allow(unsafe_code)]

use std::os::fd::AsRawFd;

use vmm_sys_util::eventfd::EventFd;

use super::{Token, WaitContext};
use crate::virtio::device::Watch;

#[test]
fn tokens_survive_the_way_through_epoll() {
    let tokens = [
        Token::Command,
        Token::Queue { place: 0, index: 0 },
        Token::Queue {
            place: u16::MAX,
            index: u16::MAX,
        },
        Token::Device { place: 0, token: 0 },
        Token::Device {
            place: u16::MAX,
            token: u32::MAX,
        },
    ];
    for token in tokens {
        assert_eq!(Token::from_bits(token.to_bits()), token);
    }
}

#[test]
fn a_descriptor_is_ready_until_it_is_read_or_removed() {
    let mut wait = WaitContext::new().unwrap();
    let (other, event) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap());
    let token = Token::Queue { place: 3, index: 1 };
    wait.add(&event, token).unwrap();
    wait.add(&other, Token::Command).unwrap();
    event.write(1).unwrap();

    let mut ready = Vec::new();
    wait.wait(&mut ready).unwrap();
    wait.wait(&mut ready).unwrap();
    assert_eq!(ready, [token, token], "level-triggered");

    wait.remove(event.as_raw_fd());
    wait.remove(event.as_raw_fd());
    other.write(1).unwrap();
    ready.clear();
    wait.wait(&mut ready).unwrap();
    assert_eq!(ready, [Token::Command]);
}

#[test]
fn a_watch_takes_the_place_of_the_one_before() {
    let mut wait = WaitContext::new().unwrap();
    let event = EventFd::new(0).unwrap();
    let mut watch = Watch {
        fd: event.as_raw_fd(),
        token: 1,
        readable: true,
        writable: false,
    };
    wait.watch(2, &watch).unwrap();
    watch.token = 9;
    watch.writable = true;
    wait.watch(2, &watch).unwrap();
    let mut ready = Vec::new();
    wait.wait(&mut ready).unwrap();
    assert_eq!(ready, [Token::Device { place: 2, token: 9 }]);
}

#[test]
fn the_number_of_a_closed_descriptor_can_be_watched_again() {
    let mut wait = WaitContext::new().unwrap();
    let event = EventFd::new(0).unwrap();
    wait.add(&event, Token::Command).unwrap();
    let fresh = EventFd::new(0).unwrap();
    // Closes what `event` was and gives its number to `fresh` in one step, so that no other test
    // can take the number in between.
    // SAFETY: both descriptors are open, and `event` goes on to own its number.
    let number = unsafe { libc::dup2(fresh.as_raw_fd(), event.as_raw_fd()) };
    assert_eq!(number, event.as_raw_fd());

    let token = Token::Queue { place: 0, index: 0 };
    wait.add(&event, token).unwrap();
    event.write(1).unwrap();
    let mut ready = Vec::new();
    wait.wait(&mut ready).unwrap();
    assert_eq!(ready, [token]);
}
