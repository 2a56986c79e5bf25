//! Which commands a node obeys.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::authority::Policy;
use meshos_core::envelope::cluster_hash;
use meshos_node::clock;
use meshos_node::verifier::Verifier;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::envelope::{PyAdminEnvelope, PyIceEnvelope, cluster_id as read_cluster_id};
use super::registry::PyOperatorRegistry;
use crate::args;
use crate::errors;
use crate::guard::{Born, entry};
use crate::record::field::{Field, Given};
use crate::record::moment::Moment;
use crate::record::options;

const SECOND: Duration = Duration::from_secs(1);

/// Decides which commands a node obeys. One a node; keeps cooldowns and used envelope ids, also over restarts.
#[pyclass(frozen, name = "AdminVerifier", module = "meshos.operator")]
pub struct PyAdminVerifier {
    /// What the loops of the node ask.
    pub verifier: Arc<Verifier>,
    cluster_id: Vec<u8>,
    born: Born,
}

impl PyAdminVerifier {
    /// Refuses use in a forked child.
    pub fn check(&self) -> PyResult<()> {
        self.born.check("AdminVerifier")
    }
}

#[pymethods]
impl PyAdminVerifier {
    #[new]
    #[pyo3(
        signature = (
            operators, *, cluster_id, ice_threshold = Given::Not, freshness_window = Given::Not,
            future_skew = Given::Not, ice_cooldown = Given::Not
        ),
        text_signature = "(operators, *, cluster_id, ice_threshold=2, \
            freshness_window=datetime.timedelta(seconds=300), future_skew=datetime.timedelta(seconds=30), \
            ice_cooldown=datetime.timedelta(seconds=300))"
    )]
    fn new(
        operators: &Bound<'_, PyAny>,
        cluster_id: &Bound<'_, PyAny>,
        ice_threshold: Given<'_>,
        freshness_window: Given<'_>,
        future_skew: Given<'_>,
        ice_cooldown: Given<'_>,
    ) -> PyResult<Self> {
        entry("AdminVerifier", || {
            let py = operators.py();
            let operators = args::instance::<PyOperatorRegistry>(operators, "operators", "an OperatorRegistry")?.get();
            operators.check()?;
            let cluster_id = read_cluster_id(cluster_id).map_err(|error| options::as_config_error(error, py))?;
            let mut threshold = 2_u64;
            let mut policy = Policy {
                cluster: cluster_hash(&cluster_id),
                ice_threshold: 0,
                freshness: 300 * SECOND,
                future_skew: 30 * SECOND,
                cooldown: 300 * SECOND,
            };
            options::set::<u64, _>(&mut threshold, &ice_threshold, "ice_threshold")?;
            options::set::<Duration, _>(&mut policy.freshness, &freshness_window, "freshness_window")?;
            options::set::<Duration, _>(&mut policy.future_skew, &future_skew, "future_skew")?;
            options::set::<Duration, _>(&mut policy.cooldown, &ice_cooldown, "ice_cooldown")?;
            // What no byte holds is out of range like 0.
            policy.ice_threshold = u8::try_from(threshold).unwrap_or(0);
            let shared = Arc::clone(&operators.operators);
            let verifier = py.detach(|| Verifier::new(policy, shared));
            Ok(Self {
                verifier: Arc::new(verifier.map_err(|error| errors::config(&error))?),
                cluster_id,
                born: Born::now(),
            })
        })
    }

    /// The cluster whose envelopes are accepted.
    #[getter]
    #[pyo3(name = "cluster_id")]
    fn py_cluster_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.cluster_id)
    }

    /// Distinct operators that must sign a break-glass action.
    #[getter]
    fn ice_threshold(&self) -> u8 {
        self.verifier.policy().ice_threshold
    }

    /// Oldest envelope that is accepted.
    #[getter]
    fn freshness_window<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.verifier.policy().freshness.to_python(py)
    }

    /// How far ahead of the clock an envelope may be.
    #[getter]
    fn future_skew<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.verifier.policy().future_skew.to_python(py)
    }

    /// How long the target of a break-glass action is left alone.
    #[getter]
    fn ice_cooldown<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.verifier.policy().cooldown.to_python(py)
    }

    /// Check without any effect, not even on cooldowns.
    #[pyo3(signature = (envelope, *, now = None))]
    fn verify(&self, envelope: &Bound<'_, PyAny>, now: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        entry("AdminVerifier.verify", || {
            self.check()?;
            let py = envelope.py();
            let now = now.filter(|now| !now.is_none());
            let now = now.map(|now| Moment::from_python(now, "now")).transpose()?;
            let now = now.map_or_else(clock::unix_ms, Moment::unix_ms);
            let verifier = &self.verifier;
            let refused = if let Ok(ice) = envelope.cast::<PyIceEnvelope>() {
                let ice = Arc::clone(&ice.get().0);
                py.detach(|| verifier.would_obey_ice(&ice, now)).err()
            } else if let Ok(admin) = envelope.cast::<PyAdminEnvelope>() {
                let admin = Arc::clone(&admin.get().0);
                py.detach(|| verifier.would_obey_admin(&admin, now)).err()
            } else {
                return Err(args::wrong_type(
                    "envelope",
                    "an IceEnvelope or an AdminEnvelope",
                    envelope,
                ));
            };
            refused.map_or(Ok(()), |refused| Err(errors::refused(py, &refused, None)))
        })
    }

    fn __repr__(&self) -> String {
        let cluster = self.cluster_id.escape_ascii();
        let threshold = self.verifier.policy().ice_threshold;
        format!("<AdminVerifier of cluster {cluster}: threshold {threshold}>")
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyAdminVerifier>()
}
