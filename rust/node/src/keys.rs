//! Keys from the operating system's randomness.

use meshos_core::identity::Keypair;
use zeroize::Zeroizing;

/// Makes a fresh key.
///
/// When the operating system has no randomness to give, the process is aborted: it neither goes on with a weak key nor
/// unwinds through a foreign frame.
#[must_use]
pub fn generate() -> Keypair {
    let mut seed = Zeroizing::new([0u8; 32]);
    if getrandom::fill(&mut seed[..]).is_err() {
        std::process::abort();
    }
    Keypair::from_seed(&seed)
}

/// Random bytes. As with keys, there is no weaker source.
#[must_use]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if getrandom::fill(&mut bytes).is_err() {
        std::process::abort();
    }
    bytes
}

/// A secret for one use, which is overwritten when dropped.
#[must_use]
pub fn ephemeral() -> Zeroizing<[u8; 32]> {
    Zeroizing::new(random_bytes())
}

/// A random number.
#[must_use]
pub fn random_u64() -> u64 {
    u64::from_le_bytes(random_bytes())
}
