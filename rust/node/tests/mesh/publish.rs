//! Publishing on channels of other nodes: who may, once, and in time.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::channel_frame::{ChannelFrame, Publish, Reason, Unpublished};
use meshos_core::channel_policy::ChannelPolicy;
use meshos_core::frame::Kind;
use meshos_core::id::EntityId;
use meshos_core::name::ChannelName;
use meshos_core::parcel::Packer;
use meshos_core::remote_publish::nonce;
use meshos_core::revocation::Revocations;
use meshos_core::testing::samples::keypair;
use meshos_core::token::{PermissionToken, Right, Scope, Terms};
use meshos_node::carrier::Carrier;
use meshos_node::channel_stream::{Arrived, ChannelStream};
use meshos_node::channels::{Channels, RequestError};
use meshos_node::clock::Deadline;
use meshos_node::mesh::Mesh;

use crate::nodes::Cluster;

const PATIENCE: Duration = Duration::from_secs(20);

fn name() -> ChannelName {
    ChannelName::new("plant/orders").expect("a name")
}

fn pair() -> (Cluster, Channels, Channels) {
    let cluster = Cluster::of(2);
    cluster.all_alive();
    let channels = |mesh: &Mesh, byte| {
        Channels::new(
            Carrier::mesh(mesh.clone()),
            Arc::new(keypair(byte)),
            Revocations::default(),
        )
    };
    let (owner, other) = (channels(&cluster.nodes[0], 1), channels(&cluster.nodes[1], 2));
    (cluster, owner, other)
}

fn ask(from: &Channels, to: &Channels, token: &[u8], payload: &[u8]) -> Result<u64, RequestError> {
    let asked = from.publish_at(to.entity_id(), &name(), token.to_vec(), Arc::from(payload), PATIENCE)?;
    asked.wait(Deadline::after(PATIENCE), || false)
}

fn reader(of: &Channels) -> ChannelStream {
    let deadline = Deadline::after(PATIENCE);
    ChannelStream::open(of, of.entity_id(), &name(), Vec::new(), 64, deadline, &mut || false).expect("it is accepted")
}

/// Number, payload and emitter of the next event.
fn next(stream: &ChannelStream) -> (u64, Vec<u8>, Option<EntityId>) {
    let taken = stream
        .take(1, Deadline::after(PATIENCE), &mut || false)
        .expect("more is to come");
    match &taken[..] {
        [Arrived::Event(item)] => (item.sequence, item.payload.to_vec(), item.emitter),
        other => panic!("{other:?}"),
    }
}

fn token(issuer: &Channels, subject: EntityId, right: Right) -> PermissionToken {
    let terms = Terms {
        subject,
        scope: Scope::Channel(name()),
        rights: [right].into_iter().collect(),
        delegations: 0,
    };
    issuer.issue(terms, Duration::from_secs(60)).expect("it is issued")
}

fn unauthorized() -> Result<u64, RequestError> {
    Err(RequestError::Refused(Unpublished::Refused(Reason::Unauthorized)))
}

#[test]
fn what_another_node_publishes_is_numbered_by_the_owner_and_says_who_published_it() {
    let (_cluster, owner, other) = pair();
    let stream = reader(&owner);
    assert_eq!(owner.publish(&name(), Arc::from(&b"own"[..])), Ok(1));
    assert_eq!(ask(&other, &owner, b"", b"theirs"), Ok(2));
    assert_eq!(ask(&owner, &owner, b"", b"to oneself"), Ok(3));
    assert_eq!(next(&stream), (1, b"own".to_vec(), None));
    assert_eq!(next(&stream), (2, b"theirs".to_vec(), Some(other.entity_id())));
    assert_eq!(next(&stream), (3, b"to oneself".to_vec(), Some(owner.entity_id())));
}

#[test]
fn on_a_gated_channel_a_token_is_wanted_that_permits_to_publish() {
    let (_cluster, owner, other) = pair();
    let policy = ChannelPolicy {
        requires_token: true,
        ..ChannelPolicy::default()
    };
    owner.open(&name(), &policy).expect("it is opened");
    let own = other.entity_id();
    let bad = [
        token(&owner, own, Right::Subscribe),
        token(&owner, keypair(9).entity_id(), Right::Publish),
        token(&other, own, Right::Publish),
    ];
    assert_eq!(ask(&other, &owner, b"", b"no"), unauthorized());
    assert_eq!(ask(&other, &owner, b"rubbish", b"no"), unauthorized());
    for token in bad {
        assert_eq!(ask(&other, &owner, &token.to_bytes(), b"no"), unauthorized());
    }
    let good = token(&owner, own, Right::Publish).to_bytes();
    assert_eq!(ask(&other, &owner, &good, b"yes"), Ok(1));
    let revocation = owner.sign_revocation(own).expect("it can sign");
    owner.revoke(&revocation).expect("it fits");
    assert_eq!(ask(&other, &owner, &good, b"no"), unauthorized());
}

#[test]
fn a_request_that_is_repeated_or_altered_is_not_published_again() {
    let (cluster, owner, other) = pair();
    let stream = reader(&owner);
    let (to, from) = (owner.entity_id(), other.entity_id());
    let mut request = Publish {
        nonce: nonce(7, 1),
        channel: name(),
        publisher: from,
        token: Vec::new(),
        proof: None,
        payload: b"once",
    };
    request.sign(&keypair(2), &from, &to).expect("it can sign");
    let signed = request.clone();
    let altered = Publish {
        nonce: nonce(7, 2),
        payload: b"else",
        ..request
    };
    let mut parcel = Packer::new();
    for request in [&signed, &signed, &altered, &signed] {
        parcel.put(|out| out.extend(ChannelFrame::Publish(request.clone()).to_bytes()));
    }
    for _ in 0..3 {
        cluster.nodes[1]
            .post(&to, Kind::CHANNEL, parcel.body())
            .expect("it is sent");
    }
    assert_eq!(ask(&other, &owner, b"", b"after"), Ok(2));
    assert_eq!(next(&stream), (1, b"once".to_vec(), Some(from)));
    assert_eq!(next(&stream), (2, b"after".to_vec(), Some(from)));
}

#[test]
fn too_large_a_payload_is_refused_and_a_node_that_is_not_there_is_asked_in_vain() {
    let (cluster, owner, other) = pair();
    let policy = ChannelPolicy {
        payload_bytes_max: 10,
        ..ChannelPolicy::default()
    };
    owner.open(&name(), &policy).expect("it is opened");
    assert_eq!(ask(&other, &owner, b"", &[0; 10]), Ok(1));
    let refused = Err(RequestError::Refused(Unpublished::TooLarge));
    assert_eq!(ask(&other, &owner, b"", &[0; 11]), refused);
    cluster.nodes[0].close();
    let timeout = Duration::from_millis(100);
    let asked = other.publish_at(owner.entity_id(), &name(), Vec::new(), Arc::from(&b"x"[..]), timeout);
    let ended = asked.expect("it is taken").wait(Deadline::after(PATIENCE), || false);
    assert_eq!(ended, Err(RequestError::Unknown));
    let asked = other.publish_at(owner.entity_id(), &name(), Vec::new(), Arc::from(&b"x"[..]), PATIENCE);
    let asked = asked.expect("it is taken");
    assert_eq!(
        asked.wait(Deadline::after(PATIENCE), || true),
        Err(RequestError::Interrupted)
    );
    other.close();
    assert_eq!(
        asked.wait(Deadline::after(PATIENCE), || false),
        Err(RequestError::Closed)
    );
}
