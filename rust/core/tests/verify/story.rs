//! A chain with its signed records, made step by step.

use meshos_core::certificate::{Certificate, Reason, Statement};
use meshos_core::chain::{BrokenKind, CausalChainBuilder, ChainError};
use meshos_core::checkpoint::Checkpoint;
use meshos_core::digest::Digest;
use meshos_core::export::ChainExport;
use meshos_core::id::{EntityId, Origin};
use meshos_core::identity::Keypair;
use meshos_core::link::CausalLink;
use meshos_core::testing::samples::keypair;
use meshos_core::time::UnixMs;
use meshos_core::verify::{ChainReport, Claim, verify};

/// Everything that is known of one entity. Rolled back events are cut off; their digests stay reachable.
pub struct Story {
    pub entity: Keypair,
    pub chain: CausalChainBuilder,
    pub events: Vec<(CausalLink, Vec<u8>)>,
    /// Digest before event n+1, at index n.
    pub digests: Vec<Digest>,
    pub certificates: Vec<Certificate>,
    pub checkpoints: Vec<Checkpoint>,
}

impl Story {
    /// Spawned at `node`.
    pub fn spawned(node: &Keypair) -> Self {
        Self::spawned_with(node, CausalChainBuilder::new)
    }

    /// Spawned with a chain of its own beginning.
    pub fn spawned_with(node: &Keypair, chain: impl FnOnce(EntityId) -> CausalChainBuilder) -> Self {
        let entity = keypair(0x42);
        let chain = chain(entity.entity_id());
        let digests = vec![chain.digest()];
        let mut story = Self {
            entity,
            chain,
            events: Vec::new(),
            digests,
            certificates: Vec::new(),
            checkpoints: Vec::new(),
        };
        let signer = keypair(0x42);
        story.certify(1, node, 0, Reason::Spawn, &signer);
        story
    }

    pub fn id(&self) -> EntityId {
        self.entity.entity_id()
    }

    pub fn origin(&self) -> Origin {
        self.entity.origin()
    }

    /// Emits one event.
    pub fn emit(&mut self, payload: &[u8]) -> &mut Self {
        let link = self.chain.append(payload, self.events.len() as u64).expect("not full");
        self.events.push((link, payload.to_vec()));
        self.digests.push(self.chain.digest());
        self
    }

    /// Emits events of one byte each.
    pub fn emit_each(&mut self, payloads: &[u8]) -> &mut Self {
        for payload in payloads {
            self.emit(&[*payload]);
        }
        self
    }

    /// Goes back to `sequence`: what follows is emitted anew.
    pub fn go_back(&mut self, sequence: usize) -> &mut Self {
        self.events.truncate(sequence);
        self.digests.truncate(sequence + 1);
        let head = self
            .events
            .last()
            .map_or_else(|| CausalChainBuilder::new(self.id()).head(), |(link, _)| *link);
        self.chain = CausalChainBuilder::from_head(self.id(), head, self.digests[sequence]).expect("own head");
        self
    }

    /// Adds a certificate from `sequence`, where the chain is as it is now.
    pub fn certify(
        &mut self,
        epoch: u64,
        node: &Keypair,
        sequence: usize,
        reason: Reason,
        signer: &Keypair,
    ) -> &mut Self {
        let statement = Statement {
            entity: self.id(),
            epoch,
            node: node.entity_id(),
            from_sequence: sequence as u64,
            digest: self.digests[sequence],
            reason,
        };
        self.certificates
            .push(Certificate::sign(statement, signer).expect("a full pair"));
        self
    }

    /// Adds a checkpoint at the head.
    pub fn checkpoint(&mut self, epoch: u64, node: &Keypair) -> &mut Self {
        let sequence = self.events.len();
        self.checkpoint_of(epoch, sequence, self.digests[sequence], node)
    }

    /// Adds a checkpoint that says what it is told.
    pub fn checkpoint_of(&mut self, epoch: u64, sequence: usize, digest: Digest, node: &Keypair) -> &mut Self {
        let previous = self.checkpoints.last().map_or(Digest::ZERO, Checkpoint::digest_of);
        let at = UnixMs::new(self.checkpoints.len() as u64);
        let checkpoint = Checkpoint::sign(self.id(), epoch, sequence as u64, digest, at, previous, node);
        self.checkpoints.push(checkpoint.expect("a full pair"));
        self
    }

    pub fn views(&self) -> Vec<(CausalLink, &[u8])> {
        self.events
            .iter()
            .map(|(link, payload)| (*link, payload.as_slice()))
            .collect()
    }

    pub fn verify(&self) -> Result<ChainReport, ChainError> {
        self.verify_with(&[])
    }

    pub fn verify_with(&self, claims: &[Claim]) -> Result<ChainReport, ChainError> {
        self.verify_part(0, claims)
    }

    /// Verifies what follows the first `skipped` events.
    pub fn verify_part(&self, skipped: usize, claims: &[Claim]) -> Result<ChainReport, ChainError> {
        verify(
            &self.views()[skipped..],
            &self.checkpoints,
            &self.certificates,
            &self.id(),
            claims,
        )
    }

    pub fn claim(&self, sequence: usize) -> Claim {
        Claim {
            sequence: sequence as u64,
            digest: self.digests[sequence],
        }
    }

    pub fn export(&self) -> ChainExport<'_> {
        ChainExport {
            entity: self.id(),
            certificates: self.certificates.clone(),
            checkpoints: self.checkpoints.clone(),
            events: self.views(),
        }
    }
}

/// Kind and sequence of a broken chain.
pub fn broken<T: std::fmt::Debug>(result: Result<T, ChainError>) -> (BrokenKind, u64) {
    match result.expect_err("a broken chain was accepted") {
        ChainError::Broken { kind, sequence, .. } => (kind, sequence),
        other => panic!("not broken, but {other}"),
    }
}

/// What is wrong with a signed record.
pub fn bad_record<T: std::fmt::Debug>(result: Result<T, ChainError>) -> &'static str {
    match result.expect_err("a bad record was accepted") {
        ChainError::BadSignature { what, .. } => what,
        other => panic!("not a bad record, but {other}"),
    }
}
