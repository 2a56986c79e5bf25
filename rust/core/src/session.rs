//! Keys that two nodes share while both run, and which numbers were taken under them.
//!
//! Each run of a node makes a fresh X25519 key, whose public half is in its signed heartbeats. Who heard the heartbeat of
//! another needs nothing else: there is no handshake. Of the node with the smaller id and the other:
//!
//! ```text
//! shared = X25519(secret of one, public of the other)
//! key    = derive_key("meshos 2026 session v1")(shared ‖ mesh 16 ‖ from 32 ‖ run u64 ‖ public 32 ‖ to 32 ‖ run u64 ‖ public 32)
//! ```
//! Each direction has its own key. The secret is in no store, and goes with the run.
//!
//! Invariants
//! * A key is of one run of each side: nothing that was sent to an earlier run is accepted by a later one.
//! * A number is taken once. One that is too far behind the newest to tell is refused.
//!
//! Source: RFC 7748, "Elliptic Curves for Security", section 6.1; RFC 6479, "IPsec Anti-Replay Algorithm without Bit
//! Shifting".

use std::fmt;

use curve25519_dalek::montgomery::MontgomeryPoint;
use zeroize::Zeroizing;

use crate::digest::{self, Context};
use crate::frame::{MeshId, Refusal};
use crate::id::EntityId;

/// Numbers behind the newest that are told apart.
pub const WINDOW: u64 = 1024;

/// The secret half of the key of one run. Never shown, and overwritten when dropped.
pub struct SessionSecret(Zeroizing<[u8; 32]>);

/// One side of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// Its node.
    pub node: EntityId,
    /// Its run.
    pub run: u64,
    /// Its public key of that run.
    pub public: [u8; 32],
}

/// The keys of one session.
pub struct SessionKeys {
    send: Zeroizing<[u8; 32]>,
    receive: Zeroizing<[u8; 32]>,
}

impl SessionSecret {
    /// Takes 32 random bytes.
    #[must_use]
    pub fn new(random: [u8; 32]) -> Self {
        Self(Zeroizing::new(random))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        MontgomeryPoint::mul_base_clamped(*self.0).to_bytes()
    }

    /// The keys with another node; `None` if its public key is none, since then everybody would know them.
    #[must_use]
    pub fn agree(&self, mesh: &MeshId, ours: &Side, theirs: &Side) -> Option<SessionKeys> {
        let shared = Zeroizing::new(MontgomeryPoint(theirs.public).mul_clamped(*self.0).to_bytes());
        if shared.iter().all(|byte| *byte == 0) {
            return None;
        }
        Some(SessionKeys {
            send: key(&shared, mesh, ours, theirs),
            receive: key(&shared, mesh, theirs, ours),
        })
    }
}

fn key(shared: &[u8; 32], mesh: &MeshId, from: &Side, to: &Side) -> Zeroizing<[u8; 32]> {
    let derived = digest::derive(
        Context::Session,
        &[
            shared,
            mesh.as_bytes(),
            from.node.as_bytes(),
            &from.run.to_le_bytes(),
            &from.public,
            to.node.as_bytes(),
            &to.run.to_le_bytes(),
            &to.public,
        ],
    );
    Zeroizing::new(*derived.as_bytes())
}

impl SessionKeys {
    /// The key of what this node sends.
    #[must_use]
    pub fn send(&self) -> &[u8; 32] {
        &self.send
    }

    /// The key of what the other node sends.
    #[must_use]
    pub fn receive(&self) -> &[u8; 32] {
        &self.receive
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSecret")
    }
}

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKeys")
    }
}

/// Which numbers of one sender were taken; frames may come late, twice and in any order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Window {
    newest: u64,
    seen: [u64; (WINDOW / 64) as usize],
}

impl Window {
    /// Takes a number, from 1 on.
    ///
    /// # Errors
    /// [`Refusal::Replayed`], [`Refusal::TooLate`]; it changes nothing then.
    pub fn take(&mut self, number: u64) -> Result<(), Refusal> {
        let behind = self.newest.saturating_sub(number);
        if number == 0 || behind >= WINDOW {
            return Err(Refusal::TooLate);
        }
        if number > self.newest {
            if number - self.newest >= WINDOW {
                self.seen = Default::default();
            } else {
                (self.newest + 1..=number).for_each(|passed| self.seen[word(passed)] &= !bit(passed));
            }
            self.newest = number;
        } else if self.seen[word(number)] & bit(number) != 0 {
            return Err(Refusal::Replayed);
        }
        self.seen[word(number)] |= bit(number);
        Ok(())
    }
}

const fn word(number: u64) -> usize {
    (number % WINDOW / 64) as usize
}

const fn bit(number: u64) -> u64 {
    1 << (number % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use crate::mix;

    fn side(byte: u8, run: u64) -> (SessionSecret, Side) {
        let secret = SessionSecret::new([byte; 32]);
        let public = secret.public();
        let node = EntityId::from_bytes([byte; 32]);
        (secret, Side { node, run, public })
    }

    #[test]
    fn both_sides_have_the_same_keys_crosswise_and_each_run_has_its_own() {
        let mesh = MeshId::of(b"one");
        let ((a, ours), (b, theirs)) = (side(1, 1), side(2, 1));
        let one = a.agree(&mesh, &ours, &theirs).expect("a key");
        let two = b.agree(&mesh, &theirs, &ours).expect("a key");
        assert_eq!(one.send(), two.receive());
        assert_eq!(one.receive(), two.send());
        assert_ne!(one.send(), one.receive());
        let later = Side { run: 2, ..theirs };
        assert_ne!(a.agree(&mesh, &ours, &later).expect("a key").send(), one.send());
        let elsewhere = MeshId::of(b"two");
        assert_ne!(a.agree(&elsewhere, &ours, &theirs).expect("a key").send(), one.send());
    }

    #[test]
    fn a_public_key_that_is_none_gives_no_keys() {
        let (a, ours) = side(1, 1);
        for public in [[0; 32], {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }] {
            let theirs = Side { public, ..ours };
            assert!(a.agree(&MeshId::of(b""), &ours, &theirs).is_none());
        }
    }

    #[test]
    fn x25519_is_that_of_the_rfc() {
        // RFC 7748, section 6.1.
        let hex = |text: &str| {
            let mut bytes = [0; 32];
            for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
                *byte = u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits");
            }
            bytes
        };
        let bob = SessionSecret::new(hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
        assert_eq!(
            bob.public(),
            hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
        );
        let alice = hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        let shared = MontgomeryPoint(alice).mul_clamped(*bob.0).to_bytes();
        assert_eq!(
            shared,
            hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
        );
    }

    #[test]
    fn a_window_takes_each_number_once_as_a_set_does() {
        for seed in 0..64 {
            let (mut window, mut taken, mut newest) = (Window::default(), BTreeSet::new(), 0_u64);
            for step in 0..4_000 {
                let chance = mix::pair(seed, step);
                let number = match chance % 16 {
                    0 => newest + chance / 16 % (2 * WINDOW),
                    1..6 => newest + 1 + chance / 16 % 3,
                    _ => newest.saturating_sub(chance / 16 % (WINDOW + 8)),
                };
                let wanted = if number == 0 || number + WINDOW <= newest {
                    Err(Refusal::TooLate)
                } else if taken.insert(number) {
                    newest = newest.max(number);
                    Ok(())
                } else {
                    Err(Refusal::Replayed)
                };
                assert_eq!(
                    window.take(number),
                    wanted,
                    "seed {seed}, step {step}, {number} of {newest}"
                );
            }
        }
    }

    #[test]
    fn the_last_numbers_there_are_are_taken() {
        let mut window = Window::default();
        assert_eq!(window.take(u64::MAX), Ok(()));
        assert_eq!(window.take(u64::MAX), Err(Refusal::Replayed));
        assert_eq!(window.take(u64::MAX - WINDOW + 1), Ok(()));
        assert_eq!(window.take(1), Err(Refusal::TooLate));
    }
}
