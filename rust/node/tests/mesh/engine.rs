//! The local engine does what every engine must.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use meshos_core::engine::Engine;
use meshos_core::id::EntityId;
use meshos_core::testing::engines::{Lab, conforms};
use meshos_node::local_engine::LocalNetwork;

/// A fresh network for each part of the suite would do as well; the parts do not disturb each other in one.
struct Local(LocalNetwork);

impl Lab for Local {
    fn join(&mut self, node: EntityId) -> Arc<dyn Engine> {
        Arc::new(self.0.join(node))
    }

    fn until(&mut self, done: &mut dyn FnMut() -> bool) -> bool {
        // Nobody sends: it only lets a moment pass.
        let (_keep, moment) = channel::<()>();
        let end = Instant::now() + Duration::from_secs(20);
        while !done() {
            if Instant::now() > end {
                return false;
            }
            let _ = moment.recv_timeout(Duration::from_millis(1));
        }
        true
    }
}

#[test]
fn the_local_engine_conforms() {
    conforms(&mut Local(LocalNetwork::new()));
}
