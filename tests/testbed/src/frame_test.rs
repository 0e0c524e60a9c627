use super::{Decoder, Frame, MAX_PAYLOAD};

fn every_frame() -> Vec<Frame> {
    vec![
        Frame::Request(b"{}".to_vec()),
        Frame::Stdin(vec![0, 255, 3]),
        Frame::StdinEnd,
        Frame::Resize {
            rows: 50,
            columns: 300,
        },
        Frame::Started,
        Frame::Stdout(vec![7; MAX_PAYLOAD]),
        Frame::Stderr(Vec::new()),
        Frame::StdinTaken(70_000),
        Frame::Alive,
        Frame::Exit(137),
        Frame::Failed("no such program".into()),
    ]
}

#[test]
fn frames_survive_being_cut_anywhere() {
    let bytes: Vec<u8> = every_frame().iter().flat_map(Frame::encode).collect();
    for piece in [1, 3, 4096, bytes.len()] {
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for chunk in bytes.chunks(piece) {
            decoder.push(chunk);
            while let Some(frame) = decoder.next_frame().unwrap() {
                seen.push(frame);
            }
        }
        assert_eq!(seen, every_frame(), "in pieces of {piece}");
    }
}

#[test]
fn an_oversized_length_is_refused_before_it_is_buffered() {
    let mut decoder = Decoder::default();
    decoder.push(&[17, 1, 0, 1, 0]);
    assert!(decoder.next_frame().is_err());
}

#[test]
fn an_unknown_kind_or_a_wrong_size_is_refused() {
    for bytes in [
        &[99, 0, 0, 0, 0][..],
        &[22, 2, 0, 0, 0, 1, 1],
        &[4, 0, 0, 0, 0],
    ] {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        assert!(decoder.next_frame().is_err(), "{bytes:?}");
    }
}
