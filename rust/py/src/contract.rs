//! What a daemon class promises, asked of `meshos._contract` once a class.

use std::sync::Arc;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// What a class promises.
#[derive(Debug)]
pub struct Contract {
    /// Label for people.
    pub name: Arc<str>,
    /// Version of the state's format.
    pub schema: u32,
    /// `snapshot` and `restore` are overridden.
    pub stateful: bool,
    /// `health` is overridden.
    pub reports_health: bool,
    /// `saturation` is overridden.
    pub reports_saturation: bool,
    /// `on_control` is overridden.
    pub takes_control: bool,
    /// `process` is a coroutine function or an asynchronous generator.
    pub asynchronous: bool,
    /// Address of the class: a subclass inherits the attribute that holds its parent's contract.
    class: usize,
}

/// Holds a contract in an attribute of its class, so that it lives as long as the class.
#[pyclass(frozen, name = "_Contract", module = "meshos._core")]
pub struct PyContract(Arc<Contract>);

static CONTRACT_OF: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

impl Contract {
    /// Returns the contract of a class; raises `InvalidDaemon` when it does not keep one.
    pub fn of(class: &Bound<'_, PyType>) -> PyResult<Arc<Self>> {
        let py = class.py();
        let attribute = intern!(py, "__meshos_contract__");
        if let Ok(held) = class.getattr(attribute)
            && let Ok(held) = held.cast::<PyContract>()
            && held.get().0.class == class.as_ptr() as usize
        {
            return Ok(Arc::clone(&held.get().0));
        }
        let contract_of = CONTRACT_OF.import(py, "meshos._contract", "contract_of")?;
        let made = contract_of.call1((class,))?;
        let contract = Arc::new(Self {
            name: Arc::from(made.getattr(intern!(py, "name"))?.extract::<String>()?),
            schema: made.getattr(intern!(py, "schema"))?.extract()?,
            stateful: made.getattr(intern!(py, "stateful"))?.extract()?,
            reports_health: made.getattr(intern!(py, "reports_health"))?.extract()?,
            reports_saturation: made.getattr(intern!(py, "reports_saturation"))?.extract()?,
            takes_control: made.getattr(intern!(py, "takes_control"))?.extract()?,
            asynchronous: made.getattr(intern!(py, "asynchronous"))?.extract()?,
            class: class.as_ptr() as usize,
        });
        // A class that refuses attributes is asked again each time.
        let _ = class.setattr(attribute, PyContract(Arc::clone(&contract)));
        Ok(contract)
    }
}
