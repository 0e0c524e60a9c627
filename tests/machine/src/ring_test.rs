use super::{Act, Went, Width, image, line};

#[test]
fn a_line_says_how_an_act_went() {
    let went = |interrupts| Went {
        exceptions: 0x10,
        vector: Some(13),
        value: 0xfee0_0900,
        interrupts,
    };
    assert_eq!(line("r 10 d fee00900 0"), Some(went(0)));
    assert_eq!(
        line("what it wrote itselfr 10 d fee00900 ff"),
        Some(went(255))
    );
    let unharmed = line("r 0 ffffffffffffffff 1 0").unwrap();
    assert_eq!(unharmed.vector, None);
    assert_eq!(line("r 10 d"), None);
    assert_eq!(line("e"), None);
}

#[test]
fn acts_stand_behind_the_program_in_their_order() {
    let acts = [
        Act::run(&[0x90], 3),
        Act::load(0x1000..0x1010, Width::W4).step_by(4),
    ];
    let file = image::kernel(&acts);
    let number = |at: usize| u64::from_le_bytes(file[120 + at..][..8].try_into().unwrap());
    assert_eq!(number(0x4010), 2, "acts");
    let act = |index: usize| [0, 8, 16, 24, 40].map(|at| number(0x4_0000 + 64 * index + at));
    assert_eq!(act(0), [0, 0, 3, 1, 0x102_0000]);
    assert_eq!(act(1), [16, 0x1000, 4, 4, 0]);
    // nop; ret
    assert_eq!(file[120 + 0x2_0000..][..2], [0x90, 0xc3]);
}
