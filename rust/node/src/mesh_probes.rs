//! The peers of a mesh, as the probes of a behaviour loop.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use meshos_core::capability::CapabilitySet;
use meshos_core::id::NodeId;
use meshos_core::peer::{NodeHealth, PeerInventory, Samples};
use meshos_core::presence::PeerState;

use crate::callback::CallFailed;
use crate::mesh::{Mesh, PeerView};
use crate::probes::{Probe, ProbeKind};
use crate::sync::Mutex;

/// What a node offers, and its tags as the loop takes them.
type Tags = (Arc<CapabilitySet>, Arc<BTreeSet<String>>);

/// One sort of samples of the peers of a mesh.
pub struct MeshProbe {
    mesh: Mesh,
    kind: ProbeKind,
    /// The tags of each peer: they rarely change, and a sample shares them.
    tags: Mutex<HashMap<NodeId, Tags>>,
}

impl MeshProbe {
    /// All probes of a mesh.
    #[must_use]
    pub fn all(mesh: &Mesh) -> [Arc<dyn Probe>; 3] {
        [ProbeKind::Locality, ProbeKind::Health, ProbeKind::Inventory].map(|kind| {
            let (mesh, tags) = (mesh.clone(), Mutex::default());
            Arc::new(Self { mesh, kind, tags }) as Arc<dyn Probe>
        })
    }

    fn inventory(&self, peer: &PeerView, before: &HashMap<NodeId, Tags>) -> (PeerInventory, Tags) {
        let said = &peer.beat.heartbeat;
        let known = before.get(&peer.node).filter(|(known, _)| *known == said.capabilities);
        let tags = known.cloned().unwrap_or_else(|| {
            let tags = said.capabilities.tags().map(str::to_owned).collect();
            (Arc::clone(&said.capabilities), Arc::new(tags))
        });
        let inventory = PeerInventory {
            cpu_load_1m: said.load.cpu_load_1m,
            mem_used_bytes: said.load.mem_used_bytes,
            mem_total_bytes: said.load.mem_total_bytes,
            capability_set: Some(Arc::clone(&tags.1)),
            software_version: Some(Arc::clone(&said.software)),
            ..PeerInventory::default()
        };
        (inventory, tags)
    }
}

impl Probe for MeshProbe {
    fn sample(&self) -> Result<Samples, CallFailed> {
        let peers = self.mesh.peers();
        Ok(match self.kind {
            ProbeKind::Locality => {
                Samples::Locality(peers.iter().filter_map(|peer| Some((peer.node, peer.rtt?))).collect())
            }
            ProbeKind::Health => {
                let health = |peer: &PeerView| match peer.state {
                    PeerState::Alive => NodeHealth::Healthy,
                    PeerState::Suspect => NodeHealth::Degraded,
                    PeerState::Dead => NodeHealth::Unreachable,
                };
                Samples::Health(peers.iter().map(|peer| (peer.node, health(peer))).collect())
            }
            ProbeKind::Inventory => {
                let mut tags = self.tags.lock();
                let (mut samples, mut kept) = (Vec::with_capacity(peers.len()), HashMap::new());
                for peer in peers.iter().filter(|peer| peer.state != PeerState::Dead) {
                    let (inventory, of_peer) = self.inventory(peer, &tags);
                    samples.push((peer.node, inventory));
                    kept.insert(peer.node, of_peer);
                }
                *tags = kept;
                Samples::Inventory(samples)
            }
        })
    }

    fn kind(&self) -> ProbeKind {
        self.kind
    }

    fn name(&self) -> &str {
        match self.kind {
            ProbeKind::Locality => "mesh locality",
            ProbeKind::Health => "mesh health",
            ProbeKind::Inventory => "mesh inventory",
        }
    }
}
