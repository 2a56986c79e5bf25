//! What is published on a channel of another node.

use super::{Nonce, PAYLOAD_BYTES_MAX, REASONS, Reason, option, put_token, read_id, read_token};
use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::id::EntityId;
use crate::identity::{self, IdentityError, Keypair};
use crate::name::ChannelName;

const DOMAIN: &[u8] = b"meshos 2026 publication v1\0";

/// Why something was not published on a channel of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unpublished {
    /// As for a subscriber: no token that permits it, too many channels, the channel was closed.
    Refused(Reason),
    /// It has more bytes than the channel allows.
    TooLarge,
    /// It comes so late that what became of it is not remembered. It was published before, or never will be.
    Forgotten,
}

impl Unpublished {
    pub(super) fn put(self, out: &mut Vec<u8>) {
        match self {
            Self::Refused(reason) => super::put_reason(out, reason),
            Self::TooLarge => out.put_u8(5),
            Self::Forgotten => out.put_u8(6),
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = reader.clone();
        match reader.u8()? {
            5 => Ok(Self::TooLarge),
            6 => Ok(Self::Forgotten),
            number => {
                let known = REASONS.iter().find(|(known, _)| *known == number);
                known
                    .map(|(_, reason)| Self::Refused(*reason))
                    .ok_or_else(|| at.fault(Fault::Invalid { field: "reason" }))
            }
        }
    }
}

/// A request to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Its answer has the same. Of one sending node they rise: see [`remote_publish`](crate::remote_publish).
    pub nonce: Nonce,
    /// Where.
    pub channel: ChannelName,
    /// Who publishes: a daemon of the sending node, or that node.
    pub publisher: EntityId,
    /// What permits it, as bytes; empty: nothing.
    pub token: Vec<u8>,
    /// Signature of the publisher.
    pub proof: Option<[u8; 64]>,
    /// What is published.
    pub payload: &'a [u8],
}

impl<'a> Publish<'a> {
    /// Signs the request as the publisher, from a node to the owner of the channel.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`] without the secret half.
    pub fn sign(&mut self, publisher: &Keypair, node: &EntityId, owner: &EntityId) -> Result<(), IdentityError> {
        self.proof = Some(publisher.sign(&self.signed_message(node, owner))?);
        Ok(())
    }

    /// Whether the publisher signed it, from this node to this owner.
    #[must_use]
    pub fn is_proven(&self, node: &EntityId, owner: &EntityId) -> bool {
        self.proof.is_some_and(|proof| {
            let message = self.signed_message(node, owner);
            identity::verify(&self.publisher, &message, &proof).is_ok()
        })
    }

    /// Everything but the signature, which is neither in it nor left a place for.
    fn signed_message(&self, node: &EntityId, owner: &EntityId) -> Vec<u8> {
        let mut message = [DOMAIN, owner.as_bytes(), node.as_bytes()].concat();
        self.put_head(&mut message);
        self.put_payload(&mut message);
        message
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        self.put_head(out);
        out.put_u8(u8::from(self.proof.is_some()));
        out.put(self.proof.as_ref().map_or(&[], |proof| proof));
        self.put_payload(out);
    }

    fn put_head(&self, out: &mut Vec<u8>) {
        out.put(&self.nonce);
        self.channel.put(out);
        out.put(self.publisher.as_bytes());
        put_token(out, &self.token);
    }

    fn put_payload(&self, out: &mut Vec<u8>) {
        out.put_count_u32(self.payload.len());
        out.put(self.payload);
    }

    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let (nonce, channel, publisher) = (reader.array()?, ChannelName::read(reader)?, read_id(reader)?);
        let token = read_token(reader)?;
        let proof = option(reader, Reader::array)?;
        let length = reader.count_below(1, PAYLOAD_BYTES_MAX)?;
        Ok(Self {
            nonce,
            channel,
            publisher,
            token,
            proof,
            payload: reader.take(length)?,
        })
    }
}
