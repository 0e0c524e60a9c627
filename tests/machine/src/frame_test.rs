#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;

use super::{Frame, MAX_CONTENT};

#[test]
fn what_is_written_is_read() {
    let frames = [
        Frame::Stdout(b"out".to_vec()),
        Frame::Stderr(b"err".to_vec()),
        Frame::Exit(-1),
    ];
    let mut bytes = Vec::new();
    for frame in &frames {
        frame.write_to(&mut bytes).unwrap();
    }
    let mut source = bytes.as_slice();
    for frame in frames {
        assert_eq!(Frame::read_from(&mut source).unwrap(), frame);
    }
    let end = Frame::read_from(&mut source).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn long_content_becomes_several_frames() {
    let mut bytes = Vec::new();
    Frame::Stdout(vec![7; MAX_CONTENT + 1])
        .write_to(&mut bytes)
        .unwrap();
    let mut source = bytes.as_slice();
    for length in [MAX_CONTENT, 1] {
        let frame = Frame::read_from(&mut source).unwrap();
        assert_eq!(frame, Frame::Stdout(vec![7; length]));
    }
    assert!(source.is_empty());
}

#[test]
fn what_is_no_frame_is_refused() {
    for bytes in [
        &[9, 0, 0, 0, 0][..],
        &[3, 1, 0, 0, 0, 0],
        &[1, 255, 255, 255, 255],
    ] {
        let error = Frame::read_from(&mut &*bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{bytes:?}");
    }
}
