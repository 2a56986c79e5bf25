//! Who may speak, what was rolled back, and what receipts are worth.

use meshos_core::certificate::{Certificate, Reason, Statement};
use meshos_core::chain::{BrokenKind, CausalChainBuilder, ChainError};
use meshos_core::digest::Digest;
use meshos_core::fork::fork_entity;
use meshos_core::identity::Keypair;
use meshos_core::testing::samples::keypair;
use meshos_core::verify::{Claim, OwnerSpan, verify};

use crate::story::{Story, bad_record, broken};

fn nodes() -> (Keypair, Keypair, Keypair) {
    (keypair(1), keypair(2), keypair(3))
}

fn span(node: &Keypair, epoch: u64, first: u64, last: u64, rolled_back_from: Option<u64>) -> OwnerSpan {
    OwnerSpan {
        node: node.entity_id(),
        epoch,
        first_sequence: first,
        last_sequence: last,
        rolled_back_from,
    }
}

#[test]
fn owners_are_listed_with_their_events() {
    let (a, b, c) = nodes();
    let mut story = Story::spawned(&a);
    story
        .emit_each(b"abc")
        .checkpoint(1, &a)
        .certify(2, &b, 3, Reason::Move, &a);
    story.certify(5, &c, 3, Reason::Move, &b).emit_each(b"de");
    let report = story.verify().expect("a good chain");
    assert_eq!(
        report.owners,
        [
            span(&a, 1, 1, 3, None),
            span(&b, 2, 4, 3, None),
            span(&c, 5, 4, 5, None)
        ]
    );
    assert_eq!((report.signed_through, report.entity), (3, story.id()));
}

#[test]
fn only_the_right_key_may_sign_each_certificate() {
    let (previous, named, stranger) = nodes();
    let entity = keypair(0x42);
    // Who signs: the entity, the node before, the node named, anybody else.
    let signers = [&entity, &previous, &named, &stranger];
    let cases = [
        (Reason::Move, &named, [true, true, false, false]),
        (Reason::Restart, &named, [true, false, false, false]),
        (Reason::Restart, &previous, [true, true, false, false]),
        (Reason::Takeover, &named, [true, false, false, false]),
        (Reason::Takeover, &previous, [true, false, false, false]),
        (Reason::Spawn, &named, [false, false, false, false]),
    ];
    for (reason, node, allowed) in cases {
        for (signer, allowed) in signers.into_iter().zip(allowed) {
            let mut story = Story::spawned(&previous);
            story.emit_each(b"ab").certify(2, node, 2, reason, signer);
            assert_eq!(story.verify().is_ok(), allowed, "{reason:?} signed by {signer:?}");
        }
    }
}

#[test]
fn a_spawn_is_signed_by_the_entity_at_sequence_0() {
    let (a, _, _) = nodes();
    let mut story = Story::spawned(&a);
    story.certificates.clear();
    story.certify(1, &a, 0, Reason::Spawn, &a);
    assert_eq!(bad_record(story.verify()), "certificate: signed by one who may not");
    story.emit_each(b"a").certificates.clear();
    let entity = keypair(0x42);
    story.certify(1, &a, 1, Reason::Spawn, &entity);
    assert_eq!(bad_record(story.verify()), "spawn certificate: not at the beginning");
}

#[test]
fn a_chain_needs_certificates_and_its_first_event_a_spawn() {
    let (a, _, _) = nodes();
    let entity = keypair(0x42);
    let mut story = Story::spawned(&a);
    story.emit_each(b"ab").certificates.clear();
    assert_eq!(bad_record(story.verify()), "no certificate is given");
    let missing = "spawn certificate: missing for a chain that begins at 1";
    story.certify(2, &a, 1, Reason::Move, &entity);
    assert_eq!(bad_record(story.verify()), missing);
    assert_eq!(story.verify_part(1, &[]).map(|report| report.first_sequence), Ok(2));
    story.certificates.clear();
    story.certify(2, &a, 0, Reason::Move, &entity);
    assert_eq!(bad_record(story.verify()), missing);
}

#[test]
fn a_first_certificate_in_the_middle_must_be_of_the_entity() {
    let (a, b, _) = nodes();
    let mut story = Story::spawned(&a);
    story
        .emit_each(b"ab")
        .certify(2, &b, 2, Reason::Move, &a)
        .emit_each(b"c");
    assert!(story.verify_part(2, &[]).is_ok());
    story.certificates.remove(0);
    assert_eq!(
        bad_record(story.verify_part(2, &[])),
        "certificate: signed by one who may not"
    );
}

#[test]
fn epochs_rise_from_1() {
    let (a, b, _) = nodes();
    let rises = "certificate: epoch does not rise";
    for epoch in [0, 1] {
        let mut story = Story::spawned(&a);
        story.certify(epoch, &b, 0, Reason::Move, &a);
        assert_eq!(bad_record(story.verify()), rises);
    }
    let mut story = Story::spawned(&a);
    story.certificates.clear();
    let entity = keypair(0x42);
    story.certify(0, &a, 0, Reason::Spawn, &entity);
    assert_eq!(bad_record(story.verify()), rises);
}

#[test]
fn a_bad_certificate_is_named_by_its_sequence() {
    let (a, b, _) = nodes();
    let mut story = Story::spawned(&a);
    story.emit_each(b"ab").certify(2, &b, 2, Reason::Move, &a);
    story.certificates[1].signature[5] ^= 1;
    let what = "certificate: signature does not fit";
    assert_eq!(
        story.verify(),
        Err(ChainError::BadSignature {
            origin: story.origin(),
            sequence: 2,
            what
        })
    );
}

#[test]
fn checkpoints_are_of_the_node_of_their_epoch_and_in_order() {
    let (a, b, _) = nodes();
    let start = || {
        let mut story = Story::spawned(&a);
        story
            .emit_each(b"ab")
            .certify(2, &b, 2, Reason::Move, &a)
            .emit_each(b"c");
        story
    };
    let by = |epoch, node: &Keypair| bad_record(start().checkpoint(epoch, node).verify());
    assert_eq!(by(2, &a), "checkpoint: not signed by the node of its epoch");
    assert_eq!(by(3, &b), "checkpoint: no certificate of its epoch");
    let mut early = start();
    let digest = early.digests[1];
    assert_eq!(
        bad_record(early.checkpoint_of(2, 1, digest, &b).verify()),
        "checkpoint: before the first event of its epoch"
    );
    let mut torn = start();
    torn.checkpoint(2, &b)
        .emit_each(b"d")
        .checkpoint(2, &b)
        .emit_each(b"e")
        .checkpoint(2, &b);
    assert!(torn.verify().is_ok());
    torn.checkpoints.remove(1);
    assert_eq!(bad_record(torn.verify()), "checkpoint: does not follow the one before");
    torn.checkpoints.remove(0);
    assert!(torn.verify().is_ok(), "the first given may follow any");
}

#[test]
fn a_checkpoint_that_says_something_else_names_its_sequence() {
    let (a, _, _) = nodes();
    let mut story = Story::spawned(&a);
    story
        .emit_each(b"abc")
        .checkpoint_of(1, 2, Digest::from_bytes([1; 32]), &a);
    assert_eq!(broken(story.verify()), (BrokenKind::Altered, 2));
}

#[test]
fn signed_records_that_disagree_are_a_fork() {
    let (a, b, _) = nodes();
    let mut twice = Story::spawned(&a);
    twice
        .emit_each(b"abc")
        .checkpoint(1, &a)
        .checkpoint_of(1, 3, Digest::from_bytes([1; 32]), &a);
    assert_eq!(broken(twice.verify()), (BrokenKind::Forked, 3));
    // The former owner went on after it had handed over.
    let mut beyond = Story::spawned(&a);
    beyond.emit_each(b"ab").certify(2, &b, 2, Reason::Move, &a);
    beyond.emit_each(b"c").checkpoint(1, &a);
    assert_eq!(broken(beyond.verify()), (BrokenKind::Forked, 3));
}

#[test]
fn a_restart_rolls_back_what_its_node_had_signed() {
    let (a, _, _) = nodes();
    let mut story = Story::spawned(&a);
    story.emit_each(b"abcde").checkpoint(1, &a);
    let lost = story.claim(5);
    story
        .go_back(3)
        .certify(2, &a, 3, Reason::Restart, &a)
        .emit_each(b"xy")
        .checkpoint(2, &a)
        .emit_each(b"z");
    let report = story.verify().expect("a declared restart is no break");
    assert_eq!(report.owners, [span(&a, 1, 1, 3, Some(3)), span(&a, 2, 4, 6, None)]);
    assert_eq!((report.signed_through, report.last_sequence), (5, 6));
    assert_eq!(story.verify_with(&[story.claim(3), story.claim(5)]), Ok(report));
    assert_eq!(broken(story.verify_with(&[lost])), (BrokenKind::Receipt, 5));
}

#[test]
fn a_rolled_back_checkpoint_is_not_counted_but_its_signature_is_checked() {
    let (a, _, _) = nodes();
    let mut story = Story::spawned(&a);
    story
        .emit_each(b"abcde")
        .checkpoint(1, &a)
        .go_back(3)
        .certify(2, &a, 3, Reason::Restart, &a);
    assert_eq!(story.verify().map(|report| report.signed_through), Ok(0));
    story.checkpoints[0].signature[0] ^= 1;
    assert_eq!(
        bad_record(story.verify()),
        "checkpoint: not signed by the node of its epoch"
    );
}

#[test]
fn a_takeover_may_go_back_before_the_owner_it_replaces() {
    let (a, b, c) = nodes();
    let mut story = Story::spawned(&a);
    story
        .emit_each(b"abcd")
        .checkpoint(1, &a)
        .certify(2, &b, 4, Reason::Move, &a)
        .emit_each(b"e")
        .checkpoint(2, &b);
    let entity = keypair(0x42);
    story
        .go_back(2)
        .certify(3, &c, 2, Reason::Takeover, &entity)
        .emit_each(b"xyz")
        .checkpoint(3, &c);
    let report = story.verify().expect("a declared takeover is no break");
    let expected = [
        span(&a, 1, 1, 2, Some(2)),
        span(&b, 2, 5, 4, Some(2)),
        span(&c, 3, 3, 5, None),
    ];
    assert_eq!(report.owners, expected);
    assert_eq!(report.signed_through, 5);
}

#[test]
fn a_part_begins_where_something_signed_vouches() {
    let (a, _, _) = nodes();
    let mut story = Story::spawned(&a);
    story.emit_each(b"abc").checkpoint(1, &a).emit_each(b"de");
    let report = story.verify_part(3, &[]).expect("a vouched part");
    assert_eq!((report.events, report.first_sequence, report.last_sequence), (2, 4, 5));
    let unvouched = story.verify_part(2, &[]);
    let (kind, origin) = (BrokenKind::Gap, story.origin());
    assert_eq!(
        unvouched,
        Err(ChainError::Broken {
            kind,
            origin,
            sequence: 1,
            expected: 1,
            found: 3
        })
    );
}

#[test]
fn claims_hold_where_the_digest_is_known_and_nowhere_else() {
    let (a, _, _) = nodes();
    let mut story = Story::spawned(&a);
    story
        .emit_each(b"a")
        .checkpoint(1, &a)
        .emit_each(b"bc")
        .checkpoint(1, &a)
        .emit_each(b"de");
    for sequence in [0, 1, 3, 4, 5] {
        assert!(story.verify_part(3, &[story.claim(sequence)]).is_ok(), "{sequence}");
    }
    assert_eq!(
        broken(story.verify_part(3, &[story.claim(2)])),
        (BrokenKind::Receipt, 2)
    );
    let beyond = Claim {
        sequence: 6,
        digest: Digest::ZERO,
    };
    assert_eq!(broken(story.verify_with(&[beyond])), (BrokenKind::Receipt, 6));
    let wrong = Claim {
        sequence: 4,
        digest: story.digests[3],
    };
    assert_eq!(
        broken(story.verify_with(&[story.claim(1), wrong])),
        (BrokenKind::Receipt, 4)
    );
}

#[test]
fn no_events_are_a_chain_up_to_what_is_signed() {
    let (a, _, _) = nodes();
    let mut story = Story::spawned(&a);
    let report = verify(&[], &[], &story.certificates, &story.id(), &[]).expect("just spawned");
    assert_eq!((report.events, report.first_sequence, report.last_sequence), (0, 1, 0));
    assert_eq!((report.signed_through, report.digest), (0, story.digests[0]));
    story.emit_each(b"abc").checkpoint(1, &a);
    let report = story
        .verify_part(3, &[story.claim(3), story.claim(0)])
        .expect("nothing retained");
    assert_eq!((report.events, report.first_sequence, report.last_sequence), (0, 4, 3));
    assert_eq!((report.signed_through, report.digest), (3, story.digests[3]));
    assert_eq!(
        broken(story.verify_part(3, &[story.claim(2)])),
        (BrokenKind::Receipt, 2)
    );
}

#[test]
fn a_fork_begins_at_the_digest_its_spawn_names() {
    let (a, _, _) = nodes();
    let parent = keypair(7);
    let (record, _) = fork_entity(&parent, &keypair(0x42), 12, &Digest::from_bytes([9; 32]), None).expect("full pairs");
    let lineage = record.lineage();
    let mut story = Story::spawned_with(&a, |child| CausalChainBuilder::with_lineage(child, &lineage));
    story.emit_each(b"abc").checkpoint(1, &a);
    assert_eq!(story.verify().map(|report| report.events), Ok(3));
    // The same events under a spawn that denies the descent.
    let statement = Statement {
        entity: story.id(),
        epoch: 1,
        node: a.entity_id(),
        from_sequence: 0,
        digest: CausalChainBuilder::new(story.id()).digest(),
        reason: Reason::Spawn,
    };
    story.certificates[0] = Certificate::sign(statement, &story.entity).expect("a full pair");
    assert_eq!(broken(story.verify()), (BrokenKind::Altered, 1));
}

#[test]
fn an_event_after_the_last_number_is_refused() {
    let (a, _, _) = nodes();
    let mut story = Story::spawned(&a);
    let id = story.id();
    let head = meshos_core::link::CausalLink {
        sequence: u64::MAX - 1,
        ..story.chain.head()
    };
    story.chain = CausalChainBuilder::from_head(id, head, Digest::ZERO).expect("own head");
    story.emit(b"last");
    let statement = Statement {
        entity: id,
        epoch: 2,
        node: a.entity_id(),
        from_sequence: u64::MAX - 1,
        digest: Digest::ZERO,
        reason: Reason::Move,
    };
    story
        .certificates
        .push(Certificate::sign(statement, &a).expect("a full pair"));
    let report = story.verify().expect("the last number is a number");
    assert_eq!((report.first_sequence, report.last_sequence), (u64::MAX, u64::MAX));
    let again = story.events[0].clone();
    story.events.push(again);
    assert_eq!(story.verify(), Err(ChainError::Exhausted { origin: story.origin() }));
}
