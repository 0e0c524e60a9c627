use super::super::packet::Header;
use super::{Credit, NARROW_WINDOW, PACKET, WINDOW};
use zerocopy::FromZeros;

fn told(buf_alloc: u32, fwd_cnt: u32) -> Header {
    let mut header = Header::new_zeroed();
    header.buf_alloc.set(buf_alloc);
    header.fwd_cnt.set(fwd_cnt);
    header
}

#[test]
fn nothing_may_be_sent_before_the_guest_has_granted_it() {
    assert_eq!(Credit::new(WINDOW).room(), 0);
}

#[test]
fn what_is_under_way_counts_until_it_is_taken() {
    let mut credit = Credit::new(WINDOW);
    credit.learn(&told(100, 0));
    credit.send(60);
    assert_eq!(credit.room(), 40);
    credit.learn(&told(100, 25));
    assert_eq!(credit.room(), 65);
}

#[test]
fn a_guest_that_shrinks_its_buffer_gets_nothing_more_at_first() {
    let mut credit = Credit::new(WINDOW);
    credit.learn(&told(100, 0));
    credit.send(60);
    credit.learn(&told(50, 0));
    assert_eq!(credit.room(), 0);
    credit.learn(&told(50, 60));
    assert_eq!(credit.room(), 50);
}

#[test]
fn a_guest_that_took_more_than_it_got_gets_nothing() {
    let mut credit = Credit::new(WINDOW);
    credit.learn(&told(u32::MAX / 2, 10));
    credit.send(5);
    assert_eq!(credit.room(), 0);
}

#[test]
fn the_counters_wrap_around() {
    let mut credit = Credit::new(WINDOW);
    let half = 1 << 31;
    for _ in 0..5 {
        credit.learn(&told(u32::MAX, 0));
        credit.send(half);
    }
    // Five times 2³¹ is 2³¹ modulo 2³².
    credit.learn(&told(1000, half - 10));
    assert_eq!(credit.room(), 990);
}

#[test]
fn the_guest_may_fill_the_window_and_no_more() {
    for window in [WINDOW, NARROW_WINDOW] {
        let mut credit = Credit::new(window);
        assert!(!credit.receive(window + 1));
        assert!(credit.receive(window));
        assert!(!credit.receive(1));
        credit.forward(10);
        assert!(!credit.receive(11));
        assert!(credit.receive(10));
        assert!(!credit.receive(u32::MAX));
    }
}

#[test]
fn the_guest_is_told_when_it_believes_that_one_packet_is_left() {
    for window in [WINDOW, NARROW_WINDOW] {
        let mut credit = Credit::new(window);
        assert_eq!(credit.window(), window);
        assert!(credit.receive(window - PACKET - 1));
        credit.forward(100);
        assert!(!credit.wants_update());
        assert!(credit.receive(1));
        assert!(credit.wants_update());
        assert_eq!(credit.advertise(), 100);
        assert!(!credit.wants_update());
        // Nothing new to tell.
        assert!(credit.receive(PACKET));
        assert!(!credit.wants_update());
        credit.forward(1);
        assert!(credit.wants_update());
    }
}

#[test]
fn a_stream_of_the_largest_packets_is_told_of_once_for_three() {
    let mut credit = Credit::new(WINDOW);
    let told = (0..30).filter(|_| {
        assert!(credit.receive(PACKET));
        credit.forward(PACKET as usize);
        let tell = credit.wants_update();
        if tell {
            credit.advertise();
        }
        tell
    });
    assert_eq!(told.count(), 10);
}
