//! Rows of one daemon: steps, outputs, snapshots.

use meshos_core::chain::CausalChainBuilder;
use meshos_core::codec::Fault;
use meshos_core::digest::Digest;
use meshos_core::id::{EntityId, Origin};
use meshos_core::journal::{Emitted, Mark, Outcome, Pending, SnapshotRow, Step, Steps};
use meshos_core::link::CausalLink;
use meshos_core::rows::{Table, Write, of_entity_key};
use meshos_core::testing::samples;
use meshos_core::time::UnixMs;
use proptest::prelude::*;

/// An input with the payloads that it causes.
pub type Input = (Vec<u8>, Vec<Vec<u8>>);

/// Link of the input of a number.
pub fn link(sequence: u64) -> CausalLink {
    CausalLink {
        origin: Origin::new(9),
        horizon: 1,
        sequence,
        parent: 2,
    }
}

pub fn entity() -> EntityId {
    samples::keypair(1).entity_id()
}

/// A chain with a journal beside it.
pub struct Keeper {
    pub chain: CausalChainBuilder,
    pub pending: Pending,
    inputs: u64,
}

impl Keeper {
    pub fn new() -> Self {
        let chain = CausalChainBuilder::new(entity());
        let mark = Mark::start(&entity(), 0, chain.digest());
        Self {
            pending: Pending::after(entity(), mark, 1),
            chain,
            inputs: 0,
        }
    }

    pub fn step(&mut self, (payload, outputs): &Input) {
        self.inputs += 1;
        for output in outputs {
            let link = self.chain.append(output, self.inputs).expect("there is room");
            self.pending.output(&link, output);
        }
        self.pending.step(&Step {
            outcome: Outcome::Processed,
            receipt: self.inputs.is_multiple_of(2),
            link: link(self.inputs),
            stream: self.inputs % 3,
            received_ns: self.inputs,
            payload,
            outputs: u32::try_from(outputs.len()).expect("few"),
            digest: self.chain.digest(),
        });
    }
}

pub fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let payload = || prop::collection::vec(any::<u8>(), 0..20);
    prop::collection::vec((payload(), prop::collection::vec(payload(), 0..3)), 1..12)
}

fn values(writes: &[Write], table: Table) -> Vec<(u64, Vec<u8>)> {
    let of_table = writes.iter().filter(|write| write.table == table);
    of_table
        .map(|write| {
            let (found, [number]) = of_entity_key(&write.key).expect("entity and number");
            assert_eq!(found, entity());
            (number, write.value.clone().expect("it is put"))
        })
        .collect()
}

/// The rows of steps of these inputs, `rows` inputs each.
pub fn rows(inputs: &[Input], each: usize) -> Vec<(u64, Vec<u8>)> {
    let mut keeper = Keeper::new();
    let mut rows = Vec::new();
    for part in inputs.chunks(each.max(1)) {
        part.iter().for_each(|input| keeper.step(input));
        rows.extend(values(&keeper.pending.take(), Table::Journal));
    }
    rows
}

#[test]
fn nothing_is_taken_of_nothing() {
    let mut keeper = Keeper::new();
    assert!(keeper.pending.is_empty());
    assert_eq!(keeper.pending.take(), []);
    keeper.pending.also(Write::remove(Table::Node, vec![1]));
    assert!(!keeper.pending.is_empty());
    assert_eq!(keeper.pending.take(), [Write::remove(Table::Node, vec![1])]);
    assert_eq!(keeper.pending.mark().step, 0);
}

#[test]
fn an_event_that_was_passed_over_is_a_step_without_outputs() {
    let mut keeper = Keeper::new();
    let before = *keeper.pending.mark();
    let step = Step {
        outcome: Outcome::PassedOver,
        receipt: false,
        link: link(4),
        stream: 0,
        received_ns: 5,
        payload: b"poison",
        outputs: 0,
        digest: before.digest,
    };
    keeper.pending.step(&step);
    let writes = keeper.pending.take();
    let rows = values(&writes, Table::Journal);
    let steps = Steps::decode(&rows[0].1).expect("as written");
    assert_eq!((steps.steps, steps.after.sequence, writes.len()), (vec![step], 0, 1));
}

#[test]
#[should_panic(expected = "outputs are added before their step")]
fn outputs_without_their_step_are_a_bug() {
    let mut keeper = Keeper::new();
    keeper.pending.output(&link(1), b"x");
    let digest = keeper.pending.mark().digest;
    keeper.pending.step(&Step {
        outcome: Outcome::Processed,
        receipt: false,
        link: link(1),
        stream: 0,
        received_ns: 0,
        payload: b"",
        outputs: 0,
        digest,
    });
}

#[test]
fn a_snapshot_row_has_one_encoding_and_every_flipped_bit_is_found() {
    let row = samples::snapshot_row();
    let bytes = row.to_bytes();
    assert_eq!((bytes.len(), SnapshotRow::decode(&bytes)), (SnapshotRow::SIZE, Ok(row)));
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert!(SnapshotRow::decode(&flipped).is_err(), "byte {at}");
        assert!(SnapshotRow::decode(&bytes[..at]).is_err(), "{at} bytes");
    }
    assert_eq!(row.taken_at, UnixMs::new(7));
}

proptest! {
    #[test]
    fn what_was_done_is_read_back(inputs in inputs(), each in 1usize..6) {
        let mut keeper = Keeper::new();
        let mut mark = *keeper.pending.mark();
        let mut number = 0;
        for part in inputs.chunks(each) {
            let sequence = keeper.chain.sequence();
            part.iter().for_each(|input| keeper.step(input));
            let writes = keeper.pending.take();
            let steps_rows = values(&writes, Table::Journal);
            prop_assert_eq!(steps_rows.len(), 1);
            let steps = Steps::decode(&steps_rows[0].1).expect("as written");
            prop_assert_eq!((steps.first, steps_rows[0].0, steps.before), (mark.step + 1, mark.step + 1, mark));
            mark = steps.after;
            prop_assert_eq!(&mark, keeper.pending.mark());
            prop_assert_eq!((mark.sequence, mark.digest), (keeper.chain.sequence(), keeper.chain.digest()));
            for (step, (payload, outputs)) in steps.steps.iter().zip(part) {
                number += 1;
                prop_assert_eq!((step.payload, step.outputs as usize), (payload.as_slice(), outputs.len()));
                prop_assert_eq!((step.link, step.received_ns, step.receipt), (link(number), number, number % 2 == 0));
            }
            let emitted: Vec<_> = part.iter().flat_map(|(_, outputs)| outputs).collect();
            let rows = values(&writes, Table::Outputs);
            prop_assert_eq!(rows.len(), usize::from(!emitted.is_empty()));
            for (first, bytes) in rows {
                let read = Emitted::decode(entity().origin(), &bytes).expect("as written");
                prop_assert_eq!((first, read.after), (sequence + 1, mark.digest));
                let payloads: Vec<_> = read.outputs.iter().map(|(_, payload)| *payload).collect();
                prop_assert_eq!(&payloads, &emitted);
                prop_assert_eq!(read.outputs.last().expect("not empty").0.sequence, mark.sequence);
            }
        }
    }

    #[test]
    fn no_flipped_bit_and_no_beginning_of_a_row_is_accepted(inputs in inputs(), at in any::<prop::sample::Index>()) {
        let mut keeper = Keeper::new();
        inputs.iter().for_each(|input| keeper.step(input));
        let writes = keeper.pending.take();
        for write in &writes {
            let bytes = write.value.clone().expect("it is put");
            let place = at.index(bytes.len());
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << (place % 8);
            for bad in [&flipped[..], &bytes[..place]] {
                match write.table {
                    Table::Journal => prop_assert!(Steps::decode(bad).is_err()),
                    _ => prop_assert!(Emitted::decode(entity().origin(), bad).is_err()),
                }
            }
        }
    }
}

#[test]
fn a_newer_version_is_told_from_damage() {
    let mut row = rows(&[(vec![1], vec![])], 1).remove(0).1;
    row[0] = 2;
    let error = Steps::decode(&row).expect_err("a newer version");
    assert_eq!(error.fault, Fault::NewerVersion { found: 2, known: 1 });
    assert_ne!(Mark::start(&entity(), 0, Digest::ZERO).binding, Digest::ZERO);
}
