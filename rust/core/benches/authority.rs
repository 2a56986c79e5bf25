//! What it costs to decide whether a command is obeyed.
//!
//! Every figure is a line `authority: NAME VALUE UNIT BAR ok|short`: the median of [`RUNS`] runs, with the runs above it.
//! A figure without a bar has a dash there. `cargo bench -p meshos-core --features testing --bench authority`.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "it measures, and reports"
)]

use std::hint::black_box;
use std::time::Instant;

use meshos_core::authority::{Ledger, Operator, Operators, Role, USED_MAX, check_admin, check_ice};
use meshos_core::blast::BlastRadius;
use meshos_core::envelope::{AdminEnvelope, IceEnvelope};
use meshos_core::id::NodeId;
use meshos_core::identity::verify;
use meshos_core::testing::envelopes::{self, ISSUED, policy, signed};
use meshos_core::testing::samples::keypair;

/// Runs of one figure.
const RUNS: usize = 5;
/// Calls of one run.
const CALLS: u32 = 2_000;

fn per_call(mut call: impl FnMut()) -> f64 {
    let began = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    began.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS)
}

/// So many operators that may sign break-glass actions, and the two of the samples.
fn operators(more: u8) -> Operators {
    let mut operators = envelopes::operators();
    for seed in 10..10 + more {
        let operator = Operator {
            key: keypair(seed).entity_id(),
            name: format!("operator-{seed}"),
            roles: [Role::Ice].into(),
            not_before: None,
            not_after: None,
            revoked: false,
        };
        operators.add(operator).expect("another key");
    }
    operators
}

/// An action of a bundle, over a cluster of a thousand nodes.
fn bundle(signers: u8) -> IceEnvelope {
    let mut envelope = envelopes::ice();
    envelope.blast.nodes = (1..=1000).map(NodeId::new).collect();
    let bytes = envelope.signing_bytes();
    envelope.signatures = (10..10 + signers).map(|seed| signed(seed, &bytes)).collect();
    envelope
}

fn admin() -> f64 {
    let (operators, policy, bytes) = (operators(0), policy(), envelopes::admin().to_bytes());
    per_call(|| {
        let envelope = AdminEnvelope::decode(black_box(&bytes)).expect("good bytes");
        check_admin(&envelope, &operators, &policy, ISSUED).expect("a good signature");
    })
}

fn ice(signers: u8) -> f64 {
    let (operators, policy, bytes) = (operators(signers), policy(), bundle(signers).to_bytes());
    per_call(|| {
        let envelope = IceEnvelope::decode(black_box(&bytes)).expect("good bytes");
        check_ice(&envelope, &operators, &policy, ISSUED).expect("good signatures");
    })
}

fn forged() -> f64 {
    let (operators, policy) = (operators(0), policy());
    let mut envelope = envelopes::admin();
    envelope.signature.as_mut().expect("signed").signature[40] ^= 1;
    let bytes = envelope.to_bytes();
    per_call(|| {
        let envelope = AdminEnvelope::decode(black_box(&bytes)).expect("good bytes");
        check_admin(&envelope, &operators, &policy, ISSUED).expect_err("a forged signature");
    })
}

fn signature() -> f64 {
    let message = envelopes::admin().signing_bytes();
    let signature = signed(1, &message);
    per_call(|| verify(&signature.public_key, black_box(&message), &signature.signature).expect("a good signature"))
}

fn stranger() -> f64 {
    let (policy, bytes) = (policy(), envelopes::admin().to_bytes());
    let nobody = Operators::default();
    per_call(|| {
        let envelope = AdminEnvelope::decode(black_box(&bytes)).expect("good bytes");
        check_admin(&envelope, &nobody, &policy, ISSUED).expect_err("nobody is known");
    })
}

fn ledger() -> f64 {
    let policy = policy();
    let mut ledger = Ledger::default();
    let id = |number: usize| u128::try_from(number).expect("small").to_be_bytes();
    (0..USED_MAX - CALLS as usize).for_each(|number| ledger.record(id(number), ISSUED));
    let mut next = USED_MAX;
    per_call(|| {
        next += 1;
        ledger
            .obey(id(next), ISSUED, None, &policy, ISSUED)
            .expect("there is space");
    })
}

fn preview() -> f64 {
    let bytes = bundle(0).blast.to_bytes();
    per_call(|| drop(black_box(BlastRadius::decode(black_box(&bytes)))))
}

fn report(name: &str, bar: Option<f64>, run: &dyn Fn() -> f64) {
    let mut runs: Vec<f64> = (0..RUNS).map(|_| run()).collect();
    runs.sort_unstable_by(f64::total_cmp);
    let value = runs[RUNS / 2];
    let spread: Vec<String> = runs.iter().map(|run| format!("{run:.1}")).collect();
    let shown = bar.map_or("-".to_owned(), |bar| bar.to_string());
    let met = if bar.is_none_or(|bar| value <= bar) {
        "ok"
    } else {
        "short"
    };
    println!("{name}: {} us", spread.join(" "));
    println!("authority: {name} {value:.1} us {shown} {met}");
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    type Figure = (&'static str, Option<f64>, fn() -> f64);
    let figures: [Figure; 8] = [
        ("signature_alone", None, signature),
        ("verify_command", Some(150.0), admin),
        ("verify_bundle_5", Some(400.0), || ice(5)),
        ("verify_bundle_64", None, || ice(64)),
        ("refuse_forged", None, forged),
        ("refuse_stranger", None, stranger),
        ("obey_once_full_ledger", None, ledger),
        ("read_preview_1000", None, preview),
    ];
    for (name, bar, run) in figures {
        if wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            report(name, bar, &run);
        }
    }
}
