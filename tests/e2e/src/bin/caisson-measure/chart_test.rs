use super::svg;

const TABLE: &str = "phase                     at ms    took ms\n\
                     shim-start                  0.0        0.0\n\
                     hello                     100.0      100.0\n\
                     output                    400.0      300.0\n";

#[test]
fn every_phase_begins_where_the_one_before_it_ends() {
    let svg = svg("a start", TABLE);
    // 640 units for 400 ms, from 150 on.
    assert!(
        svg.contains("<rect x=\"150.0\" y=\"65\" width=\"160.0\""),
        "{svg}"
    );
    assert!(
        svg.contains("<rect x=\"310.0\" y=\"87\" width=\"480.0\""),
        "{svg}"
    );
    assert!(svg.contains(">300 ms, at 400<"), "{svg}");
    assert_eq!(svg.matches("<rect").count(), 1 + 3, "{svg}");
}

#[test]
fn what_is_no_phase_is_not_drawn() {
    let svg = svg("nothing", "phase at took\n<script> 1 2\nbroken 1\n\n");
    assert_eq!(svg.matches("<rect").count(), 1, "{svg}");
    assert!(svg.ends_with("</svg>\n"));
}
