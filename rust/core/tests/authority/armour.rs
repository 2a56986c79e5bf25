//! Bytes have one text.

use meshos_core::armour::{decode, encode};
use meshos_core::codec::Fault;
use meshos_core::envelope::{AdminEnvelope, IceEnvelope};
use proptest::prelude::*;

use crate::{cordon, freeze};

const LABEL: &str = "A THING";

fn text(body: &str) -> String {
    format!("-----BEGIN A THING-----\n{body}-----END A THING-----\n")
}

fn fault(text: &str) -> (u64, Fault) {
    let error = decode(LABEL, text).expect_err("not a text of ours");
    (error.offset, error.fault)
}

#[test]
fn known_texts() {
    for (bytes, body) in [
        (&b""[..], ""),
        (b"f", "Zg==\n"),
        (b"fo", "Zm8=\n"),
        (b"foo", "Zm9v\n"),
        (b"foob", "Zm9vYg==\n"),
        (&[0xff; 48], &format!("{}\n", "/".repeat(64))),
        (&[0; 49], &format!("{}\nAA==\n", "A".repeat(64))),
    ] {
        assert_eq!(encode(LABEL, bytes), text(body));
        assert_eq!(decode(LABEL, &text(body)).as_deref(), Ok(bytes));
    }
}

#[test]
fn what_mail_changes_is_passed_over() {
    let good = text("Zm9v\n");
    for changed in [
        good.replace('\n', "\r\n"),
        format!("\n  \n{good}\n\t\n"),
        good.trim_end().to_owned(),
    ] {
        assert_eq!(decode(LABEL, &changed).as_deref(), Ok(&b"foo"[..]));
    }
}

#[test]
fn everything_else_is_refused_where_it_stands() {
    let line = Fault::Invalid { field: "line" };
    let base64 = Fault::Invalid { field: "base64" };
    for (body, at, expected) in [
        ("Zm9v\nZm9v\n", 29, line),
        ("Zm9vY\n", 24, line),
        ("\n", 24, line),
        (" Zm9\n", 24, base64),
        ("Zm9v \n", 24, line),
        ("Zm9vZm.v\n", 28, base64),
        ("Zm9=Zm9v\n", 24, base64),
        ("Z===\n", 24, base64),
        ("====\n", 24, base64),
        ("Zh==\n", 24, base64),
        ("Zm9=\n", 24, base64),
        ("Zm9-\n", 24, base64),
        ("Zm\u{e9}\n", 24, base64),
        ("-----BEGIN A THING-----\n", 24, line),
    ] {
        assert_eq!(fault(&text(body)), (at, expected), "{body:?}");
    }
    let long = format!("{}\n", "A".repeat(68));
    assert_eq!(fault(&text(&long)), (24, line));
    assert_eq!(fault(""), (0, Fault::Magic));
    assert_eq!(fault("  x"), (2, Fault::Magic));
    assert_eq!(fault(&text("").replace("A THING", "A STONE")), (0, Fault::Magic));
    assert_eq!(fault("-----BEGIN A THING-----\nZm9v\n").0, 28);
    assert!(matches!(
        fault("-----BEGIN A THING-----\nZm9v\n").1,
        Fault::Truncated { .. }
    ));
    assert_eq!(fault(&(text("") + &text(""))), (46, Fault::Trailing { bytes: 45 }));
}

#[test]
fn envelopes_have_their_own_labels() {
    let (ice, admin) = (freeze(), cordon());
    assert_eq!(IceEnvelope::from_text(&ice.to_text()).as_ref(), Ok(&ice));
    assert_eq!(AdminEnvelope::from_text(&admin.to_text()).as_ref(), Ok(&admin));
    assert!(AdminEnvelope::from_text(&ice.to_text()).is_err());
    assert!(IceEnvelope::from_text(&admin.to_text()).is_err());
}

proptest! {
    #[test]
    fn every_text_reads_as_its_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(decode(LABEL, &encode(LABEL, &bytes)), Ok(bytes));
    }

    #[test]
    fn one_changed_character_is_refused_or_other_bytes(
        bytes in proptest::collection::vec(any::<u8>(), 1..200),
        at in any::<prop::sample::Index>(),
        to in "[ -~\n\r]",
    ) {
        let good = encode(LABEL, &bytes);
        let at = at.index(good.len());
        let changed = format!("{}{to}{}", &good[..at], &good[at + 1..]);
        if let Ok(read) = decode(LABEL, &changed) {
            prop_assert!(read != bytes || changed.trim().replace('\r', "") == good.trim());
        }
    }
}
